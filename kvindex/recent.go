package kvindex

import "bytes"

// recent remembers how committed batches left the checkpoints that they changed last, in a table where each key has one place,
// which it loses to the next that comes there. Most checkpoints are read once more, some batches after the one that wrote them, and
// a look at the engine costs ten times as much as one here.
type recent struct {
	places []recentRow
}

// recentRow is a key and its value, one after the other; without a key there is none.
type recentRow struct {
	bytes  []byte
	keyLen int
}

const (
	recentRows = 1 << 13
	// keptRecent is how many bytes of a row are kept: checkpoints are shorter.
	keptRecent = 256
)

// isRecent says whether the row is of those that recent remembers.
func isRecent(key []byte) bool { return len(key) > 0 && Space(key[0]) == SpaceCheckpoint }

func (t *recent) find(hash uint64, key []byte) ([]byte, bool) {
	if t.places == nil {
		return nil, false
	}
	if r := &t.places[hash%recentRows]; r.keyLen > 0 && bytes.Equal(r.bytes[:r.keyLen], key) {
		return r.bytes[r.keyLen:], true
	}
	return nil, false
}

func (t *recent) set(hash uint64, key, value []byte) {
	if t.places == nil {
		t.places = make([]recentRow, recentRows)
	}
	r := &t.places[hash%recentRows]
	r.keyLen = 0
	if len(key)+len(value) <= keptRecent {
		r.bytes = append(append(r.bytes[:0], key...), value...)
		r.keyLen = len(key)
	}
}

func (t *recent) remove(hash uint64, key []byte) {
	if _, ok := t.find(hash, key); ok {
		t.places[hash%recentRows].keyLen = 0
	}
}

// removeRange forgets the rows with lower ≤ key < upper.
func (t *recent) removeRange(lower, upper []byte) {
	if len(lower) == 0 || Space(lower[0]) > SpaceCheckpoint || bytes.Compare(upper, []byte{byte(SpaceCheckpoint)}) <= 0 {
		return
	}
	for i := range t.places {
		r := &t.places[i]
		if key := r.bytes[:r.keyLen]; r.keyLen > 0 && bytes.Compare(lower, key) <= 0 && bytes.Compare(key, upper) < 0 {
			r.keyLen = 0
		}
	}
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
		key := o.key(r)
		switch {
		case !isRecent(key):
		case r.gone || l.coveredSince(key, r.seq):
			t.remove(r.hash, key)
		default:
			t.set(r.hash, key, o.value(r))
		}
	}
}
