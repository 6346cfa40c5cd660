package store

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/kvindex"
)

// The crash tests keep log and index on one disk in memory that knows what was synced. At every sync, rename and removal
// of a run a copy of the disk is made as a power cut would leave it at that instant, together with what had been
// acknowledged by then. Each copy is then opened and looked at.

// cut is a disk after a power cut, and what was acknowledged before it. Proposals from number kept on were not to expire.
type cut struct {
	why   string
	fs    *vfs.MemFS
	acked map[string]bool
	kept  int
}

// linkGuard keeps links and crash clones apart: MemFS.Link takes a read lock twice, and hangs when a clone waits in between.
type linkGuard struct {
	*vfs.MemFS
	mu *sync.Mutex
}

func (g linkGuard) Link(oldname, newname string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.MemFS.Link(oldname, newname)
}

// recorder makes cuts.
type recorder struct {
	mem   *vfs.MemFS
	links sync.Mutex
	mu    struct {
		sync.Mutex
		rng   *rand.Rand
		acked map[string]bool
		cuts  []cut
		kept  int
		limit int
		on    bool
	}
}

func newRecorder(seed uint64, limit int) *recorder {
	r := &recorder{mem: vfs.NewCrashableMem()}
	r.mu.rng = rand.New(rand.NewPCG(seed, 7))
	r.mu.acked = map[string]bool{}
	r.mu.limit = limit
	r.mu.on = true
	return r
}

// fs is the disk, which makes a cut before each operation that makes something durable.
func (r *recorder) fs() vfs.FS {
	return errorfs.Wrap(linkGuard{r.mem, &r.links}, errorfs.InjectorFunc(func(op errorfs.Op) error {
		switch op.Kind {
		case errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpRename, errorfs.OpRemove,
			errorfs.OpLink:
			r.cut(fmt.Sprintf("%v %s", op.Kind, op.Path))
		}
		return nil
	}))
}

func (r *recorder) cut(why string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.mu.on || len(r.mu.cuts) >= r.mu.limit {
		return
	}
	acked := map[string]bool{}
	for id := range r.mu.acked {
		acked[id] = true
	}
	r.links.Lock()
	defer r.links.Unlock()
	cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 0, 30, 100}[r.mu.rng.IntN(4)], RNG: r.mu.rng}
	r.mu.cuts = append(r.mu.cuts, cut{fmt.Sprintf("%s, %d%% of the unsynced kept", why, cfg.UnsyncedDataPercent),
		r.mem.CrashClone(cfg), acked, r.mu.kept})
}

func (r *recorder) ack(ids ...string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range ids {
		r.mu.acked[id] = true
	}
}

// step is the time between two proposals of a load.
const step = 3 * time.Minute

// expire notes that whole hours before cutoff may go.
func (r *recorder) expire(cutoff time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for epoch.Add(time.Duration(r.mu.kept) * step).Before(cutoff.Truncate(time.Hour)) {
		r.mu.kept++
	}
}

func (r *recorder) stop() []cut {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.on = false
	return r.mu.cuts
}

// load sends proposals of a few messages to the queues of topics "a" and "b" from two senders, flushes the view now and
// then, and expires what is old half-way through. Ids tell sender and number.
func (r *recorder) load(t *testing.T, s *Store, c *clock.Fake, proposals int) {
	topics := []kvindex.ID{putTopic(t, s, "a"), putTopic(t, s, "b")}
	body := string(make([]byte, 700))
	for n := range proposals {
		var wg sync.WaitGroup
		for sender := range 2 {
			var notes []note
			var ids []string
			for i := range 1 + (n+sender)%3 {
				id := fmt.Sprintf("%d-%d-%d", sender, n, i)
				ids = append(ids, id)
				notes = append(notes, note{topic: topics[(n+i)%2], queue: int32(sender), id: id, keys: "k", body: id + body})
			}
			wg.Go(func() {
				send(t, s, notes...)
				r.ack(ids...)
			})
		}
		wg.Wait()
		c.Advance(step)
		if n%7 == 3 {
			if _, err := s.flushView(); err != nil {
				t.Errorf("flush: %v", err)
			}
		}
		if n%40 == 39 {
			r.expire(c.Now().Add(-s.opts.Retention))
			if err := s.Expire(context.Background(), c.Now()); err != nil {
				t.Errorf("expire: %v", err)
			}
		}
	}
}

// survivors opens a cut and returns the unique ids that are there, having checked that each queue holds a sender's
// messages in order and once, and that the view is what the log says.
func survivors(t *testing.T, c cut, o Options) map[string]bool {
	t.Helper()
	o.FS = c.fs
	s := mustOpen(t, o)
	defer mustClose(t, s)
	mustVerify(t, s)
	found := map[string]bool{}
	for _, name := range []string{"a", "b"} {
		topic, err := s.Catalog.Topic(name)
		if err != nil {
			continue // made after the cut
		}
		for queue := range int32(2) {
			lastN, lastI := -1, -1
			for _, m := range readAll(t, s, topic.ID, queue, 0, 1<<20) {
				var sender, n, i int
				if _, err := fmt.Sscanf(string(m.Body), "%d-%d-%d", &sender, &n, &i); err != nil {
					t.Fatalf("body %.20q: %v", m.Body, err)
				}
				if int32(sender) != queue || n < lastN || n == lastN && i <= lastI {
					t.Fatalf("topic %s queue %d: %d-%d comes after %d-%d", name, queue, n, i, lastN, lastI)
				}
				lastN, lastI = n, i
				found[fmt.Sprintf("%d-%d-%d", sender, n, i)] = true
			}
		}
	}
	// It goes on from there.
	if topic, err := s.Catalog.Topic("a"); err == nil {
		_, high, err := s.Bounds(topic.ID, 0)
		if err != nil {
			t.Fatal(err)
		}
		if out := send(t, s, note{topic: topic.ID, queue: 0, body: "9999-0-0"}); out[0].Offset != high {
			t.Fatalf("the next message got offset %d, the queue ended at %d", out[0].Offset, high)
		}
	}
	mustVerify(t, s)
	return found
}

func crashOptions(r *recorder, c clock.Clock, mode commitlog.Mode) Options {
	o := testOptions(place{r.fs(), "data"}, c)
	o.SegmentSize, o.Mode, o.Retention = 32<<10, mode, time.Hour
	return o
}

func TestNothingAcknowledgedIsLostAtAnySyncPoint(t *testing.T) {
	skipWithoutMemory(t)
	r := newRecorder(1, 600)
	c := clock.NewFake(epoch)
	o := crashOptions(r, c, commitlog.ModeSync)
	s := mustOpen(t, o)
	r.load(t, s, c, 90)
	first := s.log.First()
	mustClose(t, s)
	cuts := r.stop()
	if len(cuts) < 200 || first == 0 {
		t.Fatalf("%d cuts, the log begins at %d: the run did not do what it should", len(cuts), first)
	}
	t.Logf("%d cuts", len(cuts))
	for i, cut := range cuts {
		found := survivors(t, cut, o)
		for id := range cut.acked {
			var sender, n, j int
			if _, err := fmt.Sscanf(id, "%d-%d-%d", &sender, &n, &j); err != nil {
				t.Fatal(err)
			}
			if !found[id] && n >= cut.kept {
				t.Fatalf("cut %d (%s): message %s was acknowledged and is gone; %d to be kept", i, cut.why, id, cut.kept)
			}
		}
	}
}

// In the other modes a power cut may take what was acknowledged last, but the view on disk never knows more than the log
// on disk, and what is left is a beginning of what was sent.
func TestTheViewIsNeverAheadOfTheLog(t *testing.T) {
	skipWithoutMemory(t)
	for _, mode := range []commitlog.Mode{commitlog.ModeInterval, commitlog.ModeOS} {
		t.Run(mode.String(), func(t *testing.T) {
			r := newRecorder(2, 250)
			c := clock.NewFake(epoch)
			o := crashOptions(r, c, mode)
			s := mustOpen(t, o)
			r.load(t, s, c, 60)
			mustClose(t, s)
			cuts := r.stop()
			if len(cuts) < 50 {
				t.Fatalf("%d cuts", len(cuts))
			}
			for _, cut := range cuts {
				survivors(t, cut, o)
			}
		})
	}
}
