package kvindex

import "github.com/cairnmq/cairn/internal/record"

// Batch is what one batch of the log does to the index. A row is read through it, so that a record sees what the records
// before it in the same log batch did; all of it becomes visible in one engine batch together with the applied position.
// One goroutine (the folder) uses it.
type Batch struct{}

// NewBatch begins an empty batch over e. Reset reuses it for the next log batch.
func NewBatch(e Engine) *Batch { panic("unbuilt") }

// Begin clears the batch and sets what Timestamp, Index and the applied row will say.
func (b *Batch) Begin(end record.Position, index uint64, timestamp int64) { panic("unbuilt") }

// Timestamp is the log batch's time in ms: the only clock that a fold may look at.
func (b *Batch) Timestamp() int64 { panic("unbuilt") }

// Get reads a row as this batch leaves it. The value is valid until the next call on the batch.
func (b *Batch) Get(key []byte) (val []byte, ok bool, err error) { panic("unbuilt") }

// Set, Delete, SingleDelete and DeleteRange change rows; key and value are copied.
func (b *Batch) Set(key, value []byte)           { panic("unbuilt") }
func (b *Batch) Delete(key []byte)               { panic("unbuilt") }
func (b *Batch) SingleDelete(key []byte)         { panic("unbuilt") }
func (b *Batch) DeleteRange(lower, upper []byte) { panic("unbuilt") }

// Put is Set for a row that no record of the same log batch reads: it is left out of the batch's overlay.
func (b *Batch) Put(key, value []byte) { panic("unbuilt") }

// Engine is the state before this batch, for folds that must iterate (they must cope with what the batch itself did).
func (b *Batch) Engine() Reader { panic("unbuilt") }

// Commit writes everything and the applied row to the engine.
func (b *Batch) Commit() error { panic("unbuilt") }

// Applied is the row that says how far the log has been applied.
type Applied struct {
	End       record.Position // the log position after the last applied batch
	Index     uint64
	Timestamp int64 // ms
}

// ReadApplied returns the zero Applied when there is none.
func ReadApplied(r Reader) (Applied, error) { panic("unbuilt") }

// Fold turns committed records into rows: no I/O beyond the batch, no clock but the batch's, no map order, no process
// configuration. Apply is called for each record that the fold owns, Finish once at the end of each log batch in which
// Apply was called.
type Fold interface {
	Kinds() []record.Kind
	Apply(b *Batch, at record.Position, r record.Record) (record.Outcome, error)
	Finish(b *Batch) error
}
