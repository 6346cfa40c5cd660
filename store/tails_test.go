package store

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// entered is what a batch has entered in a queue.
func entered(k queueKey, base int64, n int) *pending {
	p := &pending{queueKey: k, base: base}
	for i := range int64(n) {
		p.fresh.add(record.Position(1000*(base+i)), int32(base+i), -base-i)
	}
	return p
}

func (t *tails) roomOfAll() (room int) {
	for _, e := range t.mu.lru.Values() {
		room += cap(e.entries)
	}
	return room
}

// What tails tell is what was published, up to its end, wherever it is asked for.
func TestTailsTellWhatWasPublished(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tails := newTails()
		begins, ends := map[queueKey]int64{}, map[queueKey]int64{}
		for ms := range rapid.Int64Range(1, 40).Draw(t, "batches") {
			k := queueKey{kvindex.ID(rapid.IntRange(1, 2).Draw(t, "topic")), rapid.Int32Range(0, 1).Draw(t, "queue")}
			if rapid.IntRange(0, 9).Draw(t, "gap") == 0 {
				ends[k] += 7
				begins[k] = ends[k]
			}
			n := rapid.OneOf(rapid.IntRange(0, 40), rapid.IntRange(0, 2*maxTail)).Draw(t, "entries")
			tails.publish([]*pending{entered(k, ends[k], n)}, ms)
			ends[k] += int64(n)
			if room := tails.roomOfAll(); room != tails.mu.room {
				t.Fatalf("room for %d entries, counted as %d", room, tails.mu.room)
			}
			for k, end := range ends {
				offset := rapid.Int64Range(begins[k]-3, end+3).Draw(t, "offset")
				most := rapid.IntRange(1, 3*maxTail).Draw(t, "most")
				got, ok := tails.read(k, offset, most, []Entry{{Offset: -1}})
				if must := offset >= max(begins[k], end-maxTail/2) && offset < end; !ok && must {
					t.Fatalf("%v from %d of %d to %d: not known", k, offset, begins[k], end)
				}
				if !ok && len(got) != 1 || ok && int64(len(got)-1) != min(int64(most), end-offset) {
					t.Fatalf("%v: %d entries from %d of %d to %d", k, len(got), offset, begins[k], end)
				}
				for i, e := range got[1:] {
					at := offset + int64(i)
					if e.StoreTime > ms || (e != Entry{at, record.Position(1000 * at), int32(at), -at, e.StoreTime}) {
						t.Fatalf("%v: %+v at %d", k, e, at)
					}
				}
			}
		}
	})
}

// A queue of which a part was never published begins anew, and many queues do not take more than they may.
func TestTailsAreBounded(t *testing.T) {
	tails := newTails()
	const each, queues = 300, maxTails / 200
	for queue := range int32(queues) {
		tails.publish([]*pending{entered(queueKey{1, queue}, 0, each)}, 1)
		if tails.mu.room > maxTails {
			t.Fatalf("room for %d entries", tails.mu.room)
		}
	}
	if room := tails.roomOfAll(); room != tails.mu.room || room < maxTails/2 {
		t.Errorf("room for %d entries, counted as %d", room, tails.mu.room)
	}
	if _, ok := tails.read(queueKey{1, 0}, each-1, 1, nil); ok {
		t.Error("the first queue is still known")
	}
	if got, ok := tails.read(queueKey{1, queues - 1}, 0, each, nil); !ok || len(got) != each {
		t.Errorf("%d entries of the last queue, %v", len(got), ok)
	}
	tails = newTails()
	for queue := range int32(2 * cachedQueues) {
		tails.publish([]*pending{entered(queueKey{1, queue}, 0, 1)}, 1)
	}
	if n, room := tails.mu.lru.Len(), tails.roomOfAll(); n != cachedQueues || room != tails.mu.room {
		t.Errorf("%d queues, room for %d entries, counted as %d", n, room, tails.mu.room)
	}
}
