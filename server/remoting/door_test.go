package remoting

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/store"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envServe); dir != "" {
		if err := serveForBenchmark(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// rig is a door with a real broker behind it.
type rig struct {
	t      testing.TB
	broker *broker.Broker
	door   *Door
	addr   string
	ended  chan error
}

func newRig(t testing.TB, mode commitlog.Mode, opts Options, change func(*broker.Options)) *rig {
	t.Helper()
	bo := broker.Options{
		ClusterName: "DefaultCluster", BrokerName: "broker-a", Advertise: netip.MustParseAddrPort("127.0.0.1:10911"),
		AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop(),
	}
	if change != nil {
		change(&bo)
	}
	so := store.Options{FS: vfs.Default, Dir: t.TempDir(), SegmentSize: 64 << 20, CacheBytes: 32 << 20, Mode: mode, Logger: zerolog.Nop()}
	b, err := broker.Open(context.Background(), so, bo)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, broker: b, door: New(b, opts), addr: ln.Addr().String(), ended: make(chan error, 1)}
	go func() { r.ended <- r.door.Serve(ln) }()
	t.Cleanup(r.close)
	return r
}

func (r *rig) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := r.door.Close(ctx); err != nil {
		r.t.Errorf("close the door: %v", err)
	}
	if err := <-r.ended; err != nil {
		r.t.Errorf("serve: %v", err)
	}
	if err := r.broker.Close(); err != nil {
		r.t.Errorf("close the broker: %v", err)
	}
}

func (r *rig) dial(opts wire.ClientOptions) *wire.Client {
	r.t.Helper()
	c, err := wire.Dial(r.t.Context(), r.addr, opts)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(c.Close)
	return c
}

func invoke(t testing.TB, c *wire.Client, req *wire.Command) *wire.Command {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	resp, err := c.Invoke(ctx, req)
	if err != nil {
		t.Fatalf("code %d: %v", req.Code, err)
	}
	return resp
}

func request(code int, pairs ...string) *wire.Command {
	cmd := wire.NewRequest(code)
	for i := 0; i < len(pairs); i += 2 {
		cmd.Fields.Add(pairs[i], pairs[i+1])
	}
	return cmd
}

func sendRequest(topic, queue, text string) *wire.Command {
	cmd := request(wire.SendMessageV2, "a", "producers", "b", topic, "c", "TBW102", "d", "4", "e", queue, "f", "0", "g", "1795000000000",
		"h", "0", "i", "TAGS\x01a\x02", "j", "0", "k", "false", "m", "false")
	cmd.Body = []byte(text)
	return cmd
}

func pullRequest(group, topic, offset string, suspendMs string) *wire.Command {
	return request(wire.PullMessage, "consumerGroup", group, "topic", topic, "queueId", "0", "queueOffset", offset, "maxMsgNums", "32",
		"sysFlag", "6", "commitOffset", "0", "suspendTimeoutMillis", suspendMs, "subscription", "*", "subVersion", "0", "expressionType", "TAG")
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

func (r *rig) held() (n int) {
	for _, s := range r.door.sessions() {
		s.mu.Lock()
		n += len(s.mu.held)
		s.mu.Unlock()
	}
	return n
}

// A held pull is answered by the next message; it ends with its connection; Close lets it go empty-handed.
func TestHeldPulls(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	producer, consumer := r.dial(wire.ClientOptions{}), r.dial(wire.ClientOptions{})
	if resp := invoke(t, producer, sendRequest("held", "0", "one")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	type answer struct {
		resp *wire.Command
		err  error
	}
	pull := func(c *wire.Client, offset string) chan answer {
		ch := make(chan answer, 1)
		if err := c.InvokeAsync(pullRequest("g", "held", offset, "60000"), func(resp *wire.Command, err error) { ch <- answer{resp, err} }); err != nil {
			t.Fatal(err)
		}
		return ch
	}
	waiting := pull(consumer, "1")
	eventually(t, "held", func() bool { return r.held() == 1 })
	if resp := invoke(t, producer, sendRequest("held", "0", "two")); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	if a := <-waiting; a.err != nil || a.resp.Code != wire.Success || a.resp.Fields.Text("nextBeginOffset") != "2" || len(a.resp.Body) == 0 {
		t.Fatalf("%+v", a)
	}
	if n := r.held(); n != 0 {
		t.Fatalf("%d held", n)
	}

	waiting = pull(consumer, "2")
	eventually(t, "held", func() bool { return r.held() == 1 })
	consumer.Close()
	if a := <-waiting; a.err == nil {
		t.Fatal("answered over a closed connection")
	}
	eventually(t, "called off", func() bool { return len(r.door.sessions()) == 1 && r.held() == 0 })

	waiting = pull(producer, "2")
	eventually(t, "held", func() bool { return r.held() == 1 })
	go func() {
		if err := r.door.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}()
	if a := <-waiting; a.err != nil || a.resp.Code != wire.PullNotFound {
		t.Fatalf("%+v", a)
	}
	<-producer.Done()
}

// Codes of the tests' own, beyond any real one.
const (
	codeBlock = 1 << 30
	codePanic = codeBlock + iota
	codePanicInline
)

var blocked = make(chan chan struct{}, 16)

func init() {
	servePooled(codeBlock, "TEST_BLOCK", TierInternal, func(ctx context.Context, _ *Door, _ *session, _, _ *wire.Command) error {
		free := make(chan struct{})
		blocked <- free
		select {
		case <-free:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	servePooled(codePanic, "TEST_PANIC", TierInternal, func(context.Context, *Door, *session, *wire.Command, *wire.Command) error {
		panic("test")
	})
	serveInline(codePanicInline, "TEST_PANIC_INLINE", TierInternal, func(*Door, *session, *wire.Command) { panic("test") })
}

// What the workers cannot take is refused at once, while requests that need no worker go on.
func TestWorkersAreBounded(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{Workers: 1, Waiting: 1}, nil)
	c := r.dial(wire.ClientOptions{})
	codes := make(chan int, 3)
	ask := func() {
		if err := c.InvokeAsync(request(codeBlock), func(resp *wire.Command, err error) {
			if err != nil {
				t.Error(err)
				codes <- -1
				return
			}
			codes <- resp.Code
			resp.Release()
		}); err != nil {
			t.Fatal(err)
		}
	}
	ask()
	first := <-blocked
	ask()
	ask()
	if code := <-codes; code != wire.SystemBusy {
		t.Fatal(code)
	}
	if resp := invoke(t, c, sendRequest("busy", "0", "x")); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
	close(first)
	close(<-blocked)
	for range 2 {
		if code := <-codes; code != wire.Success {
			t.Fatal(code)
		}
	}
}

func TestSlowRequestsEnd(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{Timeout: 10 * time.Millisecond}, nil)
	resp := invoke(t, r.dial(wire.ClientOptions{}), request(codeBlock))
	<-blocked
	if resp.Code != wire.SystemBusy {
		t.Fatal(resp.Code, resp.Remark)
	}
}

// A handler that panics costs its request or its connection, not the broker.
func TestPanics(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	if resp := invoke(t, c, request(codePanic)); resp.Code != wire.SystemError {
		t.Fatal(resp.Code)
	}
	if _, err := c.Invoke(t.Context(), request(codePanicInline)); err == nil {
		t.Fatal("answered")
	}
	if resp := invoke(t, r.dial(wire.ClientOptions{}), sendRequest("after", "0", "x")); resp.Code != wire.Success {
		t.Fatal(resp.Code, resp.Remark)
	}
}

// The end of a connection takes its clients with it, and the rest of the group hears of it.
func TestMembersComeAndGo(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	told := make(chan string, 10)
	one := r.dial(wire.ClientOptions{Serve: func(_ *wire.Conn, cmd *wire.Command) {
		if cmd.Code == wire.NotifyConsumerIDsChanged && cmd.IsOneWay() {
			told <- cmd.Fields.Text("consumerGroup")
		}
		cmd.Release()
	}})
	two := r.dial(wire.ClientOptions{})
	beat := func(c *wire.Client, id string) *wire.Command {
		cmd := request(wire.HeartBeat)
		cmd.Body = []byte(`{"clientID":"` + id + `","producerDataSet":[{"groupName":"p"}],"consumerDataSet":[{"groupName":"members",` +
			`"consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_LAST_OFFSET",` +
			`"subscriptionDataSet":[{"topic":"t","subString":"*","subVersion":1,"codeSet":["5",7],"tagsSet":[]}]}]}`)
		return invoke(t, c, cmd)
	}
	if resp := beat(one, "one"); resp.Code != 0 || resp.Fields.Text("IS_SUPPORT_HEART_BEAT_V2") != "true" {
		t.Fatal(resp.Code, resp.Remark)
	}
	if g := <-told; g != "members" { // of its own joining
		t.Fatal(g)
	}
	if resp := beat(one, "one"); resp.Code != 0 { // nothing has changed: nothing to tell
		t.Fatal(resp.Code, resp.Remark)
	}
	if resp := beat(two, "two"); resp.Code != 0 {
		t.Fatal(resp.Code, resp.Remark)
	}
	if g := <-told; g != "members" {
		t.Fatal(g)
	}
	if len(told) != 0 {
		t.Fatal("told twice")
	}
	sub, ok := r.broker.Clients().Subscription("members", "t")
	if !ok || len(sub.Codes) != 2 || sub.Codes[0] != 5 {
		t.Fatalf("%+v %v", sub, ok)
	}
	list := invoke(t, one, request(wire.GetConsumerListByGroup, "consumerGroup", "members"))
	if s := string(list.Body); s != `{"consumerIdList":["one","two"]}` && s != `{"consumerIdList":["two","one"]}` {
		t.Fatal(s)
	}
	two.Close()
	if g := <-told; g != "members" {
		t.Fatal(g)
	}
	if ids := r.broker.Clients().ConsumerIDs("members"); len(ids) != 1 || ids[0] != "one" {
		t.Fatal(ids)
	}
	if resp := invoke(t, one, request(wire.UnregisterClient, "clientID", "one", "consumerGroup", "members", "producerGroup", "p")); resp.Code != 0 {
		t.Fatal(resp.Code)
	}
	if resp := invoke(t, one, request(wire.GetConsumerListByGroup, "consumerGroup", "members")); resp.Code != wire.SystemError {
		t.Fatal(resp.Code)
	}
	if p := r.broker.Clients().Producers("p"); len(p) != 0 {
		t.Fatal(p)
	}
}

// Short heartbeats stand for the last whole one of their connection; without one the client is asked for it.
func TestHeartbeatV2(t *testing.T) {
	r := newRig(t, commitlog.ModeOS, Options{}, nil)
	c := r.dial(wire.ClientOptions{})
	beat := func(rest string) string {
		cmd := request(wire.HeartBeat)
		cmd.Body = []byte(`{"clientID":"c","heartbeatFingerprint":77,` + rest + `}`)
		resp := invoke(t, c, cmd)
		if resp.Code != 0 {
			t.Fatal(resp.Code, resp.Remark)
		}
		return resp.Fields.Text("IS_SUB_CHANGE")
	}
	short := `"withoutSub":true,"consumerDataSet":[{"groupName":"v2"}]`
	if s := beat(short); s != "true" {
		t.Fatal(s)
	}
	if ids := r.broker.Clients().ConsumerIDs("v2"); len(ids) != 0 {
		t.Fatal(ids)
	}
	whole := `"consumerDataSet":[{"groupName":"v2","messageModel":"CLUSTERING","subscriptionDataSet":[{"topic":"t","subString":"a || b","subVersion":3}]}]`
	if s := beat(whole); s != "false" {
		t.Fatal(s)
	}
	if s := beat(short); s != "false" {
		t.Fatal(s)
	}
	if sub, ok := r.broker.Clients().Subscription("v2", "t"); !ok || sub.Expression != "a || b" || sub.Version != 3 {
		t.Fatalf("%+v %v", sub, ok)
	}
}

// Every refusal of the broker has a code that clients know.
func TestResponseCodes(t *testing.T) {
	for c := broker.CodeInternal; c <= broker.CodeConflict; c++ {
		if got := responseCode(c); (got == wire.SystemError) != (c == broker.CodeInternal) {
			t.Errorf("refusal %d becomes response code %d", c, got)
		}
	}
	d := &Door{log: zerolog.Nop()}
	req := request(1)
	for err, want := range map[error]int{
		errors.New("x"):                             wire.SystemError,
		context.DeadlineExceeded:                    wire.SystemBusy,
		context.Canceled:                            wire.ServiceNotAvailable,
		&wire.FieldError{Field: "f"}:                wire.SystemError,
		&broker.Error{Code: broker.CodeBusy}:        wire.SystemBusy,
		refuse(wire.QueryNotFound, "none of %d", 3): wire.QueryNotFound,
	} {
		if resp := d.errorReply(req, err); resp.Code != want {
			t.Errorf("%v becomes %d, want %d", err, resp.Code, want)
		}
	}
}

// The table tells of each code what the coverage page needs.
func TestCodes(t *testing.T) {
	last := -1
	for _, c := range Codes() {
		if c.Number <= last || c.Name == "" || c.Served == (c.Why != "") || (c.Tier != TierClient && c.Tier != TierAdmin && c.Tier != TierInternal) {
			t.Errorf("%+v", c)
		}
		last = c.Number
	}
	for _, n := range []int{10, 310, 320, 36, 37, 370, 323, 45, 61, 11, 361, 34, 35, 38, 46, 14, 15, 41, 42, 29, 30, 31, 32, 12, 33, 17, 215, 200, 207} {
		if e := table[n]; e == nil || !e.Served {
			t.Errorf("code %d is not served", n)
		}
	}
}
