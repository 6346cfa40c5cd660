package pop

import (
	"bytes"
	"fmt"
	"slices"
	"sort"

	"github.com/cairnmq/cairn/kvindex"
)

// memory is an engine that is a sorted slice, for runs by the ten thousand: what it costs to open one and to look at it is next to
// nothing. It is stricter than the real ones where they may do as they like: a single-delete of a row that was set more than once is
// an error here. For one goroutine.
type memory struct {
	kvindex.Engine // nil: what is not defined here nobody calls
	// states are what a crash may leave: the rows after each batch, from the last flush on. A state is never changed.
	states [][]memoryRow
	moves  *int // of iterators
}

type memoryRow struct {
	key, val []byte
	sets     int // since it last did not exist
}

func newMemory() *memory { return &memory{states: [][]memoryRow{nil}, moves: new(int)} }

// crashed is what is left when of the batches since the last flush the first few are: any number of them may be.
func (m *memory) crashed(kept int) *memory {
	return &memory{states: [][]memoryRow{m.states[kept]}, moves: m.moves}
}

// unflushed is how many batches a crash may take.
func (m *memory) unflushed() int { return len(m.states) - 1 }

func (m *memory) rows() []memoryRow { return m.states[len(m.states)-1] }

func (m *memory) Flush() error {
	m.states = [][]memoryRow{m.rows()}
	return nil
}

func (m *memory) Close() error { return nil }

func (m *memory) NewSnapshot() kvindex.Snapshot {
	return &memory{states: [][]memoryRow{m.rows()}, moves: m.moves}
}

// find is where the first row with at least this key is.
func find(rows []memoryRow, key []byte) (int, bool) {
	return slices.BinarySearchFunc(rows, key, func(r memoryRow, key []byte) int { return bytes.Compare(r.key, key) })
}

func (m *memory) Get(key, dst []byte) (val []byte, ok bool, err error) {
	i, ok := find(m.rows(), key)
	if !ok {
		return dst[:0], false, nil
	}
	return append(dst[:0], m.rows()[i].val...), true, nil
}

func (m *memory) NewIter(lower, upper []byte) (kvindex.Iter, error) {
	rows := m.rows()
	if upper != nil {
		end, _ := find(rows, upper)
		rows = rows[:end]
	}
	begin, _ := find(rows, lower)
	return &memoryIter{rows: rows[begin:], at: -1, moves: m.moves}, nil
}

type memoryIter struct {
	rows  []memoryRow
	at    int
	moves *int
}

func (it *memoryIter) to(at int) bool {
	it.at = at
	*it.moves++
	return it.Valid()
}

func (it *memoryIter) First() bool   { return it.to(0) }
func (it *memoryIter) Last() bool    { return it.to(len(it.rows) - 1) }
func (it *memoryIter) Next() bool    { return it.to(it.at + 1) }
func (it *memoryIter) Prev() bool    { return it.to(it.at - 1) }
func (it *memoryIter) Valid() bool   { return it.at >= 0 && it.at < len(it.rows) }
func (it *memoryIter) Key() []byte   { return it.rows[it.at].key }
func (it *memoryIter) Value() []byte { return it.rows[it.at].val }
func (it *memoryIter) Error() error  { return nil }
func (it *memoryIter) Close() error  { return nil }

func (it *memoryIter) SeekGE(key []byte) bool {
	i, _ := find(it.rows, key)
	return it.to(i)
}

func (it *memoryIter) SeekLT(key []byte) bool {
	i, _ := find(it.rows, key)
	return it.to(i - 1)
}

// memoryWriter makes the next state as the changes come.
type memoryWriter struct {
	m     *memory
	rows  []memoryRow
	count int
	err   error
}

func (m *memory) NewWriter() kvindex.Writer {
	w := &memoryWriter{m: m}
	w.Reset()
	return w
}

func (w *memoryWriter) Reset()       { w.rows, w.count, w.err = append(w.rows[:0:0], w.m.rows()...), 0, nil }
func (w *memoryWriter) Close() error { return nil }
func (w *memoryWriter) Count() int   { return w.count }
func (w *memoryWriter) Len() int     { return w.count }

func (w *memoryWriter) Set(key, value []byte) {
	w.count++
	i, ok := find(w.rows, key)
	if !ok {
		w.rows = slices.Insert(w.rows, i, memoryRow{key: bytes.Clone(key)})
	}
	w.rows[i] = memoryRow{w.rows[i].key, bytes.Clone(value), w.rows[i].sets + 1}
}

func (w *memoryWriter) Delete(key []byte) {
	w.count++
	if i, ok := find(w.rows, key); ok {
		w.rows = slices.Delete(w.rows, i, i+1)
	}
}

func (w *memoryWriter) SingleDelete(key []byte) {
	if i, ok := find(w.rows, key); ok && w.rows[i].sets > 1 {
		w.err = fmt.Errorf("single-delete of row %x, which was set %d times", key, w.rows[i].sets)
	}
	w.Delete(key)
}

func (w *memoryWriter) DeleteRange(lower, upper []byte) {
	w.count++
	if bytes.Compare(lower, upper) >= 0 {
		return
	}
	begin, _ := find(w.rows, lower)
	end := begin + sort.Search(len(w.rows)-begin, func(i int) bool { return bytes.Compare(w.rows[begin+i].key, upper) >= 0 })
	w.rows = slices.Delete(w.rows, begin, end)
}

func (w *memoryWriter) Commit() error {
	if w.err == nil {
		w.m.states = append(w.m.states, slices.Clip(w.rows))
		w.rows = nil
	}
	return w.err
}
