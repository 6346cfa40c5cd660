// Package store joins log and index: append → durable → fold → visible, and the reads of queues, keys and times.
//
// Order of reading: this file (open and close), folder.go (how a committed batch becomes visible), records.go and
// queues.go (what messages become: runs, bounds, buckets, key index), later.go (those that wait), run.go (their bytes), then the reads: read.go,
// search.go, query.go, place.go (where a message is that waited); expire.go (retention), durable.go (what of the view is on disk), restore.go and verify.go (the
// view against the log).
//
// Rules of the package:
//   - The log is the truth. The view is written by the folder alone, one engine batch per log batch, the same way at
//     start and later; what memory holds only saves reads.
//   - An acknowledgement follows the commit, the apply and the publication of its batch, in this order, so whoever was
//     answered reads what he wrote.
//   - A record that cannot be applied means that view and log have parted. The store then stops: nothing more is
//     applied or acknowledged, reads go on.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/txn"
)

// Errors that callers decide on, beside those of commitlog.
var (
	// ErrNotFound says that there is no message where one was asked for.
	ErrNotFound = errors.New("no such message")
	// ErrLocked says that another process has the data folder.
	ErrLocked = errors.New("the data folder is in use")
	// ErrViewFailed says that the view could not follow the log and the store has stopped. It comes together with
	// commitlog.ErrFailed, which is what it means to whoever proposes.
	ErrViewFailed = errors.New("the index could not follow the log")
)

// Options of a store. The zero value of a field means its default.
type Options struct {
	FS          vfs.FS         // default vfs.Default; the rocksdb engine knows no other
	Dir         string         // holds log/, index/, checkpoint-…/, LOCK; made when missing
	Engine      string         // "pebble" (default) or "rocksdb" (build tag grocksdb)
	CacheBytes  int64          // the engine's block cache and memtables come out of this budget; default 64 MiB
	SegmentSize int64          // bytes; default 1 GiB
	Mode        commitlog.Mode // default commitlog.ModeSync
	Interval    time.Duration  // default 200 ms, commitlog.ModeInterval only
	Retention   time.Duration  // how long messages stay, default 72 h
	// Tier has what is no more here; nil: there is none. Whoever opened it closes it after the store.
	Tier *tiered.Tier
	// TierRetention is how long the tier keeps messages of topics that do not say so themselves (reserve.time), default 365 days.
	TierRetention time.Duration
	Clock         clock.Clock // default clock.System
	Logger        zerolog.Logger
	// OnApplied is called by the folder goroutine after each applied batch became visible; it must not block. The slice is
	// reused after it returns.
	OnApplied func(arrivals []Arrival)
	// OnSealed is called by the folder goroutine when a batch behind a segment's end has been applied, from which moment Upload takes the
	// segment; it must not block. A segment that was sealed before Open is not told of.
	OnSealed func()
	// horizon is delay.Horizon but in tests that have nothing that waits.
	horizon time.Duration
}

// Arrival says that a queue grew.
type Arrival struct {
	Topic     kvindex.ID
	Queue     int32
	First     int64 // offset of the first new message
	Count     int
	TagHashes []int64 // of the new messages, in order
}

// Store is one broker's data. Safe for concurrent use.
type Store struct {
	Catalog *catalog.Catalog
	Pop     *pop.State
	Delay   *delay.State
	Txn     *txn.State

	opts   Options
	more   moreFolds
	lock   io.Closer
	log    *commitlog.Log
	engine kvindex.Engine
	folder *folder
	queues *queueFold
	// Copies of what the folder has reached, for everybody else.
	applied atomic.Pointer[kvindex.Applied]
	failed  atomic.Pointer[error] // why the view stopped
	stuck   atomic.Pointer[error] // why it waits, while it does
	active  record.Position       // the segment of the batch applied last; the folder's
	quit    chan struct{}         // closed by Close
	open    context.Context       // ended by Close, for reads of the tier
	shut    context.CancelFunc
	turns   chan struct{} // held by verbs that read the tier
	durable durable
	sealed  sealed

	expiring sync.Mutex // one Expire at a time
	tier     tierState
	recovery Recovery
	closing  struct {
		sync.Once
		err error
	}
}

// Recovery tells how a start went.
type Recovery struct {
	Batches, Records int64
	LogBytes         int64 // that were applied again
	Took             time.Duration
	Cut              int64  // bytes of torn tail that were cut
	Restored         string // why the view was set up anew, and from what; "" when it was sound
}

const (
	logFolder   = "log"
	indexFolder = "index"
	lockFile    = "LOCK"
)

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("store: no directory given")
	}
	if o.Retention < 0 || o.TierRetention < 0 || o.CacheBytes < 0 {
		return o, errors.New("store: retentions and cache size must not be negative")
	}
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Engine == "" {
		o.Engine = kvindex.KindPebble
	}
	if o.CacheBytes == 0 {
		o.CacheBytes = 64 << 20
	}
	if o.Retention == 0 {
		o.Retention = 72 * time.Hour
	}
	if o.TierRetention == 0 {
		o.TierRetention = 365 * 24 * time.Hour
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if o.horizon == 0 {
		o.horizon = delay.Horizon
	}
	return o, nil
}

func (o *Options) path(name string) string { return o.FS.PathJoin(o.Dir, name) }

// Open opens the store in opts.Dir, or makes an empty one there: it opens log and view, applies to the view what it has
// not seen of the log, and begins to accept proposals. Errors to decide on: ErrLocked, *commitlog.CorruptError,
// commitlog.ErrViewAhead, kvindex.ErrNotBuilt, kvindex.ErrOtherEngine.
func Open(ctx context.Context, opts Options) (*Store, error) {
	return open(ctx, opts, popFold)
}

func popFold(e kvindex.Engine) []kvindex.Fold { return []kvindex.Fold{pop.New(e)} }

// open takes the folds beside catalog and queues from more, which tests replace.
func open(ctx context.Context, opts Options, more moreFolds) (_ *Store, err error) {
	opts, err = opts.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{opts: opts, more: more, quit: make(chan struct{})}
	s.open, s.shut = context.WithCancel(context.Background())
	s.turns = make(chan struct{}, coldTurns)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.release())
		}
	}()
	if err := s.openFiles(); err != nil {
		return nil, err
	}
	s.folder = newFolder(s.engine, more)
	s.Catalog, s.queues = s.folder.catalog, s.folder.queues
	s.Delay, s.Txn = s.folder.delay, s.folder.txn
	for _, fold := range s.folder.folds {
		if state, ok := fold.(*pop.State); ok {
			s.Pop = state
		}
	}
	if err := s.recover(ctx); err != nil {
		return nil, err
	}
	if err := s.log.Start(); err != nil {
		return nil, fmt.Errorf("store: start log: %w", err)
	}
	s.active = s.log.Active()
	return s, nil
}

// openFiles takes the folder, and opens log and index.
func (s *Store) openFiles() error {
	o := &s.opts
	if err := makeDir(o.FS, o.Dir); err != nil {
		return fmt.Errorf("store: make data folder: %w", err)
	}
	lock, err := o.FS.Lock(o.path(lockFile))
	if err != nil {
		return fmt.Errorf("store: %w: %s: %w", ErrLocked, o.Dir, err)
	}
	s.lock = lock
	if err := checkRestored(o); err != nil {
		return err
	}
	if err := s.removeLeftovers(); err != nil {
		return err
	}
	s.log, err = commitlog.Open(commitlog.Options{
		FS: o.FS, Dir: o.path(logFolder), SegmentSize: o.SegmentSize, Mode: o.Mode, Interval: o.Interval,
		Clock: o.Clock, Logger: o.Logger, Seal: seal, OnCommit: s.onCommit,
	})
	if err != nil {
		return fmt.Errorf("store: open log: %w", err)
	}
	return s.openView()
}

// recover applies what the view has not seen.
func (s *Store) recover(ctx context.Context) error {
	began := s.opts.Clock.Now()
	s.folder.commit = func(try func() error) error { return s.commitPatiently(ctx, try) }
	at, err := kvindex.ReadApplied(s.engine)
	if err != nil {
		return fmt.Errorf("store: %w", err)
	}
	s.applied.Store(&at)
	s.durable.opened(at.End)
	r := &s.recovery
	err = s.log.Replay(at.End, func(b *commitlog.Batch) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := s.applyBatch(b); err != nil {
			return err
		}
		s.folder.reset()
		s.flushIfDue(b)
		r.Batches++
		r.Records += int64(len(b.Records))
		r.LogBytes += int64(b.End - b.Position)
		return nil
	})
	if err != nil {
		return fmt.Errorf("store: replay the log from %d: %w", at.End, err)
	}
	r.Took = s.opts.Clock.Now().Sub(began)
	r.Cut = s.log.Recovery().Cut
	s.folder.commit = func(try func() error) error { return s.commitPatiently(context.Background(), try) }
	return nil
}

// Recovery tells how the start went.
func (s *Store) Recovery() Recovery { return s.recovery }

// Propose hands a proposal to the log; errors are those of commitlog.Log.Propose. Done runs on the folder goroutine. What
// no fold could apply is refused here, because once in the log it would stop every start.
func (s *Store) Propose(p *commitlog.Proposal) error {
	if err := s.viewError(); err != nil {
		return err
	}
	for i := range p.Records {
		r := &p.Records[i]
		if r.Kind == record.KindStart {
			if _, err := decodeStart(r.Payload); err != nil {
				return fmt.Errorf("store: %w", err)
			}
		}
		if s.folder.owner[r.Kind] == 0 {
			return fmt.Errorf("store: record of kind %v: %w", r.Kind, errMalformed)
		}
		if _, carries := headOf(r.Kind); !carries {
			continue
		}
		if _, err := split(*r); err != nil {
			return fmt.Errorf("store: %w", err)
		}
	}
	return s.log.Propose(p)
}

// Append proposes recs as one proposal and waits until they are applied. When ctx ends first, what becomes of them is
// unknown.
func (s *Store) Append(ctx context.Context, recs ...record.Record) ([]record.Outcome, error) {
	done := make(chan struct{})
	p := &commitlog.Proposal{Records: recs, Done: func(*commitlog.Proposal) { close(done) }}
	if err := s.Propose(p); err != nil {
		return nil, err
	}
	select {
	case <-done:
		return p.Outcomes, p.Err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Reader is the index for lookups of the latest applied state.
func (s *Store) Reader() kvindex.Reader { return s.engine }

// viewError is why the view stopped, or nil.
func (s *Store) viewError() error {
	if err := s.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// Close finishes what was proposed, makes log and view durable and gives the folder free. Nothing may be called on the
// store afterwards, and no read may be under way.
func (s *Store) Close() error {
	s.closing.Do(func() {
		close(s.quit)
		s.shut()
		err := s.finishLog()
		s.durable.wait()
		if err == nil && s.viewError() == nil {
			if err = s.engine.Flush(); err != nil {
				err = fmt.Errorf("store: flush index: %w", err)
			}
		}
		s.closing.err = errors.Join(err, s.release())
	})
	return s.closing.err
}

// finishLog commits and applies what was proposed, syncs and closes the log.
func (s *Store) finishLog() error {
	if err := s.log.Close(); err != nil {
		return fmt.Errorf("store: close log: %w", err)
	}
	return nil
}

// release closes what is open. The log comes before the index, because its last batches still go there.
func (s *Store) release() error {
	var errs []error
	if s.log != nil {
		errs = append(errs, s.log.Close())
	}
	s.durable.wait()
	if s.folder != nil {
		errs = append(errs, s.folder.batch.Close())
	}
	if s.engine != nil {
		errs = append(errs, s.sealed.drop(), s.engine.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}
