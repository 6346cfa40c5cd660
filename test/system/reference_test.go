package system

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/test/place"
)

// With CAIRN_REFERENCE, the folder of the reference's up.sh and down.sh, the tests of the official client run against the reference, to see
// that they say what it does, too. NAMESRV, BROKER_ADDR and PROXY_ADDR say where it listens (../reference.sh sets all of them). The tests
// of what only Cairn has are passed over there.
//
//	test/reference.sh DIR 36000 go test -count=1 ./test/system
const referenceVariable = "CAIRN_REFERENCE"

// known says where the reference is meant to do otherwise than Cairn does: by test and part of it, what it does and why Cairn differs.
var known = map[string]string{
	"TestDelayedMessagesComeInDueOrder: in the order in which they are due": "timers are kept by the second, and come in any order within it; here they are kept by the millisecond",
	"TestTransactions: to commit again is no error":                         "the proxy forgets a transaction with its first end, and says INTERNAL_SERVER_ERROR from then on; here a client may ask again",
	"TestTransactions: an end that is not the first one is refused":         "the same, by which clients try again; here it is INVALID_TRANSACTION_ID",
}

// checked are the parts that check was called for.
var checked = map[string]bool{}

// check complains of the error of a part of a test, or at the reference, where it is known to differ, of its absence.
func check(t *testing.T, part string, err error) {
	t.Helper()
	part = t.Name() + ": " + part
	checked[part] = true
	reason, differs := known[part]
	switch differs = differs && os.Getenv(referenceVariable) != ""; {
	case differs && err == nil:
		t.Errorf("%s: the reference does as Cairn does: it is no known difference any more", part)
	case differs:
		t.Logf("%s: differs: %v (%s)", part, err, reason)
	case err != nil:
		t.Errorf("%s: %v", part, err)
	}
}

// settings are those of Cairn and those of the reference that mean the same.
type settings struct {
	cairn     []string // flags
	reference string   // lines of broker.conf
}

// plain are the settings of tests that need none; SQL92 and recalls are on in Cairn without being asked for.
var plain = settings{cairn: []string{"--segment-size", "64MiB"}, reference: "enablePropertyFilter=true\nrecallMessageEnable=true"}

// with adds flags of Cairn and lines of the reference.
func (s settings) with(reference string, cairn ...string) settings {
	return settings{cairn: append(s.cairn[:len(s.cairn):len(s.cairn)], cairn...), reference: strings.TrimSpace(s.reference + "\n" + reference)}
}

// shared is the reference that the last test ran against. It takes long to start, so that the next one takes it, too, when it wants the same
// settings.
var shared reference

type reference struct {
	at       place.Place
	settings string
	up       bool
}

// stop ends the reference if it runs.
func (r *reference) stop() error {
	if !r.up {
		return nil
	}
	r.up = false
	return place.Down(os.Getenv(referenceVariable))
}

// start runs Cairn until the test ends, or in its place the reference.
func start(t *testing.T, s settings) place.Place {
	t.Helper()
	scripts := os.Getenv(referenceVariable)
	if scripts == "" {
		return startCairn(t, s.cairn...).place()
	}
	t.Cleanup(func() {
		for part := range known {
			if test, _, _ := strings.Cut(part, ": "); test == t.Name() && !checked[part] && !t.Failed() {
				t.Errorf("the known difference %q was not looked at: remove it, or correct it", part)
			}
		}
	})
	if shared.up && shared.settings == s.reference {
		return shared.at
	}
	if err := shared.stop(); err != nil {
		t.Fatal(err)
	}
	at, err := place.Up(scripts, s.reference)
	if err != nil {
		t.Fatal(err)
	}
	shared.at, shared.settings, shared.up = at, s.reference, true
	await(t, at, "the broker to be registered", wire.GetBrokerClusterInfo, func(resp *wire.Command) bool {
		return bytes.Contains(resp.Body, []byte(strconv.Quote(at.Remoting)))
	})
	return at
}

// cairnOnly passes over a test where the reference runs.
func cairnOnly(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv(referenceVariable) != "" {
		t.Skip("Cairn only: " + reason)
	}
}

// createTopic makes a topic for messages of a kind, and waits until clients can find it: the official ones look whether a topic takes what
// they are to send, and the reference makes none on demand for them.
func createTopic(t *testing.T, at place.Place, topic, kind string, queues int) {
	t.Helper()
	run(t, "topic", "create", topic, "--queues", fmt.Sprint(queues), "--attribute", "+message.type="+kind, "-n", at.NameServer)
	await(t, at, "a route to "+topic, wire.GetRouteInfoByTopic, func(resp *wire.Command) bool { return resp.Code == wire.Success }, "topic", topic)
}

// await asks the name server until its answer is the one that is waited for.
func await(t *testing.T, at place.Place, what string, code int, enough func(*wire.Command) bool, fields ...string) {
	t.Helper()
	c := dial(t, at.NameServer, wire.ClientOptions{})
	defer c.Close()
	eventually(t, 30*time.Second, what, func() bool {
		req := wire.NewRequest(code)
		for pair := range slices.Chunk(fields, 2) {
			req.Fields.Add(pair[0], pair[1])
		}
		resp, err := c.Invoke(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Release()
		return enough(resp)
	})
}

// createGroup makes a consumer group: the reference makes none on demand over gRPC.
func createGroup(t *testing.T, at place.Place, group string) {
	t.Helper()
	run(t, "group", "create", group, "-n", at.NameServer)
}
