package clientgov2

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// With CAIRN_REFERENCE, the folder of the reference's up.sh and down.sh, the tests run against the reference, to see that they say what it
// does, too. NAMESRV and BROKER_ADDR say where it listens (../reference.sh sets all of them). The tests of what only Cairn has are passed
// over there.
//
//	../reference.sh DIR 36000 go test -count=1 .
const referenceVariable = "CAIRN_REFERENCE"

// known says where the reference is meant to do otherwise than Cairn does: by test and part of it, what it does and why Cairn differs.
var known = map[string]string{
	"TestTransactionsWithADelay: delivered after its commit": "the delay is taken for that of the half message, which is discarded when it ends (the log: " +
		"[BUG] the real topic of schedule msg is RMQ_SYS_TRANS_HALF_TOPIC); what was acknowledged is not to be lost",
	"TestTransactions: no half message any more": "the property TRAN_MSG stays; who sends what was consumed on does not mean another transaction",
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

// with adds flags of Cairn and lines of the reference.
func (s settings) with(reference string, cairn ...string) settings {
	return settings{cairn: append(s.cairn[:len(s.cairn):len(s.cairn)], cairn...), reference: strings.TrimSpace(s.reference + "\n" + reference)}
}

// plain are the settings of tests that need none. A busy machine is no reason to refuse messages, as the reference does after 200 ms.
var plain = settings{reference: "waitTimeMillsInSendQueue=10000"}

var shortDelays = plain.with("messageDelayLevel=1s 4s", "--delay-levels", "1s 4s")

// shared is the reference that the last test ran against. It takes long to start, so that the next one takes it, too, when it wants the same
// settings.
var shared reference

type reference struct {
	at       cairn
	settings string
	up       bool
}

// stop ends the reference if it runs.
func (r *reference) stop() error {
	if !r.up {
		return nil
	}
	r.up = false
	if out, err := exec.Command(filepath.Join(os.Getenv(referenceVariable), "down.sh")).CombinedOutput(); err != nil {
		return fmt.Errorf("stop the reference: %w\n%s", err, out)
	}
	return nil
}

// start runs Cairn until the test ends, or in its place the reference.
func start(t *testing.T, s settings) cairn {
	t.Helper()
	scripts := os.Getenv(referenceVariable)
	if scripts == "" {
		return startCairn(t, s.cairn...)
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
	up := exec.Command(filepath.Join(scripts, "up.sh"), "file")
	up.Env = append(os.Environ(), "PROXY=none", "FRESH=1", "HEAP=1g", "EXTRA="+s.reference)
	if out, err := up.CombinedOutput(); err != nil {
		t.Fatalf("start the reference: %v\n%s", err, out)
	}
	shared.at = cairn{NameServer: addressOr("NAMESRV", "127.0.0.1:9876"), Remoting: addressOr("BROKER_ADDR", "127.0.0.1:10911")}
	shared.settings, shared.up = s.reference, true
	// its first answers take longer than the client waits
	waitFor(t, time.Minute, "the reference serves", func() bool { return tryCreateTopic(shared.at, "first", 1) == nil })
	return shared.at
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func addressOr(variable, usual string) string {
	if addr := os.Getenv(variable); addr != "" {
		return addr
	}
	return usual
}

// cairnOnly passes over a test where the reference runs.
func cairnOnly(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv(referenceVariable) != "" {
		t.Skip("Cairn only: " + reason)
	}
}
