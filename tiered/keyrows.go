package tiered

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// KeyRows collects the key rows of a segment as a scan finds them, and gives them in the order of the table. A row costs 32
// bytes. They are sorted in pieces while they come, so that there is neither a copy of all nor a pause at the end.
type KeyRows struct {
	start  record.Position
	names  []keyName
	ids    map[keyName]uint32 // places in names
	sorted [][]keyItem        // full pieces, each in order
	piece  []keyItem
}

// keyName is what the rows of one topic and kind have in common.
type keyName struct {
	topic kvindex.ID
	kind  kvindex.IndexKind
}

// keyItem is one row.
type keyItem struct {
	hash uint64
	time int64
	at   uint32 // position from the start of the segment
	name uint32 // place in KeyRows.names
	size int32
}

// keyPiece is how many rows are sorted at once.
const keyPiece = 1 << 16

// NewKeyRows begins with the rows of the segment at start.
func NewKeyRows(start record.Position) *KeyRows {
	return &KeyRows{start: start, ids: map[keyName]uint32{}}
}

// Len is how many rows there are.
func (k *KeyRows) Len() int { return len(k.sorted)*keyPiece + len(k.piece) }

// Add adds the row of a record of size bytes, header included, at pos. A record further than 4 GiB from the segment's start is
// an error.
func (k *KeyRows) Add(topic kvindex.ID, kind kvindex.IndexKind, hash uint64, ms int64, pos record.Position, size int32) error {
	at := pos - k.start
	if at < 0 || at > math.MaxUint32 || ms < 0 || size < 0 {
		return fmt.Errorf("tiered: key of a record of %d bytes at %d (time %d) in the segment at %d", size, pos, ms, k.start)
	}
	name := keyName{topic, kind}
	id, ok := k.ids[name]
	if !ok {
		id = uint32(len(k.names))
		k.names, k.ids[name] = append(k.names, name), id
	}
	if k.piece == nil {
		k.piece = make([]keyItem, 0, keyPiece)
	}
	k.piece = append(k.piece, keyItem{hash: hash, time: ms, at: uint32(at), name: id, size: size})
	if len(k.piece) == keyPiece {
		k.cut()
	}
	return nil
}

// cut puts the piece in order and begins another.
func (k *KeyRows) cut() {
	slices.SortFunc(k.piece, func(a, b keyItem) int { return k.compare(&a, &b) })
	k.sorted, k.piece = append(k.sorted, k.piece), nil
}

// compare is the order of the keys.
func (k *KeyRows) compare(a, b *keyItem) int {
	if a.name != b.name {
		an, bn := &k.names[a.name], &k.names[b.name]
		return cmp.Or(cmp.Compare(an.topic, bn.topic), cmp.Compare(an.kind, bn.kind))
	}
	return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.time, b.time), cmp.Compare(a.at, b.at))
}

// each calls fn for the rows in order, for one that was added twice once.
func (k *KeyRows) each(fn func(n keyName, i keyItem) error) error {
	m := keyMerge{rows: k, pieces: slices.Clone(k.sorted)}
	if len(k.piece) > 0 {
		last := slices.Clone(k.piece)
		slices.SortFunc(last, func(a, b keyItem) int { return k.compare(&a, &b) })
		m.pieces = append(m.pieces, last)
	}
	heap.Init(&m)
	var before *keyItem
	for len(m.pieces) > 0 {
		item := &m.pieces[0][0]
		if before == nil || k.compare(before, item) != 0 {
			if err := fn(k.names[item.name], *item); err != nil {
				return err
			}
		}
		before = item
		if m.pieces[0] = m.pieces[0][1:]; len(m.pieces[0]) == 0 {
			heap.Pop(&m)
		} else {
			heap.Fix(&m, 0)
		}
	}
	return nil
}

// keyMerge is a heap of sorted pieces by their first rows.
type keyMerge struct {
	rows   *KeyRows
	pieces [][]keyItem
}

func (m *keyMerge) Len() int { return len(m.pieces) }
func (m *keyMerge) Less(i, j int) bool {
	return m.rows.compare(&m.pieces[i][0], &m.pieces[j][0]) < 0
}
func (m *keyMerge) Swap(i, j int) { m.pieces[i], m.pieces[j] = m.pieces[j], m.pieces[i] }
func (m *keyMerge) Push(x any)    { m.pieces = append(m.pieces, x.([]keyItem)) }
func (m *keyMerge) Pop() any {
	last := m.pieces[len(m.pieces)-1]
	m.pieces = m.pieces[:len(m.pieces)-1]
	return last
}
