package commitlog

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// moment is what a power cut at some point of a run would leave.
type moment struct {
	op      string
	applied int             // records whose OnCommit had been called
	durable record.Position // what Durable had said
	disk    *vfs.MemFS
}

// crashes takes a moment before every change of a disk. A write or sync that is about to happen is also what comes after
// the one before.
type crashes struct {
	mem     *vfs.MemFS
	history *history
	log     func() *Log

	mu      sync.Mutex
	rng     *rand.Rand
	moments []moment
}

func (c *crashes) before(op change, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := moment{op: fmt.Sprintf("%d: %s %s", len(c.moments), op, name)}
	// What was acknowledged is read before the power goes.
	if c.history != nil {
		m.applied = len(c.history.payloads())
	}
	if l := c.log(); l != nil {
		m.durable = l.Durable()
	}
	percent := []int{0, 20, 50, 80, 100}[c.rng.IntN(5)]
	m.disk = crash(c.mem, percent, c.rng.Uint64())
	c.moments = append(c.moments, m)
	return nil
}

// run proposes from several goroutines and returns all records in the order of the log, and the moments.
func runWithCrashes(t *testing.T, mode Mode, seed uint64) ([]applied, []moment) {
	t.Helper()
	mem := vfs.NewCrashableMem()
	d := newDisk(mem)
	opts := testOptions(d)
	opts.Mode = mode
	var l *Log
	var ready sync.WaitGroup
	ready.Add(1)
	c := &crashes{mem: mem, history: &history{}, rng: rand.New(rand.NewPCG(seed, 7))}
	var once sync.Mutex
	c.log = func() *Log { once.Lock(); defer once.Unlock(); return l }
	d.before(c.before)
	opts.OnCommit = c.history.onCommit

	opened, _, err := replay(opts)
	if err != nil {
		t.Fatal(err)
	}
	once.Lock()
	l = opened
	once.Unlock()
	if err := l.Start(); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		wg.Go(func() {
			for n := range 12 {
				size := 1 << rng.IntN(13) // one to several 4 KiB pages of the crashing disk
				p := newPromise(filler(fmt.Sprintf("%d/%d ", i, n), size+rng.IntN(size)))
				if err := l.Propose(p.Proposal); err != nil {
					t.Error(err)
					return
				}
				if n%4 != 0 { // some are under way together
					if err := p.wait(t); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	d.hook.Store(nil)
	return c.history.batches, c.moments
}

func payloadsOf(batches []applied) (all []string) {
	for _, b := range batches {
		all = append(all, b.payloads...)
	}
	return all
}

// checkPrefix checks that got is a prefix of the batches of all, with at least the first records records.
func checkPrefix(t *testing.T, what string, got, all []applied, records int) {
	t.Helper()
	if len(got) > len(all) {
		t.Fatalf("%s: %d batches, more than the %d that were ever written", what, len(got), len(all))
	}
	for i := range got {
		if fmt.Sprint(got[i]) != fmt.Sprint(all[i]) {
			t.Fatalf("%s: batch %d is not what was written there", what, i)
		}
	}
	if n := len(payloadsOf(got)); n < records {
		t.Fatalf("%s: %d records are left of %d acknowledged ones", what, n, records)
	}
}

// At every change of the disk the power may go. What was acknowledged in sync mode, and what was said to be durable in the
// other modes, is there in order, once; nothing else but what was written comes back; and the log goes on from there.
func TestCrashAtEveryPoint(t *testing.T) {
	for _, mode := range allModes {
		t.Run(mode.String(), func(t *testing.T) {
			torn, points := int64(0), 0
			for seed := range uint64(4) {
				all, moments := runWithCrashes(t, mode, seed)
				points += len(moments)
				for _, m := range moments {
					what := fmt.Sprintf("seed %d, before %s", seed, m.op)
					promised := m.applied
					if mode != ModeSync {
						promised = 0
						for _, b := range all {
							if b.end <= m.durable {
								promised += len(b.payloads)
							}
						}
					}
					torn += checkRecovery(t, what, m.disk, all, promised)
				}
			}
			t.Logf("%d points, %d bytes of torn tails cut", points, torn)
			if torn == 0 {
				t.Error("no crash has torn a batch: the test proves nothing")
			}
		})
	}
}

// checkRecovery recovers a disk after a crash, goes on, and crashes it again, also while it recovers. It returns how many
// bytes were cut.
func checkRecovery(t *testing.T, what string, mem *vfs.MemFS, all []applied, promised int) int64 {
	t.Helper()
	d := newDisk(mem)
	c := &crashes{mem: mem, log: func() *Log { return nil }, rng: rand.New(rand.NewPCG(uint64(promised), 3))}
	d.before(c.before)
	opts := testOptions(d)
	l, h, err := replay(opts)
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	checkPrefix(t, what, h.batches, all, promised)
	d.hook.Store(nil)

	// What a replay has handed out is durable, and so is the cut.
	l2, again, err := replay(testOptions(crash(mem, 0, 0)))
	if err != nil {
		t.Fatalf("%s, replayed, crashed: %v", what, err)
	}
	equal(t, what+", replayed, crashed", again.batches, h.batches)
	if n := l2.Recovery().Cut; n != 0 {
		t.Fatalf("%s, replayed, crashed: the cut was not durable, %d bytes came back", what, n)
	}
	for _, m := range c.moments {
		_, h2, err := replay(testOptions(m.disk))
		if err != nil {
			t.Fatalf("%s, crashed in recovery before %s: %v", what, m.op, err)
		}
		checkPrefix(t, what+", crashed in recovery before "+m.op, h2.batches, all, promised)
	}

	// It goes on where it ended: what is appended now is never mixed up with what was cut.
	l.opts.OnCommit = h.onCommit
	if err := l.Start(); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	add(t, l, "after")
	survived := crash(mem, 50, uint64(promised))
	closeLog(t, l)
	_, again, err = replay(testOptions(survived))
	if err != nil {
		t.Fatalf("%s, gone on, crashed: %v", what, err)
	}
	equal(t, what+", gone on, crashed", again.batches, h.batches)
	return l.Recovery().Cut
}

// A killed process leaves batches in the page cache only. What a replay hands out of them must survive a power cut.
func TestReplayedIsDurable(t *testing.T) {
	mem := vfs.NewCrashableMem()
	opts := testOptions(mem)
	opts.Mode = ModeOS
	killed, h := start(t, opts)
	for i := range 20 {
		add(t, killed, filler(fmt.Sprint(i, " "), 1500)) // two segments, of which the first was synced at the roll
	}
	_, replayed, err := replay(opts) // the next process
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "replayed", replayed.batches, h.batches)
	_, left, err := replay(testOptions(crash(mem, 0, 0)))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "left after a power cut", left.batches, replayed.batches)
	closeLog(t, killed)
}
