package kvindex

import (
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
)

// Batch is what one batch of the log does to the index. A row is read through it, so that a record sees what the records
// before it in the same log batch did; all of it becomes visible in one engine batch together with the applied position.
// One goroutine (the folder) uses it, and nobody else changes the engine.
//
// Two kinds of row go through it. Those that later records of the same log batch may read (cursors, counters, queue bounds)
// are changed with Set, Delete and SingleDelete: they stay in an overlay until Commit, and however often a row is changed
// in the batch, the engine gets its last state only. Those that no record of the same batch reads (runs, index entries) are
// written with Put, straight into the engine's batch. The order of calls on one row is kept in any case.
type Batch struct {
	e Engine
	w Writer
	layer
	seq       uint32 // of the last change; 0 is before the first
	val       []byte // Get's buffer
	applied   Applied
	committed bool
	// before is what the batch before this one did, when it was committed. Log batches that follow each other mostly change the
	// same counters and bounds, and a look at the engine costs more than all else that is done about one of them.
	before layer
	recent recent
}

// layer is what a batch did to rows.
type layer struct {
	overlay overlay
	ranges  rangeSet
}

// changed tells how the layer left a row that it changed, unless a DeleteRange removed that later.
func (l *layer) changed(key []byte) (val []byte, ok, changed bool) {
	r := l.overlay.find(key)
	switch {
	case r == nil || l.coveredSince(key, r.seq):
		return nil, false, false
	case r.gone:
		return nil, false, true
	default:
		return l.overlay.value(r), true, true
	}
}

// coveredSince says whether a DeleteRange after change seq removed the row.
func (l *layer) coveredSince(key []byte, seq uint32) bool { return l.ranges.covering(key) > seq }

func (l *layer) reset() {
	l.overlay.reset()
	l.ranges.reset()
}

// NewBatch makes an empty batch over e. Begin reuses it for the next log batch.
func NewBatch(e Engine) *Batch {
	return &Batch{e: e, w: e.NewWriter(), recent: newRecent()}
}

// Begin clears the batch and sets what Timestamp, Index and the applied row will say.
func (b *Batch) Begin(end record.Position, index uint64, timestamp int64) {
	b.w.Reset()
	if b.layer, b.before = b.before, b.layer; !b.committed {
		b.before.reset()
	}
	b.layer.reset()
	b.seq, b.committed = 0, false
	b.applied = Applied{End: end, Index: index, Timestamp: timestamp}
}

// Timestamp is the log batch's time in ms: the only clock that a fold may look at.
func (b *Batch) Timestamp() int64 { return b.applied.Timestamp }

// Index is the log batch's index.
func (b *Batch) Index() uint64 { return b.applied.Index }

// Get reads a row as this batch leaves it, apart from what Put did. The value is valid until the next call on the batch and
// must not be changed: Set a changed copy, or pass what Get returned to Set as it is.
func (b *Batch) Get(key []byte) (val []byte, ok bool, err error) {
	if val, ok, changed := b.Changed(key); changed {
		return val, ok, nil
	}
	if val, ok, changed := b.before.changed(key); changed {
		return val, ok, nil
	}
	t := b.recent.tableOf(key)
	if t == nil {
		return b.read(key)
	}
	hash := hashOf(key)
	if val, ok, known := t.find(hash, key); known {
		return val, ok, nil
	}
	if val, ok, err = b.read(key); err == nil {
		t.set(hash, key, val, ok)
	}
	return val, ok, err
}

// read gets a row from the engine.
func (b *Batch) read(key []byte) (val []byte, ok bool, err error) {
	b.val, ok, err = b.e.Get(key, b.val)
	if err != nil || !ok {
		return nil, false, err
	}
	return b.val, true, nil
}

// Changed reads what this batch itself did to a row: changed is false when it did nothing (Put apart), else ok says whether
// the row is there now. For folds that iterate over Engine's rows. The value is valid until the next call on the batch.
func (b *Batch) Changed(key []byte) (val []byte, ok, changed bool) {
	if val, ok, changed = b.layer.changed(key); changed {
		return val, ok, true
	}
	return nil, false, b.ranges.covering(key) != 0
}

// Set writes a row; key and value are copied.
func (b *Batch) Set(key, value []byte) {
	b.seq++
	b.overlay.set(b.overlay.row(key), value, b.seq)
}

// Delete removes a row; the key is copied.
func (b *Batch) Delete(key []byte) {
	b.seq++
	b.overlay.remove(b.overlay.row(key), deleteAny, b.seq)
}

// SingleDelete removes a row that was Set (or Put) exactly once since it last did not exist; several Sets of one batch count as
// one. The key is copied.
func (b *Batch) SingleDelete(key []byte) {
	b.seq++
	b.overlay.remove(b.overlay.row(key), deleteSingle, b.seq)
}

// DeleteRange removes the rows with lower ≤ key < upper, those of this batch too; the bounds are copied.
func (b *Batch) DeleteRange(lower, upper []byte) {
	b.seq++
	b.w.DeleteRange(lower, upper)
	b.ranges.add(lower, upper, b.seq)
}

// Put is Set for a row that no record of the same log batch reads: it is left out of the batch's overlay, and a Get in the
// same batch does not see it.
func (b *Batch) Put(key, value []byte) {
	if r := b.overlay.find(key); r != nil || b.recent.tableOf(key) != nil {
		// The row was changed in this batch, and the overlay is written last: keep the order. Or recent must know of it.
		if r == nil {
			r = b.overlay.row(key)
		}
		b.seq++
		b.overlay.set(r, value, b.seq)
		return
	}
	b.w.Set(key, value)
}

// Engine is the state before this batch, for folds that must iterate (they must cope with what the batch itself did).
func (b *Batch) Engine() Reader { return b.e }

// Commit writes everything and the applied row to the engine, or nothing. After an error that may pass (see Writer) it can
// be called again.
func (b *Batch) Commit() error {
	order := b.overlay.order()
	for b.overlay.written < len(order) {
		r := &b.overlay.rows[order[b.overlay.written]]
		b.overlay.written++
		key := b.overlay.key(r)
		if b.coveredSince(key, r.seq) {
			continue // the DeleteRange is in w already
		}
		switch r.first {
		case deleteAny:
			b.w.Delete(key)
		case deleteSingle:
			b.w.SingleDelete(key)
		}
		if !r.gone {
			b.w.Set(key, b.overlay.value(r))
		}
	}
	if !b.overlay.sealed {
		b.overlay.sealed = true
		var val [appliedSize]byte
		b.w.Set(appliedKey, b.applied.append(val[:0]))
	}
	if err := b.w.Commit(); err != nil {
		return fmt.Errorf("applying log batch %d: %w", b.applied.Index, err)
	}
	b.committed = true
	b.recent.take(&b.layer)
	return nil
}

// Close gives the batch's memory back. It drops what was not committed.
func (b *Batch) Close() error { return b.w.Close() }

// Release is a message that a record made visible: it is entered in its queue, or with a due time becomes a timer.
type Release struct {
	Topic    ID
	Queue    int32
	Position record.Position
	Size     int32 // of the log record, header included
	TagHash  int64
	Due      int64 // ms; 0: now
	// Half says that this is the commit of a half message, which was stored in that hour.
	Half bool
	Hour uint32
}

// Releaser is a Fold whose records make messages visible that are in the log already. Released lists those of the record
// that was applied last, in the order in which they are to be entered; the slice is valid until the next Apply.
type Releaser interface{ Released() []Release }

// Fold turns committed records into rows: no I/O beyond the batch, no clock but the batch's, no map order, no process
// configuration. Apply is called for each record that the fold owns, Finish once at the end of each log batch in which
// Apply was called.
type Fold interface {
	Kinds() []record.Kind
	Apply(b *Batch, at record.Position, r record.Record) (record.Outcome, error)
	Finish(b *Batch) error
}
