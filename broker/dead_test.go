package broker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// deadScript adds to a transcript of pops what is about dead letters.
//
//	group NAME retries=N [orderly] [attributes=+k=v]
//	forward GROUP TOPIC HANDLE [attempts=N], nack GROUP TOPIC HANDLE
//	dead GROUP [tag=T] [reason=R] [n=N]          where, why and what they are
//	groups                                       how many each group has
//	redrive|purge GROUP [to=TOPIC] [tag=T] [reason=R] [n=N] [go-on]
//	tick                                         what goes back by itself
type deadScript struct {
	*transcript
	next RedrivePoint
}

func TestDeadLetterTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/dead", func(t *testing.T, path string) {
		s := &deadScript{transcript: &transcript{popRig: newPopRig(t), t: t, waits: map[string]chan popAnswer{}}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string { return s.run(d) })
	})
}

func (s *deadScript) run(d *datadriven.TestData) string {
	ctx := context.Background()
	args, words := wordsOf(d)
	switch d.Cmd {
	case "group":
		g := catalog.DefaultGroup(words[0])
		g.RetryMaxTimes, g.ConsumeMessageOrderly = int32(number(s.t, args["retries"])), slices.Contains(words, "orderly")
		return s.refusal(s.PutGroup(ctx, g, args["attributes"]))
	case "forward":
		req := &ForwardRequest{Group: words[0], Topic: words[1], Handle: s.handle(words[2])}
		if v := args["attempts"]; v != "" {
			req.Attempts = int32(number(s.t, v))
		}
		return s.refusal(s.Forward(ctx, req))
	case "nack":
		h, err := s.Nack(ctx, words[0], words[1], s.handle(words[2]))
		if err != nil {
			return s.refusal(err)
		}
		return s.name(h) + "\n"
	case "dead":
		return s.dead(words[0], args)
	case "groups":
		return s.groups()
	case "redrive", "purge":
		return s.redriveSome(words, args, d.Cmd == "purge")
	case "tick":
		if err := s.redriver.learn(ctx); err != nil {
			s.t.Fatal(err)
		}
		s.redriver.round(ctx)
		return ""
	}
	return s.transcript.run(d)
}

func wordsOf(d *datadriven.TestData) (args map[string]string, words []string) {
	args = map[string]string{}
	for _, a := range d.CmdArgs {
		if len(a.Vals) > 0 {
			args[a.Key] = strings.Join(a.Vals, ",")
		} else {
			words = append(words, a.Key)
		}
	}
	return args, words
}

func filterOfArgs(args map[string]string) DeadFilter {
	return DeadFilter{Tag: args["tag"], Reason: args["reason"], ID: args["id"]}
}

// dead lists page by page.
func (s *deadScript) dead(group string, args map[string]string) string {
	q := DeadQuery{Group: group, Filter: filterOfArgs(args)}
	if v := args["n"]; v != "" {
		q.Most = number(s.t, v)
	}
	var out strings.Builder
	for {
		found, next, more, err := s.DeadMessages(context.Background(), q)
		if err != nil {
			return s.refusal(err)
		}
		for i := range found {
			d := &found[i]
			body := bodyOf(s.t, s.Broker, d)
			fmt.Fprintf(&out, "%s: %s after %d attempts, from %s queue=%d offset=%d, first %s last %s died %s, redriven %d times\n", body, d.Reason,
				d.Attempts, d.Topic, d.OriginQueue, d.OriginOffset, since(d.First), since(d.Last), since(d.Died), d.Redrives)
		}
		if !more {
			break
		}
		if len(found) > 0 {
			out.WriteString("…\n")
		}
		q.After = next
	}
	if out.Len() == 0 {
		return "none\n"
	}
	return out.String()
}

// since is how long after the start of the test a time is.
func since(ms int64) string {
	if ms == 0 {
		return "–"
	}
	return "+" + time.Duration(time.UnixMilli(ms).Sub(epoch)).String()
}

func bodyOf(t testing.TB, b *Broker, d *DeadLetter) string {
	t.Helper()
	buf := store.NewBuffer()
	defer buf.Release()
	m, err := b.readDead(d, buf)
	if err != nil || m == nil {
		t.Fatalf("read a dead letter: %v, %v", m, err)
	}
	body, _, _ := strings.Cut(string(m.Body), ".")
	return body
}

func (s *deadScript) groups() string {
	found, _, err := s.DeadGroups("", 0)
	if err != nil {
		return s.refusal(err)
	}
	var out strings.Builder
	for _, d := range found {
		fmt.Fprintf(&out, "%s: %d, %s to %s\n", d.Group, d.Count, since(d.Oldest), since(d.Newest))
	}
	if out.Len() == 0 {
		return "none\n"
	}
	return out.String()
}

func (s *deadScript) redriveSome(words []string, args map[string]string, purge bool) string {
	req := &RedriveRequest{Group: words[0], Filter: filterOfArgs(args), To: args["to"], Purge: purge}
	if v := args["n"]; v != "" {
		req.Most = number(s.t, v)
	}
	if slices.Contains(words, "go-on") {
		req.From = s.next
	}
	res, err := s.Redrive(context.Background(), req)
	if err != nil {
		return s.refusal(err)
	}
	s.next = res.Next
	out := fmt.Sprintf("done %d, passed %d, failed %d", res.Done, res.Passed, res.Failed)
	if res.Why != "" {
		why := res.Why
		if _, after, ok := strings.Cut(why, ": "); ok { // without the id
			why = after
		}
		out += ": " + why
	}
	if res.End {
		out += ", the end"
	}
	return out + "\n"
}

// deadRig has a group that allows two deliveries, and a message that has had them.
func deadRig(t *testing.T, m message.Message) (*popRig, SendResult) {
	r := newPopRig(t)
	r.topicOf(t, "t", 4)
	g := catalog.DefaultGroup("g")
	g.RetryMaxTimes = 1
	if err := r.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	sent := r.send(t, "t", 2, m)[0]
	for range 2 {
		r.popN(t, 1)
		r.clock.Advance(10 * time.Second)
	}
	return r, sent
}

// popN pops for 10 s and expects so many messages.
func (r *popRig) popN(t testing.TB, n int) *PopResult {
	t.Helper()
	res, err := r.Pop(context.Background(), &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: 32, Invisible: 10 * time.Second})
	if err != nil || len(res.Ends) != n {
		t.Fatalf("%d messages, %v; want %d", len(res.Ends), err, n)
	}
	res.Buffer.Release()
	return res
}

// TestDeadLetterKeepsTheMessage: body, properties and ids are those of the message, and clients of the reference find what they look for.
func TestDeadLetterKeepsTheMessage(t *testing.T) {
	r, sent := deadRig(t, plain("hello", message.PropTags, "red", message.PropKeys, "k1 k2", "colour", "blue", message.PropUniqueKey, "U1"))
	began := r.clock.Now()
	r.popN(t, 0)
	res := r.pull(t, "reader", "%DLQ%g", 0, 0)
	if len(res.Ends) != 1 {
		t.Fatalf("%d dead letters", len(res.Ends))
	}
	m := decodeAll(t, res.Buffer.B, res.Ends)[0]
	res.Buffer.Release()
	want := map[string]string{
		message.PropTags: "red", message.PropKeys: "k1 k2", "colour": "blue", message.PropUniqueKey: "U1",
		message.PropRetryTopic: "t", message.PropOriginID: r.OffsetID(sent.Position), message.PropDLQTopic: "t", message.PropDLQMessageID: "U1",
		message.PropReconsume: "2", propDeadReason: DeadAttempts, propDeadAttempts: "2", propDeadQueue: "2", propDeadOffset: "0",
		propDeadFirst: fmt.Sprint(began.Add(-20 * time.Second).UnixMilli()), propDeadLast: fmt.Sprint(began.Add(-10 * time.Second).UnixMilli()),
	}
	props := message.DecodeProperties(m.Properties)
	for key, value := range want {
		if props[key] != value {
			t.Errorf("%s is %q, want %q", key, props[key], value)
		}
	}
	if string(m.Body) != "hello" || m.ReconsumeTimes != 2 || m.BornTimestamp != 1234 || m.BornHost != clientHost || m.Topic != "%DLQ%g" ||
		m.StoreTimestamp != began.UnixMilli() {
		t.Errorf("%+v", m)
	}
	buf := store.NewBuffer()
	defer buf.Release()
	if ends, err := r.QueryByUniqueID("%DLQ%g", "U1", 0, 1<<60, 1, buf); err != nil || len(ends) != 1 {
		t.Errorf("found by its id: %d, %v", len(ends), err)
	}
}

// TestDeadLetterOfFullProperties: what does not fit in is left out, the message is not.
func TestDeadLetterOfFullProperties(t *testing.T) {
	r, _ := deadRig(t, plain("full", "filler", strings.Repeat("x", message.MaxProperties-250)))
	r.popN(t, 0)
	found, _, _, err := r.DeadMessages(context.Background(), DeadQuery{Group: "g"})
	if err != nil || len(found) != 1 || found[0].Topic != "t" || bodyOf(t, r.Broker, &found[0]) != "full" {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestDeadLetterIsThereOnce: wherever the power goes, a message is either still in flight or a dead letter.
func TestDeadLetterIsThereOnce(t *testing.T) {
	r, _ := deadRig(t, plain("m"))
	r.popN(t, 0)
	for range 3 {
		r.crash(t)
		r.popN(t, 0)
		d, err := r.DeadGroup("g")
		if err != nil || d.Count != 1 {
			t.Fatalf("%+v, %v", d, err)
		}
		if c, err := r.GroupCounters("g", "t"); err != nil || c != (GroupCounters{}) {
			t.Fatalf("%+v, %v", c, err)
		}
		r.clock.Advance(time.Minute)
	}
}

// TestDeadLetterWhoseBodyIsGone: what has left the log is forgotten, and holds up nobody.
func TestDeadLetterWhoseBodyIsGone(t *testing.T) {
	r, _ := deadRig(t, plain("m"))
	r.clock.Advance(100 * 24 * time.Hour)
	r.send(t, "other", 0, plain(strings.Repeat("x", 1<<20)), plain(strings.Repeat("x", 1<<20)))
	for range 2 {
		r.clock.Advance(100 * 24 * time.Hour)
		if err := r.store.Expire(context.Background(), r.clock.Now()); err != nil {
			t.Fatal(err)
		}
		r.send(t, "other", 0, plain(strings.Repeat("x", 1<<20)))
	}
	r.popN(t, 0)
	if c, err := r.GroupCounters("g", "t"); err != nil || c != (GroupCounters{}) {
		t.Errorf("%+v, %v", c, err)
	}
	if d, err := r.DeadGroup("g"); err != nil || d.Count != 0 {
		t.Errorf("%+v, %v", d, err)
	}
}

// TestManyDeadLettersAtOnce: one pop buries them all, in parts, and takes what is alive.
func TestManyDeadLettersAtOnce(t *testing.T) {
	const n = 300
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	g := catalog.DefaultGroup("g")
	g.RetryMaxTimes = 0
	if err := r.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r.send(t, "t", 0, plain(fmt.Sprint(i)))
	}
	for got := 0; got < n; {
		res, err := r.Pop(context.Background(), &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: 32, Invisible: 10 * time.Second})
		if err != nil || len(res.Ends) == 0 {
			t.Fatalf("after %d: %v", got, err)
		}
		got += len(res.Ends)
		res.Buffer.Release()
	}
	r.clock.Advance(10 * time.Second)
	r.send(t, "t", 0, plain("alive"))
	r.popN(t, 1)
	r.popN(t, 0)
	if d, err := r.DeadGroup("g"); err != nil || d.Count != n {
		t.Errorf("%+v, %v; want %d", d, err, n)
	}
	if m := r.meters.dead.find(groupOfTopicName{"g", "t"}); m == nil || m.messages.Load() != n {
		t.Errorf("the meter of dead letters: %+v", m)
	}
	seen := map[string]bool{}
	q := DeadQuery{Group: "g", Most: 7}
	for more := true; more; {
		var found []DeadLetter
		var err error
		if found, q.After, more, err = r.DeadMessages(context.Background(), q); err != nil {
			t.Fatal(err)
		}
		for i := range found {
			seen[bodyOf(t, r.Broker, &found[i])] = true
		}
	}
	if len(seen) != n {
		t.Errorf("%d different ones are listed", len(seen))
	}
}

// TestDeadKeeperIsNobody: the group that marks dead letters has no part in anything else.
func TestDeadKeeperIsNobody(t *testing.T) {
	if !catalog.IsSystemGroup(deadKeeper) {
		t.Errorf("%s is no group of the system", deadKeeper)
	}
	r := newPopRig(t)
	if _, err := r.DeadGroup("g"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Group(deadKeeper); CodeOf(err) != CodeGroupNotFound {
		t.Errorf("it is there before it is needed: %v", err)
	}
	if id, err := r.keeper(); err != nil || id != kvindex.ID(0) {
		t.Errorf("%d, %v", id, err)
	}
}

// TestLargeDeadLetters: lists and redrives come in parts that somebody can wait for, and nothing is left out.
func TestLargeDeadLetters(t *testing.T) {
	const n = 12
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	g := catalog.DefaultGroup("g")
	g.RetryMaxTimes = 0
	if err := r.PutGroup(context.Background(), g, ""); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		r.send(t, "t", 0, plain(fmt.Sprint(i, ".")+strings.Repeat("x", 4<<20-100)))
	}
	for got := 0; got < n; {
		res, err := r.Pop(context.Background(), &PopRequest{Group: "g", Topic: "t", Queue: -1, Max: 32, Invisible: 10 * time.Second})
		if err != nil || len(res.Ends) == 0 {
			t.Fatalf("after %d: %v", got, err)
		}
		got += len(res.Ends)
		res.Buffer.Release()
	}
	r.clock.Advance(10 * time.Second)
	r.popN(t, 0)
	found, parts := 0, 0
	q := DeadQuery{Group: "g", Most: maxLetters}
	for more := true; more; parts++ {
		page, next, on, err := r.DeadMessages(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		found, q.After, more = found+len(page), next, on
	}
	if found != n || parts < 2 {
		t.Errorf("%d are listed in %d parts", found, parts)
	}
	done, parts := 0, 0
	req := &RedriveRequest{Group: "g", Most: maxLetters}
	for end := false; !end; parts++ {
		res, err := r.Redrive(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		done, req.From, end = done+res.Done, res.Next, res.End
	}
	if high, err := r.MaxOffset("t", 0); err != nil || done != n || high != 2*n || parts < 2 {
		t.Errorf("%d are redriven in %d parts, the queue ends at %d, %v", done, parts, high, err)
	}
}
