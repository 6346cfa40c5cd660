package commitlog

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
)

// model is what a log must be, by the simplest means: a list of batches.
type model struct {
	t       *testing.T
	mem     *vfs.MemFS
	log     *Log
	mode    Mode
	history *history // what was committed, in order; the truth after a crash is a prefix of it
	first   int      // index in the history of the first batch that was not deleted
	next    int      // numbers payloads
}

// TestModel lets a log live through any sequence of appends, syncs, crashes, restarts in other modes and with other segment
// sizes, partial replays and deletions, and compares it with the model after each.
func TestModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{t: t, mem: vfs.NewCrashableMem(), history: &history{}}
		m.open(rt)
		rt.Repeat(map[string]func(*rapid.T){
			"append":   m.append,
			"together": m.together,
			"sync":     m.sync,
			"restart":  func(rt *rapid.T) { closeLog(t, m.log); m.open(rt) },
			"crash":    m.crash,
			"delete":   m.delete,
			"":         m.check,
		})
		closeLog(t, m.log)
	})
}

// open starts the log, replaying from a batch boundary that is drawn.
func (m *model) open(rt *rapid.T) {
	opts := testOptions(m.mem)
	m.mode = rapid.SampledFrom(allModes).Draw(rt, "mode")
	opts.Mode = m.mode
	opts.SegmentSize = rapid.SampledFrom([]int64{4 << 10, 16 << 10, 64 << 10}).Draw(rt, "segment size")
	opts.MaxBatchBytes = rapid.SampledFrom([]int{1, 1000, 100000}).Draw(rt, "batch size")
	opts.OnCommit = m.history.onCommit
	l, err := Open(opts)
	if err != nil {
		rt.Fatal(err)
	}
	all := m.history.batches
	from, skip := l.First(), m.first
	if n := len(all) - m.first; n > 0 {
		if i := rapid.IntRange(0, n).Draw(rt, "replay from"); i > 0 {
			from, skip = all[m.first+i-1].end, m.first+i
		}
	}
	var got []applied
	if err := l.Replay(from, func(b *Batch) error { got = append(got, copyBatch(b)); return nil }); err != nil {
		rt.Fatalf("replay from %d: %v", from, err)
	}
	equal(m.t, fmt.Sprintf("replayed from %d", from), got, all[skip:])
	if err := l.Start(); err != nil {
		rt.Fatal(err)
	}
	m.log = l
}

func (m *model) payload(rt *rapid.T) string {
	m.next++
	return filler(fmt.Sprintf("%d ", m.next), rapid.SampledFrom([]int{5, 50, 500, 3000, 9000}).Draw(rt, "size"))
}

func (m *model) append(rt *rapid.T) {
	var payloads []string
	for range rapid.IntRange(0, 3).Draw(rt, "records") {
		payloads = append(payloads, m.payload(rt))
	}
	p := add(m.t, m.log, payloads...)
	equal(m.t, "the newest batch holds it", m.history.last().payloads, payloads)
	equal(m.t, "its positions", p.Positions, m.history.last().at)
}

func (m *model) together(rt *rapid.T) {
	var all []promise
	for range rapid.IntRange(2, 10).Draw(rt, "proposals") {
		p := newPromise(m.payload(rt))
		if err := m.log.Propose(p.Proposal); err != nil {
			rt.Fatal(err)
		}
		all = append(all, p)
	}
	for _, p := range all {
		if err := p.wait(m.t); err != nil {
			rt.Fatal(err)
		}
	}
}

func (m *model) sync(rt *rapid.T) {
	if err := m.log.Sync(); err != nil || m.log.Durable() != m.log.Committed() {
		rt.Fatalf("%v, durable %d of %d", err, m.log.Durable(), m.log.Committed())
	}
}

// crash cuts the power. In sync mode everything is left, in the others a prefix with at least what was durable.
func (m *model) crash(rt *rapid.T) {
	durable := m.log.Durable()
	lost := crash(m.mem, rapid.IntRange(0, 100).Draw(rt, "percent"), rapid.Uint64().Draw(rt, "seed"))
	closeLog(m.t, m.log)
	m.mem = lost
	var left []applied
	if err := Scan(lost, testDir, 0, func(b *Batch) error { left = append(left, copyBatch(b)); return nil }); err != nil {
		rt.Fatalf("after the crash: %v", err)
	}
	all := m.history.batches
	// A deletion is durable at once, so the first batch is known.
	equal(m.t, "left after the crash", left, all[m.first:][:min(len(left), len(all)-m.first)])
	n := m.first + len(left)
	if m.mode == ModeSync && n != len(all) {
		rt.Fatalf("%d batches are left of %d acknowledged ones", n, len(all))
	}
	for _, b := range all[n:] {
		if b.end <= durable {
			rt.Fatalf("batch %d was durable and is lost", b.index)
		}
	}
	m.history.batches = all[:n:n]
	m.open(rt)
}

func (m *model) delete(rt *rapid.T) {
	if len(m.history.batches) == 0 {
		return
	}
	b := rapid.SampledFrom(m.history.batches).Draw(rt, "before")
	before := m.log.First()
	if _, err := m.log.DeleteBefore(b.end); err != nil {
		rt.Fatal(err)
	}
	if m.log.First() != before && m.log.First() > b.end {
		rt.Fatalf("the log begins at %d, and was to keep what is behind %d", m.log.First(), b.end)
	}
	for m.history.batches[m.first].pos < m.log.First() {
		m.first++
	}
}

// check reads everything, the deleted included.
func (m *model) check(rt *rapid.T) {
	all := m.history.batches
	checkChain(m.t, all)
	if m.first > len(all) || len(all) > 0 && (m.log.Committed() != all[len(all)-1].end || m.log.Durable() > m.log.Committed()) {
		rt.Fatalf("committed %d, durable %d", m.log.Committed(), m.log.Durable())
	}
	if m.mode == ModeSync && m.log.Durable() != m.log.Committed() {
		rt.Fatalf("durable %d of %d", m.log.Durable(), m.log.Committed())
	}
	var buf []byte
	for i, b := range all {
		for k, pos := range b.at {
			var r record.Record
			var err error
			r, buf, err = m.log.ReadAt(pos, RecordSize(len(b.payloads[k])), buf)
			if i < m.first && !errors.Is(err, ErrGone) || i >= m.first && (err != nil || string(r.Payload) != b.payloads[k]) {
				rt.Fatalf("batch %d (first is %d), record %d: %.20q, %v", i, m.first, k, r.Payload, err)
			}
		}
	}
}
