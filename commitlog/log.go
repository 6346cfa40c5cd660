package commitlog

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/internal/record"
)

// Batch is one group commit.
type Batch struct {
	Position  record.Position // of the batch header
	End       record.Position // of the byte after the batch
	Term      uint64
	Index     uint64 // 1, 2, 3 … one more for each batch
	Timestamp int64  // ms since 1970, never less than the batch before
	Records   []record.Record
	Positions []record.Position // of each record
	// Proposals are those that wait for this batch, in order; together they hold exactly Records. Nil in a replay.
	Proposals []*Proposal
}

// Proposal is a set of records that go into one batch together, and the promise of their outcome. It belongs to the log,
// payloads included, from a successful Propose until Done is called.
type Proposal struct {
	Records []record.Record
	// Done is called exactly once when the proposal was applied or has failed; it must not block. After a Propose that
	// returned an error it is not called.
	Done func(*Proposal)

	// At is the time (ms since 1970) that the proposal's batch has, for records of things that happened before; 0 is now. Only
	// proposals of the same At share a batch. The log's time does not go back: a batch has at least the time of the one before.
	At int64

	// Set before Done is called.
	Err       error
	Timestamp int64             // of the batch
	Positions []record.Position // aligned with Records
	Outcomes  []record.Outcome  // aligned with Records; set by whoever applies them
	// Context is the proposer's own; the log does not touch it.
	Context any

	size int // encoded bytes of Records
}

// Log is a commitlog. Call Open, Replay and Start in this order; after Start every method may be called from any
// goroutine.
type Log struct {
	opts     Options
	log      zerolog.Logger
	segments *table

	tail     tail     // Replay's, then the writer's
	recovery Recovery // Replay's

	committed atomic.Int64 // positions
	durable   atomic.Int64
	state     atomic.Pointer[error]
	counts    struct{ batches, records, bytes, syncs atomic.Int64 }

	deleting   sync.Mutex // one DeleteBefore at a time
	workers    sync.WaitGroup
	writerGone chan struct{} // closed when the writer has written its last batch
	prepare    chan struct{} // wakes the preparer; holds one token

	mu struct {
		sync.Mutex
		phase   phase
		failure error // set once, for good
		full    bool  // the disk is; the preparer ends it
		probed  int64 // ms: when room was last looked for

		// The pipeline. Each stage waits on its own condition.
		toWrite, toSync, toApply, synced sync.Cond

		queue    queue
		pending  int64           // encoded bytes of the proposals that are not applied yet
		written  record.Position // end of the last batch written
		lastTime int64           // ms: its timestamp
		want     record.Position // what somebody wants to be durable
		dirty    []*handle       // files with bytes that are not durable yet, held
		unsynced []*flight       // written, to be committed by a sync; ModeSync only
		syncing  bool
		ready    []*flight // committed, to be applied
		inFlight int       // batches written and not applied yet
		spare    []*flight

		writerExited, syncerExited bool

		// The room ahead.
		active, next         *segment // next is made and waits for the active one to be full
		activeFile, nextFile *handle  // held
	}
}

// phase is how far a log has come.
type phase uint8

const (
	phaseOpen phase = iota
	phaseReplayed
	phaseStarted
	phaseClosed
)

// flight is a batch on its way from the queue to OnCommit.
type flight struct {
	Batch
	bytes int // encoded bytes of its records
}

// Recovery tells what Replay found.
type Recovery struct {
	Batches, Records int64           // replayed
	Bytes            int64           // of the batches replayed
	Cut              int64           // bytes of torn tail that were cut (or would be, for Inspect)
	End              record.Position // of the log
	Index            uint64          // of the last batch, 0 for none
}

// Stats counts what happened since Start.
type Stats struct {
	Batches, Records, Bytes int64 // written
	Syncs                   int64 // fdatasync calls that made batches durable
}

// Open lists the segments in opts.Dir, which it makes when missing. It reads none of them.
func Open(opts Options) (*Log, error) {
	opts, err := opts.withDefaults()
	if err != nil {
		return nil, err
	}
	if err := makeDir(opts.FS, opts.Dir); err != nil {
		return nil, err
	}
	spans, err := listSpans(opts.FS, opts.Dir)
	if err != nil {
		return nil, err
	}
	l := &Log{
		opts:       opts,
		log:        opts.Logger,
		segments:   newTable(opts.FS, opts.Dir),
		writerGone: make(chan struct{}),
		prepare:    make(chan struct{}, 1),
	}
	for _, c := range []*sync.Cond{&l.mu.toWrite, &l.mu.toSync, &l.mu.toApply, &l.mu.synced} {
		c.L = &l.mu
	}
	l.setSegments(spans)
	return l, nil
}

// makeDir makes dir, durably.
func makeDir(fsys vfs.FS, dir string) error {
	_, err := fsys.Stat(dir)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("commitlog: look at directory: %w", err)
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("commitlog: make directory: %w", err)
	}
	return syncDir(fsys, fsys.PathDir(dir))
}

// setSegments makes the table from what the directory shows. The last segment may grow to its full size.
func (l *Log) setSegments(spans []span) {
	list := make([]*segment, len(spans))
	for i, s := range spans {
		list[i] = &segment{start: s.start, name: s.name, end: s.end, filled: s.size}
		if i == len(spans)-1 {
			list[i].end = max(s.start+record.Position(l.opts.SegmentSize), s.start+record.Position(alignUp(s.size, pageSize)))
		}
	}
	l.segments.list.Store(&list)
}

// Start begins to accept proposals. In a new log it makes the first segment.
func (l *Log) Start() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.phase != phaseReplayed {
		return fmt.Errorf("commitlog: Start must come once, after Replay")
	}
	t := &l.tail
	if t.log == 0 {
		t.log = newLogNumber()
	}
	if err := l.openTail(); err != nil {
		return err
	}
	l.mu.phase = phaseStarted
	l.mu.active, l.mu.activeFile = t.segment, t.file
	l.mu.written, l.mu.want, l.mu.lastTime = t.pos, t.pos, t.timestamp

	l.run(l.writeLoop)
	l.run(l.syncLoop)
	l.run(l.applyLoop)
	l.run(l.prepareLoop)
	if l.opts.Mode == ModeInterval {
		l.run(l.intervalLoop)
	}
	return nil
}

// openTail opens the last segment for writing, or makes the first one.
func (l *Log) openTail() error {
	t := &l.tail
	list := l.segments.all()
	if len(list) == 0 {
		seg, file, err := l.makeSegment(t.pos)
		if err != nil {
			return err
		}
		l.segments.add(seg, file)
		t.segment, t.file = seg, file
		return nil
	}
	t.segment = list[len(list)-1]
	f, err := l.opts.FS.OpenReadWrite(l.segments.path(t.segment.name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("commitlog: open segment %s: %w", t.segment.name, err)
	}
	t.file = newHandle(f)
	l.segments.share(t.segment, t.file)
	return nil
}

func newLogNumber() uint64 {
	var b [8]byte
	for {
		_, _ = rand.Read(b[:]) // never fails
		if n := le.Uint64(b[:]); n != 0 {
			return n
		}
	}
}

func (l *Log) run(loop func()) { l.workers.Go(loop) }

// State says whether proposals are accepted: nil, ErrDiskFull, or an error that wraps ErrFailed and its cause.
func (l *Log) State() error {
	if err := l.state.Load(); err != nil {
		return *err
	}
	return nil
}

// First is the start of the oldest segment.
func (l *Log) First() record.Position {
	if list := l.segments.all(); len(list) > 0 {
		return list[0].start
	}
	return 0
}

// Committed is the end of the newest committed batch; during Replay that of the newest batch replayed.
func (l *Log) Committed() record.Position { return record.Position(l.committed.Load()) }

// Durable is the position up to which everything survives a power cut.
func (l *Log) Durable() record.Position { return record.Position(l.durable.Load()) }

// Recovery tells what Replay found.
func (l *Log) Recovery() Recovery { return l.recovery }

// Stats counts what happened since Start.
func (l *Log) Stats() Stats {
	c := &l.counts
	return Stats{Batches: c.batches.Load(), Records: c.records.Load(), Bytes: c.bytes.Load(), Syncs: c.syncs.Load()}
}

// Close commits what was proposed, syncs in every mode, and closes. Proposals that come later get ErrClosed. It returns
// the failure that stopped the log, if one did. A second Close does nothing.
func (l *Log) Close() error {
	l.mu.Lock()
	before := l.mu.phase
	l.mu.phase = phaseClosed
	l.wakeAllLocked()
	l.mu.Unlock()
	if before == phaseClosed {
		return nil
	}
	if before == phaseStarted {
		l.workers.Wait()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range []*handle{l.mu.activeFile, l.mu.nextFile} {
		if h != nil {
			h.release()
		}
	}
	l.segments.close()
	return l.mu.failure
}

// fail stops the log for good.
func (l *Log) fail(doing string, cause error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.failure != nil {
		return
	}
	err := fmt.Errorf("%w: %s: %w", ErrFailed, doing, cause)
	l.mu.failure = err
	l.state.Store(&err)
	l.log.Error().Err(err).Int64("durable", l.durable.Load()).Msg("the commitlog has stopped")
	l.wakeAllLocked()
}

// setFull turns read-only mode on or off.
func (l *Log) setFull(full bool, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.probed = l.now()
	if l.mu.failure != nil || l.mu.full == full {
		return
	}
	l.mu.full = full
	if full {
		err := error(ErrDiskFull)
		l.state.Store(&err)
		l.log.Warn().Err(why).Msg("disk full: the commitlog is read-only until there is room")
	} else {
		l.state.Store(nil)
		l.log.Info().Msg("there is room on the disk again: the commitlog takes writes")
	}
	l.mu.toWrite.Signal()
}

// refusalLocked says why nothing is accepted at the moment, or nil.
func (l *Log) refusalLocked() error {
	if l.mu.failure != nil {
		return l.mu.failure
	}
	if l.mu.full {
		return ErrDiskFull
	}
	return nil
}

func (l *Log) wakeAllLocked() {
	l.mu.toWrite.Broadcast()
	l.mu.toSync.Broadcast()
	l.mu.toApply.Broadcast()
	l.mu.synced.Broadcast()
}

func (l *Log) now() int64 { return l.opts.Clock.Now().UnixMilli() }

func alignUp(n, to int64) int64 { return (n + to - 1) / to * to }
