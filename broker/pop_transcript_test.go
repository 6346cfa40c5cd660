package broker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
)

// popRig is a broker on a disk that can lose power, and on a clock that is moved by hand.
type popRig struct {
	*testBroker
	disk  *vfs.MemFS
	clock *clock.Fake
}

// newPopRig opens one that is closed and checked when the test ends.
func newPopRig(t testing.TB) *popRig {
	r := openPopRig(t)
	t.Cleanup(func() { r.shut(t) })
	return r
}

// rigSegment is small: a disk that can lose power copies all of a file at each sync.
const rigSegment = 64 << 10

func openPopRig(t testing.TB) *popRig {
	r := &popRig{disk: vfs.NewCrashableMem(), clock: clock.NewFake(epoch)}
	r.testBroker = &testBroker{fs: r.disk, segment: rigSegment, opts: Options{
		Advertise: brokerHost, AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop(), Clock: r.clock,
	}}
	r.open(t)
	return r
}

func (r *popRig) shut(t testing.TB) {
	t.Helper()
	if r.Broker != nil {
		r.check(t)
		r.close(t)
	}
}

// crash cuts the power: what was not synced is gone.
func (r *popRig) crash(t testing.TB) {
	t.Helper()
	r.crashLeaving(t, vfs.CrashCloneCfg{})
}

// crashLeaving is crash on a disk that keeps some of what was not synced.
func (r *popRig) crashLeaving(t testing.TB, some vfs.CrashCloneCfg) {
	t.Helper()
	left := r.disk.CrashClone(some)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r.disk = left
	r.fs = left
	r.open(t)
}

// check looks whether the counters are those of a recount, and the other rules of the rows.
func (r *popRig) check(t testing.TB) {
	t.Helper()
	if err := pop.Check(r.store.Reader()); err != nil {
		t.Error(err)
	}
	poll(t, "all leases to be given back", func() bool { return r.pop.leases.len() == 0 }) // some are held by what runs behind
}

type popAnswer struct {
	res *PopResult
	err error
}

// popLater pops in the background.
func (r *popRig) popLater(ctx context.Context, req *PopRequest) chan popAnswer {
	over := make(chan popAnswer, 1)
	go func() {
		res, err := r.Pop(ctx, req)
		over <- popAnswer{res, err}
	}()
	return over
}

// transcript is one run of a file in testdata/pop: what was handed out has a name, h1, h2 and so on.
type transcript struct {
	*popRig
	t       *testing.T
	handles []string
	waits   map[string]chan popAnswer
}

func TestPopTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/pop", func(t *testing.T, path string) {
		s := &transcript{popRig: newPopRig(t), t: t, waits: map[string]chan popAnswer{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(d) })
	})
}

// run does one command.
//
//	topic NAME queues=N
//	send TOPIC QUEUE [tag=T] [group=G] [size=N] BODY…     one batch
//	pop GROUP TOPIC [n=32] [invisible=10s] [tags=a||b] [queue=N] [attempt=ID] [order=queue] [wait=5s as=NAME]
//	join NAME                                   the answer of a pop that waited
//	ack GROUP TOPIC HANDLE…, extend|giveback GROUP TOPIC HANDLE TIME
//	advance TIME, crash, restart
//	counters GROUP TOPIC, commit|reset GROUP TOPIC QUEUE OFFSET
//	delete-topic NAME, delete-group NAME [clean], orderly-group|plain-group NAME
func (s *transcript) run(d *datadriven.TestData) string {
	ctx := context.Background()
	args := map[string]string{}
	var words []string
	for _, a := range d.CmdArgs {
		if len(a.Vals) > 0 {
			args[a.Key] = strings.Join(a.Vals, ",")
		} else {
			words = append(words, a.Key)
		}
	}
	switch d.Cmd {
	case "topic":
		s.topicOf(s.t, words[0], int32(number(s.t, args["queues"])))
		return ""
	case "send":
		return s.sendWords(words, args)
	case "pop":
		return s.pop(words, args)
	case "join":
		a := receive(s.t, s.waits[words[0]])
		return s.answer(a.res, a.err)
	case "ack":
		return s.ack(words)
	case "extend", "giveback":
		change := s.ChangeInvisible
		if d.Cmd == "giveback" {
			change = s.GiveBack
		}
		h, err := change(ctx, words[0], words[1], s.handle(words[2]), duration(s.t, words[3]))
		if err != nil {
			return s.refusal(err)
		}
		return s.name(h) + "\n"
	case "advance":
		s.clock.Advance(duration(s.t, words[0]))
		return ""
	case "crash":
		s.crash(s.t)
		s.check(s.t)
		return ""
	case "restart":
		s.restart(s.t)
		return ""
	case "counters":
		c, err := s.GroupCounters(words[0], words[1])
		if err != nil {
			return s.refusal(err)
		}
		said := fmt.Sprintf("ready %d, in flight %d", c.Ready, c.InFlight)
		if c.Delayed > 0 {
			said += fmt.Sprintf(", delayed %d", c.Delayed)
		}
		if c.Parked > 0 {
			said += fmt.Sprintf(", parked %d", c.Parked)
		}
		return said + "\n"
	case "commit":
		return s.refusal(s.CommitOffsets(ctx, words[0],
			[]OffsetCommit{{words[1], int32(number(s.t, words[2])), int64(number(s.t, words[3]))}}))
	case "reset":
		_, err := s.ResetOffsets(ctx, words[0], words[1], int32(number(s.t, words[2])), int64(number(s.t, words[3])), 0, true)
		return s.refusal(err)
	case "delete-topic":
		return s.refusal(s.DeleteTopic(ctx, words[0]))
	case "delete-group":
		return s.refusal(s.DeleteGroup(ctx, words[0], len(words) > 1))
	case "orderly-group", "plain-group":
		g := catalog.DefaultGroup(words[0])
		g.ConsumeMessageOrderly = d.Cmd == "orderly-group"
		return s.refusal(s.PutGroup(ctx, g, ""))
	}
	s.t.Fatalf("unknown command %s", d.Cmd)
	return ""
}

func (s *transcript) sendWords(words []string, args map[string]string) string {
	var messages []message.Message
	for _, body := range words[2:] {
		if args["size"] != "" {
			body += strings.Repeat(".", number(s.t, args["size"])-len(body))
		}
		var props []string
		if tag := args["tag"]; tag != "" {
			props = append(props, message.PropTags, tag)
		}
		if group := args["group"]; group != "" {
			props = append(props, message.PropShardingKey, group)
		}
		messages = append(messages, plain(body, props...))
	}
	_, err := s.Send(context.Background(), &SendRequest{Topic: words[0], QueueID: int32(number(s.t, words[1])), Messages: messages})
	return s.refusal(err)
}

func (s *transcript) pop(words []string, args map[string]string) string {
	req := &PopRequest{
		Group: words[0], Topic: words[1], Queue: -1, Max: 32, Invisible: 10 * time.Second, AttemptID: args["attempt"],
		QueueOrder: args["order"] == "queue",
	}
	if v := args["n"]; v != "" {
		req.Max = number(s.t, v)
	}
	if v := args["invisible"]; v != "" {
		req.Invisible = duration(s.t, v)
	}
	if v := args["queue"]; v != "" {
		req.Queue = int32(number(s.t, v))
	}
	if v := args["tags"]; v != "" {
		f, err := filter.ParseTags(v)
		if err != nil {
			s.t.Fatal(err)
		}
		req.Filter = f
	}
	if args["wait"] == "" {
		res, err := s.Pop(context.Background(), req)
		return s.answer(res, err)
	}
	req.Wait = duration(s.t, args["wait"])
	before := s.waiters.len()
	over := s.popLater(context.Background(), req)
	s.waits[args["as"]] = over
	poll(s.t, "the pop to wait", func() bool { return s.waiters.len() == before+1 })
	return ""
}

func (s *transcript) answer(res *PopResult, err error) string {
	if err != nil {
		return s.refusal(err)
	}
	if res.Buffer == nil {
		return "nothing\n"
	}
	defer res.Buffer.Release()
	var out strings.Builder
	for i, m := range decodeAll(s.t, res.Buffer.B, res.Ends) {
		body, _, _ := strings.Cut(string(m.Body), ".")
		fmt.Fprintf(&out, "%s queue=%d offset=%d attempt=%d %s\n", body, m.QueueID, m.QueueOffset, res.Attempts[i], s.name(res.Receipts()[i]))
	}
	return out.String()
}

func (s *transcript) ack(words []string) string {
	var handles []string
	for _, name := range words[2:] {
		handles = append(handles, s.handle(name))
	}
	var out strings.Builder
	for i, err := range s.Ack(context.Background(), words[0], words[1], handles) {
		fmt.Fprintf(&out, "%s: %s", words[2+i], s.refusal(err))
	}
	return out.String()
}

func (s *transcript) name(handle string) string {
	s.handles = append(s.handles, handle)
	return fmt.Sprintf("h%d", len(s.handles))
}

func (s *transcript) handle(name string) string {
	if i, ok := strings.CutPrefix(name, "h"); ok {
		return s.handles[number(s.t, i)-1]
	}
	return name
}

func (s *transcript) refusal(err error) string {
	var refused *Error
	switch {
	case err == nil:
		return "ok\n"
	case errors.As(err, &refused):
		return refused.Message + "\n"
	}
	s.t.Errorf("an error that is no refusal: %v", err)
	return err.Error()
}

func number(t testing.TB, text string) int {
	t.Helper()
	var n int
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatalf("%q is no number: %v", text, err)
	}
	return n
}

func duration(t testing.TB, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// poll waits until the condition holds.
func poll(t testing.TB, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

// arriveOne waits for what comes through a channel.
func arriveOne[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came within 10 s")
		panic("unreachable")
	}
}
