package kvindex

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
)

// Reader reads rows. Safe for concurrent use.
type Reader interface {
	// Get appends the value of key to dst[:0] and returns it; ok is false when there is no row.
	Get(key, dst []byte) (val []byte, ok bool, err error)
	// NewIter iterates rows with lower ≤ key < upper, over the state of the moment it was made. An empty lower is the
	// beginning, a nil upper the end of all rows; lower ≥ upper gives no rows. Both are copied. Close the Iter before the
	// Reader it came from.
	NewIter(lower, upper []byte) (Iter, error)
}

// Iter walks rows in key order. It stands nowhere until it is positioned. Each move says whether it stands on a row;
// where it does not, the next move must be First, Last or a seek. Seeks past a bound behave as if the rows beyond it did
// not exist. Key and Value are valid until the next move or Close. Not for concurrent use.
type Iter interface {
	First() bool
	Last() bool
	SeekGE(key []byte) bool // first row with key ≥ this
	SeekLT(key []byte) bool // last row with key < this
	Next() bool
	Prev() bool
	Valid() bool
	Key() []byte
	Value() []byte
	Error() error // what stopped the walk, when it was not the end of the rows
	Close() error
}

// Snapshot is a Reader of one moment; Close it.
type Snapshot interface {
	Reader
	Close() error
}

// Writer gathers row changes that become visible together, in the order in which they were made. Keys and values are
// copied. One goroutine at a time. After Commit it must be Reset before it is used again.
type Writer interface {
	Set(key, value []byte)
	Delete(key []byte)
	// SingleDelete removes a row that was Set exactly once since it last did not exist. It costs less than Delete, and
	// what it does to a row that was Set more than once is not defined.
	SingleDelete(key []byte)
	// DeleteRange removes the rows with lower ≤ key < upper that are there at this point of the batch; nothing when
	// lower ≥ upper.
	DeleteRange(lower, upper []byte)
	Len() int   // bytes gathered
	Count() int // changes gathered
	// Commit applies all changes or, with an error, none; an error that does not wrap ErrFailed, ErrClosed or ErrReadOnly
	// may pass, and the same Commit may be tried again then. It waits while the memory for unflushed rows is used up.
	Commit() error
	Reset()
	Close() error
}

// Engine is an ordered store of rows without a WAL of its own: what was not flushed is gone after a crash, and what is left
// is the exact state after one of the batches (a prefix of them).
//
// Reads run concurrently with each other and with one committing Writer. Close comes last: after it nothing else may be
// called, and Iters and Snapshots are to be closed before.
type Engine interface {
	Reader
	NewWriter() Writer
	NewSnapshot() Snapshot
	// Flush makes everything committed so far durable before it returns.
	Flush() error
	// StartFlush begins a flush of what is committed so far and returns a channel that yields its error once. There is
	// one flush at a time: a call during one begins the next when it is over. After an error that does not wrap ErrFailed
	// or ErrClosed the engine goes on trying by itself, and a further StartFlush tells how that goes.
	StartFlush() <-chan error
	// FlushDue says that enough was committed to be worth a flush, and that none is under way.
	FlushDue() bool
	// Checkpoint writes a durable copy (hard links) of the flushed state to dir, which must not exist. It flushes nothing.
	Checkpoint(dir string) error
	DiskUsage() uint64 // bytes
	Metrics() Metrics
	// Close flushes nothing: what was not flushed is gone, as after a crash.
	Close() error
}

// Metrics are an engine's figures for the operator.
type Metrics struct {
	UnflushedBytes  int64  // memory of rows that are not flushed, estimated
	CacheBytes      int64  // block cache in use
	CacheHits       int64  // since start; 0 where the engine does not tell
	CacheMisses     int64  // since start; 0 where the engine does not tell
	DiskBytes       uint64 // all files
	Tables          int64  // sorted tables
	ReadAmp         int    // tables that a read of one key may have to look into
	CompactionDebt  uint64 // bytes that compactions still have to rewrite
	Flushes         int64  // since start; 0 where the engine does not tell
	Compactions     int64  // since start; 0 where the engine does not tell
	FailedFlushes   int64  // attempts, since start
	ForcedWaits     int64  // commits that had to wait for a flush, since start
	SelfMadeFlushes int64  // flushes that the engine began because nobody called StartFlush in time
}

// Kinds of engine.
const (
	KindPebble  = "pebble"
	KindRocksDB = "rocksdb"
)

// Errors that callers decide on.
var (
	// ErrFailed wraps what went wrong for good: the engine takes no more commits and writes nothing more to its folder.
	// Reads go on. Only opening it again helps.
	ErrFailed = errors.New("the index has failed and takes no more writes")
	// ErrClosed is given to whoever waits while the engine is closed.
	ErrClosed = errors.New("the index is closed")
	// ErrReadOnly is given to writes on an engine that was opened read-only.
	ErrReadOnly = errors.New("the index was opened read-only")
	// ErrNotBuilt is given when this binary does not contain the engine asked for.
	ErrNotBuilt = errors.New("engine rocksdb is not in this binary: build it with -tags grocksdb")
	// ErrOtherEngine is given when the folder was written by another engine than the one asked for.
	ErrOtherEngine = errors.New("the folder belongs to another engine")
	// ErrNotFound is given by a read-only Open when there is no index in the folder.
	ErrNotFound = errors.New("no index there")
)

// Options of an engine.
type Options struct {
	// FS is where Dir is; nil is the operating system's. RocksDB knows no other.
	FS vfs.FS
	// Dir is made when it is not there.
	Dir string
	// MemoryBytes is the budget for cached blocks and unflushed rows together; 0 is 64 MiB, the least is 1 MiB. A quarter
	// of it, at most 32 MiB, is what unflushed rows may take before they must be flushed; while they are written, as much
	// again may gather.
	MemoryBytes int64
	Logger      zerolog.Logger
	// Kind is KindPebble (default) or KindRocksDB.
	Kind string
	// BeforeFlush, when set, is called before each flush, whoever began it, and has returned before a byte of the flushed
	// rows is written: it makes the log durable up to the newest committed row. An error from it fails the flush. It may
	// be called from any goroutine but not by two at a time; it must not call the engine.
	BeforeFlush func() error
	// ReadOnly opens what is there and never writes: for tools that look at the folder of a broker that is off.
	ReadOnly bool
}

// EachRow calls f for the rows with lower ≤ key < upper until it returns false or an error. Key and value are valid during
// the call.
func EachRow(r Reader, lower, upper []byte, f func(key, val []byte) (more bool, err error)) (err error) {
	it, err := r.NewIter(lower, upper)
	if err != nil {
		return err
	}
	defer closeIter(it, &err)
	for ok := it.First(); ok; ok = it.Next() {
		more, err := f(it.Key(), it.Value())
		if err != nil || !more {
			return err
		}
	}
	return nil
}

const (
	defaultMemory = 64 << 20
	minMemory     = 1 << 20
	maxMemtable   = 32 << 20
)

func (o *Options) setDefaults() {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.MemoryBytes == 0 {
		o.MemoryBytes = defaultMemory
	}
	o.MemoryBytes = max(o.MemoryBytes, minMemory)
	if o.Kind == "" {
		o.Kind = KindPebble
	}
}

// memtableBytes is the memory that rows may take until they must be flushed.
func (o *Options) memtableBytes() int64 { return min(o.MemoryBytes/4, maxMemtable) }

// Open opens the index in opts.Dir, or makes an empty one there. Errors that a caller may decide on: ErrNotBuilt,
// ErrOtherEngine, *FormatError, ErrNotFound (read-only).
func Open(opts Options) (Engine, error) {
	opts.setDefaults()
	if opts.Dir == "" {
		return nil, errors.New("opening the index: no folder is given")
	}
	var e Engine
	var err error
	switch opts.Kind {
	case KindPebble:
		e, err = openPebble(opts)
	case KindRocksDB:
		e, err = openRocksDB(opts)
	default:
		err = fmt.Errorf("no engine is called %q; there are %q and %q", opts.Kind, KindPebble, KindRocksDB)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the index in %s: %w", opts.Dir, err)
	}
	if err := checkFormat(e, opts.ReadOnly); err != nil {
		return nil, errors.Join(fmt.Errorf("opening the index in %s: %w", opts.Dir, err), e.Close())
	}
	return e, nil
}
