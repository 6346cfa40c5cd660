package kvindex


// Reader reads rows. Safe for concurrent use.
type Reader interface {
	// Get appends the value of key to dst[:0] and returns it; ok is false when there is no row.
	Get(key, dst []byte) (val []byte, ok bool, err error)
	// NewIter iterates rows with lower ≤ key < upper, over the state of the moment it was made.
	NewIter(lower, upper []byte) (Iter, error)
}

// Iter walks rows in key order. Key and Value are valid until the next move or Close. Not for concurrent use.
type Iter interface {
	First() bool
	Last() bool
	SeekGE(key []byte) bool
	SeekLT(key []byte) bool
	Next() bool
	Prev() bool
	Valid() bool
	Key() []byte
	Value() []byte
	Error() error
	Close() error
}

// Snapshot is a Reader of one moment; Close it.
type Snapshot interface {
	Reader
	Close() error
}

// Writer gathers row changes that become visible together. One goroutine at a time.
type Writer interface {
	Set(key, value []byte)
	Delete(key []byte)
	// SingleDelete removes a row that was Set exactly once since it last did not exist.
	SingleDelete(key []byte)
	DeleteRange(lower, upper []byte)
	Len() int   // bytes gathered
	Count() int // changes gathered
	Commit() error
	Reset()
	Close() error
}

// Engine is an ordered store of rows without a WAL of its own: what was not flushed is gone after a crash, and what is left
// is the exact state after one of the batches (a prefix of them).
type Engine interface {
	Reader
	NewWriter() Writer
	NewSnapshot() Snapshot
	// Flush makes everything committed so far durable before it returns.
	Flush() error
	// StartFlush begins a flush of what is committed so far and returns a channel that yields its error once.
	StartFlush() <-chan error
	// Checkpoint writes a durable copy (hard links) of the flushed state to dir, which must not exist.
	Checkpoint(dir string) error
	DiskUsage() uint64
	Close() error
}
