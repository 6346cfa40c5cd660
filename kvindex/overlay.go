package kvindex

import (
	"bytes"
	"hash/maphash"
	"math"
	"slices"
	"sort"
)

// overlay holds the rows that one Batch changed, by key: a hash table with open addressing whose rows, keys and values lie in
// three slices that are kept from batch to batch. Nothing in it is a pointer, so the garbage collector has nothing to follow.
type overlay struct {
	slots   []slot // a power of two, at most half full
	round   uint32 // slots of earlier rounds are empty
	rows    []overlayRow
	arena   []byte // keys and values
	sorted  []uint32
	written int  // rows of sorted that Commit has handed to the Writer
	sealed  bool // Commit has handed over everything
}

type slot struct{ round, row uint32 }

type overlayRow struct {
	hash          uint64
	keyAt, keyLen uint32
	valAt, valLen uint32
	valCap        uint32
	seq           uint32     // the last change
	first         deleteKind // what the engine must be told to remove before it gets the value
	gone          bool
}

// deleteKind is how an earlier state of a row is removed; the stronger of two wins.
type deleteKind uint8

const (
	deleteNone   deleteKind = iota
	deleteSingle            // the engine holds at most one Set of it
	deleteAny
)

// What an unusually large batch needed is not kept beyond these.
const (
	keptSlots = 1 << 18
	keptArena = 4 << 20
)

var seed = maphash.MakeSeed() // of this process only: no order ever follows from it

func hashOf(key []byte) uint64 { return maphash.Bytes(seed, key) }

func (o *overlay) reset() {
	if len(o.slots) > keptSlots {
		o.slots, o.rows, o.sorted = nil, nil, nil
	}
	if cap(o.arena) > keptArena {
		o.arena = nil
	}
	if o.round++; o.round == 0 { // wrapped: slots of ages ago would look new
		clear(o.slots)
		o.round = 1
	}
	o.rows, o.arena, o.sorted = o.rows[:0], o.arena[:0], o.sorted[:0]
	o.written, o.sealed = 0, false
}

func (o *overlay) key(r *overlayRow) []byte   { return o.arena[r.keyAt:][:r.keyLen:r.keyLen] }
func (o *overlay) value(r *overlayRow) []byte { return o.arena[r.valAt:][:r.valLen:r.valLen] }

// find returns the row of key, or nil. The pointer is valid until the next row is made.
func (o *overlay) find(key []byte) *overlayRow {
	if len(o.rows) == 0 {
		return nil
	}
	s := o.slotOf(hashOf(key), key)
	if s.round != o.round {
		return nil
	}
	return &o.rows[s.row]
}

// row returns the row of key, made when there was none.
func (o *overlay) row(key []byte) *overlayRow {
	if 2*len(o.rows) >= len(o.slots) {
		o.grow()
	}
	hash := hashOf(key)
	s := o.slotOf(hash, key)
	if s.round == o.round {
		return &o.rows[s.row]
	}
	*s = slot{round: o.round, row: uint32(len(o.rows))}
	o.rows = append(o.rows, overlayRow{hash: hash, keyAt: o.store(key), keyLen: uint32(len(key)), gone: true})
	return &o.rows[len(o.rows)-1]
}

// slotOf returns the slot that holds key, or the empty one where it would go.
func (o *overlay) slotOf(hash uint64, key []byte) *slot {
	mask := uint64(len(o.slots) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		s := &o.slots[i]
		if s.round != o.round {
			return s
		}
		if r := &o.rows[s.row]; r.hash == hash && bytes.Equal(o.key(r), key) {
			return s
		}
	}
}

func (o *overlay) grow() {
	o.slots = make([]slot, max(64, 2*len(o.slots)))
	o.round = max(o.round, 1)
	mask := uint64(len(o.slots) - 1)
	for n := range o.rows {
		i := o.rows[n].hash & mask
		for o.slots[i].round == o.round {
			i = (i + 1) & mask
		}
		o.slots[i] = slot{round: o.round, row: uint32(n)}
	}
}

// order lists the rows by their keys. The engine's memory is a sorted list, in which it finds the place of a row near that of the
// row before at once; from one key space to another and back it would have to search anew for every row. Nothing may be changed
// after the first call.
func (o *overlay) order() []uint32 {
	if len(o.sorted) == len(o.rows) {
		return o.sorted
	}
	var start [257]uint32 // of each key space: most of them get their rows in order, and sorting finds that out at once
	for i := range o.rows {
		start[int(o.arena[o.rows[i].keyAt])+1]++
	}
	for i := range 256 {
		start[i+1] += start[i]
	}
	end := start
	o.sorted = slices.Grow(o.sorted[:0], len(o.rows))[:len(o.rows)]
	for i := range o.rows {
		space := o.arena[o.rows[i].keyAt]
		o.sorted[end[space]] = uint32(i)
		end[space]++
	}
	for i := range 256 {
		if part := o.sorted[start[i]:end[i]]; len(part) > 1 {
			slices.SortFunc(part, func(a, b uint32) int { return bytes.Compare(o.key(&o.rows[a]), o.key(&o.rows[b])) })
		}
	}
	return o.sorted
}

func (o *overlay) store(b []byte) uint32 {
	at := len(o.arena)
	if at+len(b) > math.MaxUint32 {
		panic("kvindex: the rows of one log batch exceed 4 GiB")
	}
	o.arena = append(o.arena, b...)
	return uint32(at)
}

// set gives a row a value, in the place of the last one when it fits. value may be what Get returned.
func (o *overlay) set(r *overlayRow, value []byte, seq uint32) {
	if uint32(len(value)) <= r.valCap {
		copy(o.arena[r.valAt:][:len(value)], value)
	} else {
		r.valAt = o.store(value)
		r.valCap = uint32(len(value))
	}
	r.valLen = uint32(len(value))
	r.seq, r.gone = seq, false
}

// remove marks a row as gone. A single-delete is passed on to the engine even when the Set that it undoes is in this batch
// and will not be: it costs little, and keeps the engine right should the row have been there before.
func (o *overlay) remove(r *overlayRow, kind deleteKind, seq uint32) {
	r.first = max(r.first, kind)
	r.seq, r.gone = seq, true
}

// rangeSet remembers which keys DeleteRange removed in a batch, and by which change at the latest: disjoint ranges in key
// order. Ranges that come in key order, as a list of queues gives them, are added at the end in constant time.
type rangeSet struct {
	ranges []deletedRange
	tail   []deletedRange // add's scratch
	arena  []byte
}

type deletedRange struct {
	lowerAt, lowerLen uint32
	upperAt, upperLen uint32
	seq               uint32
}

func (s *rangeSet) reset() {
	if cap(s.arena) > keptArena {
		*s = rangeSet{}
	}
	s.ranges, s.arena = s.ranges[:0], s.arena[:0]
}

func (s *rangeSet) lower(r *deletedRange) []byte { return s.arena[r.lowerAt:][:r.lowerLen] }
func (s *rangeSet) upper(r *deletedRange) []byte { return s.arena[r.upperAt:][:r.upperLen] }

// after is the index of the first range that ends after key.
func (s *rangeSet) after(key []byte) int {
	return sort.Search(len(s.ranges), func(i int) bool { return bytes.Compare(s.upper(&s.ranges[i]), key) > 0 })
}

// covering is the last change that removed key; 0 when none did.
func (s *rangeSet) covering(key []byte) uint32 {
	if len(s.ranges) == 0 {
		return 0
	}
	i := s.after(key)
	if i == len(s.ranges) || bytes.Compare(s.lower(&s.ranges[i]), key) > 0 {
		return 0
	}
	return s.ranges[i].seq
}

// add notes that change seq, the newest, removed lower ≤ key < upper.
func (s *rangeSet) add(lower, upper []byte, seq uint32) {
	if bytes.Compare(lower, upper) >= 0 {
		return
	}
	n := deletedRange{lowerAt: uint32(len(s.arena)), lowerLen: uint32(len(lower)), seq: seq}
	s.arena = append(s.arena, lower...)
	n.upperAt, n.upperLen = uint32(len(s.arena)), uint32(len(upper))
	s.arena = append(s.arena, upper...)

	from := s.after(lower)
	to := from // ranges from…to-1 overlap the new one
	for to < len(s.ranges) && bytes.Compare(s.lower(&s.ranges[to]), upper) < 0 {
		to++
	}
	s.tail = append(s.tail[:0], s.ranges[to:]...)
	var right deletedRange
	if from < to {
		right = s.ranges[to-1]
		if left := s.ranges[from]; bytes.Compare(s.lower(&left), lower) < 0 {
			left.upperAt, left.upperLen = n.lowerAt, n.lowerLen
			s.ranges[from] = left
			from++
		}
	}
	s.ranges = append(s.ranges[:from], n)
	if right.seq != 0 && bytes.Compare(s.upper(&right), upper) > 0 {
		right.lowerAt, right.lowerLen = n.upperAt, n.upperLen
		s.ranges = append(s.ranges, right)
	}
	s.ranges = append(s.ranges, s.tail...)
}
