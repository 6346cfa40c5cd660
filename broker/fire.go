package broker

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/store"
)

const (
	// firedAtOnce is how many timers one proposal fires at most. Folding them takes some milliseconds, in which no send is
	// answered.
	firedAtOnce = 1024
	// copiedAtOnce bounds the bodies that one proposal copies, in bytes; a single larger one is copied alone.
	copiedAtOnce = 4 << 20
	// manyAtOnce is from how many timers on a chunk is one of a mass.
	manyAtOnce = firedAtOnce / 4
	// besideBytes is what others have to write between two chunks for such chunks to come more slowly for as long as besideFor: some
	// tens of messages. Between most chunks nobody gets to write anything: it must not be forgotten at once that somebody wants to.
	besideBytes = 16 << 10
	besideFor   = time.Second
	// besideRate is how many timers a second fire then for each processor that there is. Firing is cheap, but who consumes what fires
	// uses the same machine: ten times as much would leave others a third of it.
	besideRate = 50_000
	// fireNap is how long the firer sleeps at most while there are timers: the clock may be set.
	fireNap = 500 * time.Millisecond
	// fireRetry is how long it rests when the log does not take what it has to write.
	fireRetry = 100 * time.Millisecond
	// horizonEvery is how often the place is looked up before which bodies are copied.
	horizonEvery = time.Minute
)

// latenessBounds are the upper bounds (ms) of the classes of how late timers fire; a last class is above.
var latenessBounds = [...]int64{1, 2, 5, 10, 20, 50, 100, 500, 1000, 5000, 60_000}

// lateness counts fired timers by how late they were.
type lateness struct {
	classes [len(latenessBounds) + 1]atomic.Int64
	sum     atomic.Int64 // ms
}

func (l *lateness) count(ms int64) {
	class := 0
	for class < len(latenessBounds) && ms > latenessBounds[class] {
		class++
	}
	l.classes[class].Add(1)
	l.sum.Add(ms)
}

// total is how many were counted.
func (l *lateness) total() (n int64) {
	for i := range l.classes {
		n += l.classes[i].Load()
	}
	return n
}

// firer makes delayed messages visible at their time. One goroutine: it sleeps until the first timer is due, then fires what is
// due in chunks, each one proposal, until nothing is. While one chunk is on its way to the disk the next is not begun, so that
// sends come in between, however many are due.
type firer struct {
	store  *store.Store
	clock  clock.Clock
	log    zerolog.Logger
	late   lateness
	meters *meters
	fails  bool // the last round did, and it was said

	// What was stored before this position is older than the horizon, as it was seen at that time.
	horizon   record.Position
	horizonAt time.Time

	last   record.Position // of the last record of the chunk before
	beside time.Time       // when others had written between two chunks

	timers []delay.Timer // of the chunk under way
	shots  []shot        // likewise
}

// shot is one record of a chunk: it fires the timers before the end that the record before does not fire.
type shot struct {
	record  record.Record
	end     int
	dropped bool // its only timer is given up instead
}

func newFirer(s *store.Store, c clock.Clock, m *meters, log zerolog.Logger) *firer {
	return &firer{store: s, clock: c, meters: m, log: log}
}

// run fires timers until ctx ends.
func (f *firer) run(ctx context.Context) {
	timer := f.clock.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		next, err := f.fireDue(ctx)
		f.tell(ctx, err)
		changed := f.store.Delay.Changed()
		if err != nil {
			next, changed = f.clock.Now().Add(fireRetry), nil // not sooner, whatever comes
		}
		var due <-chan time.Time
		if !next.IsZero() {
			arm(f.clock, timer, next)
			due = timer.C()
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-due:
		}
	}
}

// tell logs that timers do not fire, and that they do again, once each.
func (f *firer) tell(ctx context.Context, err error) {
	switch {
	case err == nil && f.fails:
		f.log.Info().Msg("timers fire again")
	case err != nil && !f.fails && ctx.Err() == nil:
		f.log.Error().Err(err).Msg("timers do not fire at the moment; trying on")
	}
	f.fails = err != nil
}

// fireDue fires everything that is due and tells when to look again; the zero time when there are no timers.
func (f *firer) fireDue(ctx context.Context) (next time.Time, err error) {
	for {
		now := f.clock.Now()
		look, err := f.store.Delay.Look(now.UnixMilli(), firedAtOnce, f.timers)
		if err != nil {
			return time.Time{}, err
		}
		f.timers = look.Due
		fired, all, err := f.fireChunk(ctx, now)
		all = all && len(f.timers) == len(look.Due) && err == nil
		look.Done(all)
		if n := len(look.Due); err == nil && n >= manyAtOnce && now.Sub(f.beside) < besideFor {
			pace := time.Duration(n) * time.Second / time.Duration(besideRate*runtime.GOMAXPROCS(0))
			err = f.rest(ctx, pace-f.clock.Now().Sub(now))
		}
		switch {
		case err != nil:
			return time.Time{}, err
		case all && look.Next == delay.Never:
			return time.Time{}, nil
		case all && look.Next > f.clock.Now().UnixMilli():
			return earlier(time.UnixMilli(look.Next), now.Add(fireNap)), nil
		case all || fired:
			continue
		}
		// All of them were recalled meanwhile, or the clock was set back and the log's time is before their due time.
		if _, pending, err := f.store.Delay.Get(look.Due[0].Point); err != nil || pending {
			return now.Add(fireNap), err
		}
	}
}

func (f *firer) rest(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return nil
	}
	timer := f.clock.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// fireChunk fires the timers, and says whether that was any and whether that was all. It may leave the last ones to the next
// chunk, and takes them out then.
func (f *firer) fireChunk(ctx context.Context, now time.Time) (fired, all bool, err error) {
	if len(f.timers) == 0 {
		return false, true, nil
	}
	if err := f.lookUpHorizon(now); err != nil {
		return false, false, err
	}
	if err := f.aim(); err != nil || len(f.shots) == 0 {
		return false, false, err
	}
	p := &commitlog.Proposal{Records: make([]record.Record, len(f.shots))}
	for i := range f.shots {
		p.Records[i] = f.shots[i].record
	}
	applied := make(chan int64, 1)
	p.Done = func(*commitlog.Proposal) { applied <- f.clock.Now().UnixMilli() }
	if err := f.store.Propose(p); err != nil {
		return false, false, err
	}
	select {
	case at := <-applied:
		if n := len(p.Positions); n > 0 {
			if f.last > 0 && p.Positions[0]-f.last > besideBytes {
				f.beside = f.clock.Now()
			}
			f.last = p.Positions[n-1]
		}
		fired, all = f.count(p, at)
		return fired, all, p.Err
	case <-ctx.Done(): // what becomes of the proposal is up to the log
		return false, false, ctx.Err()
	}
}

// count notes how late the timers were that became visible at a time (ms), and says whether that was any, and all.
func (f *firer) count(p *commitlog.Proposal, at int64) (fired, all bool) {
	if p.Err != nil {
		return false, false
	}
	from := 0
	all = true
	for i := range f.shots {
		s := &f.shots[i]
		if p.Outcomes[i].Refused {
			all = false
		} else {
			fired = true
			if !s.dropped {
				for i := range f.timers[from:s.end] {
					f.late.count(max(at-f.timers[from+i].Due, 0))
				}
				f.meters.countFired(f.store.Catalog, f.timers[from:s.end])
			}
		}
		from = s.end
	}
	return fired, all
}

// lookUpHorizon notes which bodies are too old to be pointed at by a new queue entry.
func (f *firer) lookUpHorizon(now time.Time) error {
	if since := now.Sub(f.horizonAt); since >= 0 && since < horizonEvery {
		return nil
	}
	at, err := f.store.PositionAt(now.Add(horizonEvery - delay.Horizon).UnixMilli())
	if err != nil {
		return err
	}
	f.horizon, f.horizonAt = at, now
	return nil
}

// aim makes the records that fire the timers in their order: those with a young body as ranges, the others one by one with a
// copy of the body. It may leave the last ones to the next chunk.
func (f *firer) aim() error {
	f.shots = f.shots[:0]
	buf := store.NewBuffer()
	defer buf.Release()
	copied, from := 0, 0
	for i := range f.timers {
		t := &f.timers[i]
		if t.Position >= f.horizon {
			continue
		}
		if from < i {
			f.aimAtRange(from, i)
		}
		from = i
		if copied > 0 && copied+int(t.Size) > copiedAtOnce {
			f.timers = f.timers[:i]
			break
		}
		buf.B = buf.B[:0]
		if err := f.aimAtOld(t, i+1, buf); err != nil {
			return err
		}
		copied += int(t.Size)
		from = i + 1
	}
	if from < len(f.timers) {
		f.aimAtRange(from, len(f.timers))
	}
	return nil
}

// aimAtRange fires timers whose bodies stay where they are. Who waits for them reads these as soon as they are visible, one
// after the other, and after a long delay mostly from the disk, which can fetch them at once. When the chunk is full nobody
// keeps up with the timers anyway.
func (f *firer) aimAtRange(from, end int) {
	if len(f.timers) < firedAtOnce {
		for i := range f.timers[from:end] {
			t := &f.timers[from+i]
			f.store.Prefetch(t.Position, t.Size)
		}
	}
	fire := delay.Fire{From: f.timers[from].Point, To: f.timers[end-1].Point}
	f.shots = append(f.shots, shot{record: fire.Record(), end: end})
}

// aimAtOld fires a timer from a copy of its body. One whose body cannot be had any more is given up: whoever waited behind it
// would wait forever.
func (f *firer) aimAtOld(t *delay.Timer, end int, buf *store.Buffer) error {
	layout, err := f.store.ReadStored(t.Position, t.Size, buf)
	var corrupt *commitlog.CorruptError
	switch {
	case err == nil:
		f.shots = append(f.shots, shot{record: store.CopyRecord(t.Point, true, t.Topic, layout), end: end})
	case errors.Is(err, commitlog.ErrGone), errors.As(err, &corrupt):
		f.log.Error().Err(err).Int64("due", t.Due).Int64("origin", int64(t.Origin)).Uint64("topic", uint64(t.Topic)).
			Msg("a delayed message cannot be delivered: its body is lost")
		f.shots = append(f.shots, shot{record: delay.Recall{Point: t.Point, Topic: t.Topic}.Record(), end: end, dropped: true})
	default:
		return fmt.Errorf("read the body of a timer: %w", err)
	}
	return nil
}
