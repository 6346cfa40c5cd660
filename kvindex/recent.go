package kvindex

import "bytes"

// recent remembers the rows of some spaces that were read or changed last, as they are since the last batch that was committed. Most of
// these are read once more, some batches later, and a look at the engine costs ten times as much as one here.
type recent struct {
	checkpoints recentTable // come and go
	standing    recentTable // cursors and counters, which stay: the checkpoints must not drive them out
}

const (
	recentCheckpoints = 1 << 13
	recentStanding    = 1 << 16
	// keptRecent is how many bytes of a row are kept: the rows of these spaces are shorter.
	keptRecent = 256
)

func newRecent() recent {
	return recent{checkpoints: recentTable{size: recentCheckpoints}, standing: recentTable{size: recentStanding}}
}

// tableOf is where the row of a key is remembered; nil: nowhere.
func (t *recent) tableOf(key []byte) *recentTable {
	if len(key) == 0 {
		return nil
	}
	switch Space(key[0]) {
	case SpaceCheckpoint:
		return &t.checkpoints
	case SpaceCursor, SpaceCounter:
		return &t.standing
	}
	return nil
}

// take notes what a batch did that is committed.
func (t *recent) take(l *layer) {
	for i := range l.ranges.ranges {
		r := &l.ranges.ranges[i]
		t.removeRange(l.ranges.lower(r), l.ranges.upper(r))
	}
	o := &l.overlay
	for i := range o.rows {
		r := &o.rows[i]
		if key := o.key(r); t.tableOf(key) != nil {
			there := !r.gone && !l.coveredSince(key, r.seq)
			t.tableOf(key).set(r.hash, key, o.value(r), there)
		}
	}
}

// removeRange forgets the rows with lower ≤ key < upper, and all others of their tables: it is rare that anything removes a range of
// these.
func (t *recent) removeRange(lower, upper []byte) {
	for space := SpaceCursor; space <= SpaceCounter; space++ {
		prefix := []byte{byte(space)}
		if bytes.Compare(lower, PrefixEnd(prefix)) < 0 && bytes.Compare(prefix, upper) < 0 {
			t.tableOf(prefix).round++
		}
	}
}

// recentTable has two neighbouring places for each key: what comes there anew is first, and what was there before gets the second.
type recentTable struct {
	places []recentRow
	size   uint64 // even
	round  uint64 // rows of others are forgotten
}

// recentRow is a key and its value, one after the other; without a key there is none.
type recentRow struct {
	bytes  []byte
	hash   uint64 // of the key: most rows of other keys are told apart without a look at their bytes, which lie elsewhere
	round  uint64
	keyLen int32
	there  bool // otherwise there is no such row
}

// key of the row.
func (r *recentRow) key() []byte { return r.bytes[:r.keyLen] }

// at is where the row of a key is remembered; nil: nowhere.
func (t *recentTable) at(hash uint64, key []byte) *recentRow {
	if t.places == nil {
		return nil
	}
	for i := range uint64(2) {
		r := &t.places[hash%t.size^i]
		if r.hash == hash && r.keyLen > 0 && r.round == t.round && bytes.Equal(r.key(), key) {
			return r
		}
	}
	return nil
}

// find returns a row, or that it is not there; known is false when neither is remembered.
func (t *recentTable) find(hash uint64, key []byte) (val []byte, there, known bool) {
	r := t.at(hash, key)
	if r == nil {
		return nil, false, false
	}
	return r.bytes[r.keyLen:], r.there, true
}

// set remembers a row, or that it is not there.
func (t *recentTable) set(hash uint64, key, value []byte, there bool) {
	if t.places == nil {
		t.places = make([]recentRow, t.size)
	}
	r := t.at(hash, key)
	if r == nil {
		r = &t.places[hash%t.size]
		second := &t.places[hash%t.size^1]
		*r, *second = *second, *r
	}
	if !there {
		value = nil
	}
	r.keyLen, r.there, r.round, r.hash = 0, there, t.round, hash
	if len(key)+len(value) <= keptRecent {
		r.bytes = append(append(r.bytes[:0], key...), value...)
		r.keyLen = int32(len(key))
	}
}
