package kvindex

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
)

// pebbleFormat is Pebble's own file format. A raise is one-way for a folder.
const pebbleFormat = pebble.FormatTableFormatV6

// noStall is a number of memtables, and of tables in level 0, that is never reached. A stalled commit of Pebble's can not be
// called off, not even by Close, so the flusher does that in its stead.
const noStall = 1 << 10

// keptBatch is how large a Writer's buffer may be to be kept for the next batch.
const keptBatch = 4 << 20

// pebbleEngine is the default engine.
type pebbleEngine struct {
	db       *pebble.DB
	fs       *guardFS
	health   *health
	flusher  *flusher        // nil when read-only
	attempts chan error      // to flush that failed; capacity 1
	sealed   <-chan struct{} // closed when what was sealed last is durable; the flusher's
}

func openPebble(o Options) (Engine, error) {
	if err := refuseFolderOf(o.FS, o.Dir, "rocksdb", "IDENTITY"); err != nil {
		return nil, err
	}
	if _, err := o.FS.Stat(o.Dir); o.ReadOnly && errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotFound
	}
	e := &pebbleEngine{health: newHealth(o.Logger), attempts: make(chan error, 1)}
	e.fs = &guardFS{FS: o.FS, health: e.health, readOnly: o.ReadOnly, beforeFlush: o.BeforeFlush,
		closing: make(chan struct{})}
	if !o.ReadOnly {
		if err := dropEmptyLogs(o.FS, o.Dir); err != nil {
			return nil, err
		}
	}
	cache := pebble.NewCache(o.MemoryBytes)
	defer cache.Unref()
	db, err := pebble.Open(o.Dir, e.options(o, cache))
	if errors.Is(err, pebble.ErrDBDoesNotExist) {
		return nil, ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	e.db = db
	if !o.ReadOnly {
		e.flusher = newFlusher(o.memtableBytes(), e.seal, e.await)
	}
	return e, nil
}

// refuseFolderOf says ErrOtherEngine when dir holds a file that only the other engine makes. Without this, an engine
// takes the other's tables for leftovers of its own and deletes them.
func refuseFolderOf(fs vfs.FS, dir, other, mark string) error {
	if _, err := fs.Stat(fs.PathJoin(dir, mark)); err == nil {
		return fmt.Errorf("%w: it holds an index of %s", ErrOtherEngine, other)
	}
	return nil
}

// emptyLog is the most that Pebble leaves in a WAL that nothing was written to: the mark of its end.
const emptyLog = 16

// dropEmptyLogs removes the WAL that Pebble makes at each opening although it is switched off. Pebble would flush after
// replaying it, empty as it is, and Open would then wait for whatever compactions that starts: seconds after heavy traffic.
func dropEmptyLogs(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err != nil {
		return nil // Pebble makes it, or says what is wrong
	}
	lock, err := pebble.LockDirectory(dir, fs)
	if err != nil {
		return err
	}
	defer lock.Close() // Pebble takes it again
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		if !strings.HasSuffix(name, ".log") {
			continue
		}
		if st, err := fs.Stat(path); err != nil || st.Size() > emptyLog {
			continue
		}
		if err := fs.Remove(path); err != nil {
			return err
		}
	}
	return nil
}

// options: the memtables take their memory out of the cache's budget. They begin small and double as rows come, so that an
// idle index costs little; Pebble flushes them by itself only when more than a full memtable has gathered.
func (e *pebbleEngine) options(o Options, cache *pebble.Cache) *pebble.Options {
	opts := &pebble.Options{
		FS:                          e.fs,
		Cache:                       cache,
		DisableWAL:                  true,
		ReadOnly:                    o.ReadOnly,
		FormatMajorVersion:          pebbleFormat,
		Logger:                      e.health,
		EventListener:               e.listener(),
		MemTableSize:                uint64(o.memtableBytes()),
		MemTableStopWritesThreshold: noStall,
		L0StopWritesThreshold:       noStall,
		L0CompactionThreshold:       16,
		LBaseMaxBytes:               64 << 20,
		MaxOpenFiles:                500,
		CompactionConcurrencyRange:  func() (int, int) { return 1, 2 },
	}
	opts.TargetFileSizes[0] = 4 << 20
	opts.Experimental.L0CompactionConcurrency = 16 // sublevels at which the second compaction begins
	opts.Experimental.ReadSamplingMultiplier = -1  // reads start no compactions
	for i := range opts.Levels {
		opts.Levels[i].BlockSize = 8 << 10
		opts.Levels[i].IndexBlockSize = 32 << 10
		opts.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	// The last level holds nine rows in ten; most reads are of rows that exist, and its filters would crowd the cache.
	opts.Levels[len(opts.Levels)-1].FilterPolicy = pebble.NoFilterPolicy
	return opts
}

// listener's functions are called with Pebble's lock held: they only leave notes.
func (e *pebbleEngine) listener() *pebble.EventListener {
	var flushErr error // of the last flush; Pebble also reports here that a flush had no rows
	return &pebble.EventListener{
		BackgroundError: func(err error) {
			if flushErr != nil && errors.Is(err, flushErr) {
				e.fs.flushes.failed()
				select {
				case e.attempts <- err:
				default: // one note is enough
				}
			}
			e.logRetry(err)
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) {
			e.health.fail(fmt.Errorf("damaged file %s: %w", info.Path, info.Details))
		},
		FlushBegin: func(pebble.FlushInfo) { e.fs.covered.Store(false) },
		FlushEnd: func(info pebble.FlushInfo) {
			if flushErr = info.Err; flushErr == nil {
				e.fs.flushes.succeeded()
			}
		},
		CompactionEnd: func(info pebble.CompactionInfo) {
			if info.Err == nil {
				e.fs.compactions.succeeded()
			} else if !errors.Is(info.Err, pebble.ErrCancelledCompaction) {
				e.fs.compactions.failed()
			}
		},
	}
}

// logRetry warns of the first failure in a row.
func (e *pebbleEngine) logRetry(err error) {
	level := zerolog.WarnLevel
	if e.fs.flushes.failures.Load() > 1 || e.fs.compactions.failures.Load() > 1 ||
		e.health.check() != nil || stopped(e.fs.closing) {
		level = zerolog.DebugLevel
	}
	e.health.log.WithLevel(level).Err(err).Msg("a flush or compaction of the index failed and is tried again")
}

// seal has the rows committed so far flushed. The flusher calls it.
func (e *pebbleEngine) seal() error {
	if err := e.health.check(); err != nil {
		return err
	}
	select {
	case <-e.attempts: // of a flush that is over
	default:
	}
	done, err := e.db.AsyncFlush()
	e.sealed = done
	return err
}

func (e *pebbleEngine) await(quit <-chan struct{}) error {
	select {
	case <-e.sealed:
		return nil
	case err := <-e.attempts:
		if dead := e.health.check(); dead != nil { // the attempt that failed it
			return dead
		}
		return fmt.Errorf("flushing the index: %w", err)
	case <-e.health.failed:
		return e.health.check()
	case <-quit:
		return ErrClosed
	}
}

func (e *pebbleEngine) StartFlush() <-chan error {
	if e.flusher == nil {
		c := make(chan error, 1)
		c <- ErrReadOnly
		return c
	}
	return e.flusher.request()
}

func (e *pebbleEngine) Flush() error   { return <-e.StartFlush() }
func (e *pebbleEngine) FlushDue() bool { return e.flusher != nil && e.flusher.due() }

func (e *pebbleEngine) Get(key, dst []byte) ([]byte, bool, error) { return pebbleGet(e.db, key, dst) }

func (e *pebbleEngine) NewIter(lower, upper []byte) (Iter, error) {
	return pebbleIter(e.db, lower, upper)
}

func (e *pebbleEngine) NewSnapshot() Snapshot { return pebbleSnapshot{e.db.NewSnapshot()} }

func pebbleGet(r pebble.Reader, key, dst []byte) ([]byte, bool, error) {
	val, closer, err := r.Get(key)
	if err == pebble.ErrNotFound {
		return dst[:0], false, nil
	}
	if err != nil {
		return dst[:0], false, fmt.Errorf("reading a row: %w", err)
	}
	dst = append(dst[:0], val...)
	return dst, true, closer.Close()
}

func pebbleIter(r pebble.Reader, lower, upper []byte) (Iter, error) {
	if upper != nil && bytes.Compare(lower, upper) > 0 {
		upper = lower
	}
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return nil, fmt.Errorf("iterating rows: %w", err)
	}
	return it, nil
}

type pebbleSnapshot struct{ s *pebble.Snapshot }

func (s pebbleSnapshot) Get(key, dst []byte) ([]byte, bool, error) { return pebbleGet(s.s, key, dst) }
func (s pebbleSnapshot) NewIter(lower, upper []byte) (Iter, error) {
	return pebbleIter(s.s, lower, upper)
}
func (s pebbleSnapshot) Close() error { return s.s.Close() }

func (e *pebbleEngine) NewWriter() Writer {
	return &pebbleWriter{e: e, b: e.db.NewBatch(pebble.WithMaxRetainedSizeBytes(keptBatch))}
}

// pebbleWriter drops the errors of Pebble's batch methods: they are nil for the kinds of change that are used here.
type pebbleWriter struct {
	e      *pebbleEngine
	b      *pebble.Batch
	ranges int // range-deletes in b
}

func (w *pebbleWriter) Set(key, value []byte)   { _ = w.b.Set(key, value, nil) }
func (w *pebbleWriter) Delete(key []byte)       { _ = w.b.Delete(key, nil) }
func (w *pebbleWriter) SingleDelete(key []byte) { _ = w.b.SingleDelete(key, nil) }
func (w *pebbleWriter) Len() int                { return w.b.Len() }
func (w *pebbleWriter) Count() int              { return int(w.b.Count()) }
func (w *pebbleWriter) Close() error            { return w.b.Close() }

func (w *pebbleWriter) Reset() {
	w.b.Reset()
	w.ranges = 0
}

func (w *pebbleWriter) DeleteRange(lower, upper []byte) {
	if bytes.Compare(lower, upper) < 0 {
		_ = w.b.DeleteRange(lower, upper, nil)
		w.ranges++
	}
}

func (w *pebbleWriter) Commit() error {
	if w.e.flusher == nil {
		return ErrReadOnly
	}
	if err := w.e.health.check(); err != nil {
		return err
	}
	if err := w.e.flusher.admit(w.Len(), w.Count(), w.ranges); err != nil {
		return err
	}
	if err := w.e.db.Apply(w.b, pebble.NoSync); err != nil {
		return fmt.Errorf("committing %d changes of rows: %w", w.Count(), err)
	}
	return nil
}

func (e *pebbleEngine) Checkpoint(dir string) error {
	if err := e.health.check(); err != nil {
		return err
	}
	if err := e.db.Checkpoint(dir); err != nil {
		return fmt.Errorf("writing a checkpoint of the index to %s: %w", dir, err)
	}
	return nil
}

func (e *pebbleEngine) DiskUsage() uint64 { return e.db.Metrics().DiskSpaceUsage() }

func (e *pebbleEngine) Metrics() Metrics {
	p := e.db.Metrics()
	m := Metrics{CacheBytes: p.BlockCache.Size, CacheHits: p.BlockCache.Hits, CacheMisses: p.BlockCache.Misses,
		DiskBytes: p.DiskSpaceUsage(), ReadAmp: p.ReadAmp(), CompactionDebt: p.Compact.EstimatedDebt,
		Flushes: p.Flush.Count, Compactions: p.Compact.Count}
	for _, l := range p.Levels {
		m.Tables += l.TablesCount
	}
	if e.flusher != nil {
		e.flusher.fill(&m)
	}
	return m
}

// Close first releases whatever waits for a flush, then waits for what Pebble is doing.
func (e *pebbleEngine) Close() error {
	close(e.fs.closing)
	if e.flusher != nil {
		e.flusher.stop()
	}
	if err := e.db.Close(); err != nil {
		return fmt.Errorf("closing the index: %w", err)
	}
	return nil
}
