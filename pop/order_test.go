package pop

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// inOrder is a record of an ordered pop of queue 0 for the messages from offset start on, one line's ID each: 0 for a message that is
// passed over, negative for one that has to wait.
func inOrder(group, topic kvindex.ID, start, now, visible int64, nonce uint64, lines ...int64) *Pop {
	p := &Pop{Group: group, Topic: topic, PoppedAt: now, VisibleAt: visible, Nonce: nonce, Ordered: true}
	r := Range{Start: start, End: start + int64(len(lines))}
	for i, line := range lines {
		e := Entry{Offset: start + int64(i), Position: record.Position(1000 + 100*(start+int64(i))), Size: 100}
		switch {
		case line > 0:
			e.Line = uint64(line)
			p.Entries = append(p.Entries, e)
			r.Count++
		case line < 0:
			e.Line = uint64(-line)
			p.Parked = append(p.Parked, e)
			r.Parked++
		}
	}
	p.Ranges = []Range{r}
	return p
}

// offsets of what may be taken now: turns, then heads.
func (m *machine) offsets(group, topic kvindex.ID, now int64) string {
	m.t.Helper()
	turns, err := m.state.Turns(group, topic, AnyQueue, now, 100, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	var out []string
	for _, e := range turns {
		out = append(out, fmt.Sprint(e.Offset))
	}
	out = append(out, "|")
	heads, err := m.state.Ready(group, topic, AnyQueue, 100, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, h := range heads {
		out = append(out, fmt.Sprint(h.Offset))
	}
	return strings.Join(out, " ")
}

func (m *machine) counters(group, topic kvindex.ID) Counters {
	m.t.Helper()
	c, err := m.state.Counters(group, topic)
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (m *machine) heads(group, topic kvindex.ID) []Head {
	m.t.Helper()
	heads, err := m.state.Ready(group, topic, AnyQueue, 100, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return heads
}

func TestAStuckLineHoldsUpItselfOnly(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	ref := func(offset int64) Ref { return Ref{VisibleAt: 100, Offset: offset, Nonce: 7} }
	// Lines a, b = 5, 6: a b a go together, then one of a has to wait although the chooser thought it free, and one of b that was
	// thought to be held up.
	out := m.apply(10, inOrder(group, topic, 0, 10, 100, 7, 5, 6, 5).Record())
	if MaskOf(out[0]) != 0b111 {
		t.Fatalf("outcome %b", MaskOf(out[0]))
	}
	out = m.apply(11, ackOf(group, topic, ref(1)), inOrder(group, topic, 3, 11, 200, 8, 5, -6, 0, 5).Record())
	if MaskOf(out[1]) != 0 || m.counters(group, topic) != (Counters{InFlight: 2, Parked: 3, Free: 1}) || m.next(group, topic, 0) != 7 {
		t.Fatalf("outcome %b, counters %+v", MaskOf(out[1]), m.counters(group, topic))
	}
	m.check()
	if got := m.offsets(group, topic, 99); got != "| 4" {
		t.Fatalf("may go: %s", got)
	}
	// What comes to a line that is ready waits as well.
	m.apply(12, inOrder(group, topic, 7, 12, 200, 9, 6).Record())
	if got := m.offsets(group, topic, 99); got != "| 4 7" {
		t.Fatalf("may go: %s", got)
	}
	// The second of a is acknowledged first; only with the first its line goes on.
	m.apply(13, ackOf(group, topic, ref(2)))
	if got := m.offsets(group, topic, 99); got != "| 4 7" {
		t.Fatalf("may go: %s", got)
	}
	m.apply(14, ackOf(group, topic, ref(0)))
	if got := m.offsets(group, topic, 99); got != "| 4 7 3 6" {
		t.Fatalf("may go: %s", got)
	}
	heads := m.heads(group, topic)
	p := &Pop{Group: group, Topic: topic, PoppedAt: 15, VisibleAt: 300, Nonce: 10, Ordered: true, Unparked: heads[:3]}
	out = m.apply(15, p.Record(), p.Record())
	if MaskOf(out[0]) != 0b111 || MaskOf(out[1]) != 0 || !out[1].Refused || m.counters(group, topic) != (Counters{InFlight: 3, Parked: 1}) {
		t.Fatalf("outcomes %b and %b, counters %+v", MaskOf(out[0]), MaskOf(out[1]), m.counters(group, topic))
	}
	if got := m.offsets(group, topic, 299); got != "|" {
		t.Fatalf("may go: %s", got)
	}
	if got := m.offsets(group, topic, 300); got != "4 7 3 |" && got != "3 4 7 |" {
		t.Fatalf("may go: %s", got)
	}
	m.check()
}

func TestWhatIsBehindWaitsForTheFirst(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	m.apply(1, inOrder(group, topic, 0, 1, 100, 1, 5, 5, 5).Record())
	// The first one is put off: the others are visible again and must not go.
	m.apply(2, moveOf(group, topic, Move{Ref: Ref{VisibleAt: 100, Offset: 0, Nonce: 1}, To: 500}))
	if got := m.offsets(group, topic, 200); got != "|" {
		t.Fatalf("may go: %s", got)
	}
	behind := []Ref{{VisibleAt: 100, Offset: 1, Nonce: 1}, {VisibleAt: 100, Offset: 2, Nonce: 1}}
	out := m.apply(200, (&Pop{Group: group, Topic: topic, PoppedAt: 200, VisibleAt: 300, Nonce: 2, Ordered: true, Again: behind}).Record())
	if !out[0].Refused {
		t.Fatal("handed out behind one that is in flight")
	}
	if at, ok, err := m.state.NextVisible(group, topic, 200); err != nil || !ok || at != 500 {
		t.Fatalf("next at %d, %v, %v", at, ok, err)
	}
	if got := m.offsets(group, topic, 500); got != "0 1 2 |" {
		t.Fatalf("may go: %s", got)
	}
	// They go together; a dead or unwanted one in front makes way in the same record.
	again := []Ref{{VisibleAt: 500, Offset: 0, Nonce: 1}, behind[1], behind[0]}
	out = m.apply(501, (&Pop{Group: group, Topic: topic, PoppedAt: 501, VisibleAt: 600, Nonce: 3, Ordered: true, Again: again}).Record())
	if MaskOf(out[0]) != 0b101 { // the last two are in the wrong order: the first of them is refused
		t.Fatalf("outcome %b", MaskOf(out[0]))
	}
	drop := &Pop{Group: group, Topic: topic, PoppedAt: 600, VisibleAt: 700, Nonce: 4, Ordered: true,
		Dropped: []Ref{{VisibleAt: 600, Offset: 0, Nonce: 3}, {VisibleAt: 600, Offset: 1, Nonce: 3}}, Again: []Ref{behind[1]}}
	if out = m.apply(600, drop.Record()); MaskOf(out[0]) != 1 {
		t.Fatalf("outcome %b", MaskOf(out[0]))
	}
	m.check()
	// A group that is not served in order any more takes what is visible, and leaves the lines right.
	m.apply(601, inOrder(group, topic, 3, 601, 700, 5, -5).Record())
	plain := &Pop{Group: group, Topic: topic, PoppedAt: 700, VisibleAt: 800, Nonce: 6, Again: []Ref{{VisibleAt: 700, Offset: 2, Nonce: 4}}}
	if out = m.apply(700, plain.Record()); MaskOf(out[0]) != 1 || m.state.MayHaveReady(group, topic) {
		t.Fatalf("outcome %b", MaskOf(out[0]))
	}
	m.apply(701, ackOf(group, topic, Ref{VisibleAt: 800, Offset: 2, Nonce: 6}))
	if got := m.offsets(group, topic, 701); got != "| 3" || !m.state.MayHaveReady(group, topic) {
		t.Fatalf("may go: %s", got)
	}
	m.check()
}

func TestMovingACursorForgetsWhatWaits(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	p := inOrder(group, topic, 0, 1, 100, 1, 5, 6, -5, -6, -5, -6)
	m.apply(1, p.Record(), ackOf(group, topic, Ref{VisibleAt: 100, Offset: 1, Nonce: 1}))
	stale := m.heads(group, topic)
	// Back to 4: the line of 3 stays ready, but what was chosen before is too old.
	m.apply(2, CommitRecord([]Commit{{group, topic, 0, 4}}))
	if got := m.offsets(group, topic, 100); got != "0 | 3" || m.counters(group, topic) != (Counters{InFlight: 1, Parked: 2, Free: 1}) {
		t.Fatalf("may go: %s, counters %+v", got, m.counters(group, topic))
	}
	m.check()
	old := &Pop{Group: group, Topic: topic, PoppedAt: 3, VisibleAt: 200, Nonce: 2, Ordered: true, Unparked: stale[:1]}
	if out := m.apply(3, old.Record()); !out[0].Refused {
		t.Fatal("a head from before the reset was handed out")
	}
	// A reset in the same batch as what it forgets.
	m.apply(4, inOrder(group, topic, 4, 4, 200, 3, 5, 8, -8).Record(), ResetRecord([]Commit{{group, topic, 0, 2}}),
		inOrder(group, topic, 2, 4, 200, 4, 5, 6, -6).Record())
	if got := m.offsets(group, topic, 200); got != "2 3 |" || m.counters(group, topic) != (Counters{InFlight: 2, Parked: 1}) {
		t.Fatalf("may go: %s, counters %+v", got, m.counters(group, topic))
	}
	m.check()
	// One queue of two: the other one keeps what it has.
	other := inOrder(group, topic, 0, 5, 200, 5, 5, -5)
	other.Ranges[0].Queue = 1
	m.apply(5, other.Record(), ResetRecord([]Commit{{group, topic, 0, 0}}))
	if got := m.offsets(group, topic, 200); got != "0 |" || m.counters(group, topic) != (Counters{InFlight: 1, Parked: 1}) {
		t.Fatalf("may go: %s, counters %+v", got, m.counters(group, topic))
	}
	m.check()
	m.apply(6, m.deleteTopic("t"))
	if n := m.rows(kvindex.SpaceOrder); n != 0 {
		t.Fatalf("%d rows are left of a deleted topic", n)
	}
}

func TestLinesOfMessageGroups(t *testing.T) {
	if l := (Line{3, LineOf(nil)}); !l.OfQueue() || l.ID == 0 {
		t.Errorf("no message group: %+v", l)
	}
	if a, b := LineOf([]byte("a")), LineOf([]byte("b")); a == b || a <= queueLine || a != LineOf([]byte("a")) {
		t.Errorf("%x and %x", a, b)
	}
}

// TestOrderBytes: these are on disk.
func TestOrderBytes(t *testing.T) {
	p := inOrder(3, 4, 10, 1000, 1300, 0x0102030405060708, 5, -6)
	p.Unparked = []Head{{Line: Line{2, 7}, Since: 9, Offset: 200}}
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"pop": {p.Record().Payload, "02" + "0304" + "e807" + "ac02" + "0102030405060708" + "00" + "00" +
			"01" + "02" + "0000000000000007" + "09" + "c801" + "00" +
			"01" + "00" + "0a" + "02" + "01" + "00" + "d00f" + "64" + "0000000000000005" + "01" + "01" + "b410" + "64" + "0000000000000006"},
		"line":   {appendLine(nil, &lineRow{parked: 1, from: 13, flights: []flight{{10, 300}, {12, 1}}}), "01" + "0d" + "00" + "02" + "0aac02" + "0201"},
		"ready":  {appendLine(nil, &lineRow{parked: 2, from: 1, since: 3}), "02" + "01" + "03" + "00"},
		"place":  {appendReady(nil, 200), "c801"},
		"parked": {appendParked(nil, 2000, 100), "d00f" + "64"},
		"checkpoint": {appendCheckpoint(nil, &Checkpoint{Nonce: 1, Attempts: 2, Position: 3, Size: 4, PoppedAt: 5, FirstAt: 5, Line: 6}),
			"0000000000000001" + "02" + "03" + "04" + "05" + "00" + "0000000000000006"},
		"postponed": {appendCheckpoint(nil, &Checkpoint{Nonce: 1, Attempts: 2, Position: 3, Size: 4, PoppedAt: 5, FirstAt: 5, Line: 6, Postponed: true}),
			"0000000000000001" + "02" + "03" + "04" + "05" + "00" + "0000000000000006" + "01"},
		"postponed, in no line": {appendCheckpoint(nil, &Checkpoint{Nonce: 1, Attempts: 2, Position: 3, Size: 4, PoppedAt: 5, FirstAt: 5, Postponed: true}),
			"0000000000000001" + "02" + "03" + "04" + "05" + "00" + "01"},
		"counters":       {appendCounters(nil, Counters{}), "0000000000000000"},
		"three counters": {appendCounters(nil, Counters{InFlight: 1, Parked: 4, Free: 3}), "0000000000000001" + "0000000000000004" + "0000000000000003"},
		"all counters": {appendCounters(nil, Counters{InFlight: 2, Postponed: 1}),
			"0000000000000002" + "0000000000000000" + "0000000000000000" + "0000000000000001"},
		"move": {moveOf(3, 4, Move{Ref: Ref{VisibleAt: 100, Queue: 1, Offset: 2, Nonce: 7}, To: 5, Free: true, Postponed: true}).Payload,
			"01" + "0304" + "01" + "64" + "01" + "02" + "0000000000000007" + "05" + "03"},
	} {
		if got := hex.EncodeToString(c.got); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestCheckFindsWhatIsWrongInLines(t *testing.T) {
	line := func(r lineRow) []byte { return appendLine(nil, &r) }
	for name, spoil := range map[string]func(w kvindex.Writer, group, topic kvindex.ID){
		"no line": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Delete(kvindex.AppendOrderLineKey(nil, group, topic, kvindex.OrderLine, 0, 5))
		},
		"in flight": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendOrderLineKey(nil, group, topic, kvindex.OrderLine, 0, 5), line(lineRow{parked: 1, flights: []flight{{0, 100}, {1, 100}}}))
		},
		"parked": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Delete(kvindex.AppendOrderParkedKey(nil, group, topic, 0, 5, 1))
		},
		"parked without a line": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendOrderParkedKey(nil, group, topic, 0, 9, 1), appendParked(nil, 1, 1))
		},
		"turn": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Delete(kvindex.AppendOrderPlaceKey(nil, group, topic, kvindex.OrderTurn, 100, 0, 5))
		},
		"two places": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendOrderPlaceKey(nil, group, topic, kvindex.OrderReady, 100, 0, 5), appendReady(nil, 0))
		},
		"counter": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendCounterKey(nil, group, topic), appendCounters(nil, Counters{InFlight: 1, Parked: 2}))
		},
		"cursor": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendCursorKey(nil, group, topic, 0), appendCursor(nil, Cursor{1, 1}))
		},
		"checkpoint": func(w kvindex.Writer, group, topic kvindex.ID) {
			w.Set(kvindex.AppendCheckpointKey(nil, group, topic, 100, 0, 0), appendCheckpoint(nil, &Checkpoint{}))
		},
	} {
		m := newMachine(t)
		topic, group := m.topic("t"), m.group("g")
		m.apply(1, inOrder(group, topic, 0, 1, 100, 1, 5, -5).Record())
		m.check()
		w := m.engine.NewWriter()
		spoil(w, group, topic)
		if err := w.Commit(); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if err := Check(m.engine); err == nil {
			t.Errorf("%s: nothing found", name)
		}
	}
}

func TestUnlinedGoesOnWhereItStopped(t *testing.T) {
	m := newMachine(t)
	topic, group := m.topic("t"), m.group("g")
	m.apply(1, popped(group, topic, 1, 0, 0, 1, 100, 1)) // from before the group was served in order
	for start := int64(0); start < 2*maxSkipped; start += 60 {
		m.apply(1, inOrder(group, topic, start, 1, 50+start/60, 2, slices.Repeat([]int64{5 + start}, 60)...).Record())
	}
	if got, err := m.state.Unlined(group, topic, AnyQueue, 200, 10, nil); err != nil || len(got) > 0 {
		t.Fatalf("%d seen at once, %v", len(got), err)
	}
	got, err := m.state.Unlined(group, topic, AnyQueue, 200, 10, nil)
	if err != nil || len(got) != 1 || got[0].Queue != 1 {
		t.Fatalf("%+v, %v", got, err)
	}
	m.check()
}
