package pop

import (
	"encoding/binary"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// applyMove sets cursors. With reset everything in flight in their queues is forgotten, otherwise only what a cursor that
// moves back leaves behind: it will be handed out anew.
func (f *fold) applyMove(b *kvindex.Batch, payload []byte, reset bool) (_ record.Outcome, err error) {
	f.commits, err = decodeCommits(payload, f.commits[:0])
	if err != nil {
		return record.Outcome{}, err
	}
	moved := int64(0)
	for i := 0; i < len(f.commits); {
		// Neighbours of one group on one topic are taken together, so that its rows are looked through once.
		at := place{f.commits[i].Group, f.commits[i].Topic}
		end := i + 1
		for end < len(f.commits) && f.commits[end].Group == at.group && f.commits[end].Topic == at.topic {
			end++
		}
		n, err := f.moveCursors(b, at, f.commits[i:end], reset)
		if err != nil {
			return record.Outcome{}, err
		}
		moved += n
		i = end
	}
	return record.Outcome{Offset: moved, Refused: moved == 0}, nil
}

func (f *fold) moveCursors(b *kvindex.Batch, at place, commits []Commit, reset bool) (moved int64, err error) {
	var froms map[int32]int64 // queue → the first offset that is forgotten
	for _, c := range commits {
		if c.Queue < 0 || c.Offset < 0 {
			continue
		}
		old, ok, err := f.cursor(b, at, c.Queue)
		if err != nil {
			return 0, err
		}
		if !ok {
			if there, err := f.exists(b, at); err != nil || !there {
				return 0, err
			}
		}
		moved++
		if reset || ok && c.Offset < old.Next {
			from := c.Offset
			if reset {
				from = 0
			}
			if froms == nil {
				froms = make(map[int32]int64, len(commits))
			}
			if lowest, ok := froms[c.Queue]; !ok || from < lowest {
				froms[c.Queue] = from
			}
		}
		if !ok || old != (Cursor{c.Offset, c.Offset}) {
			f.setCursor(b, at, c.Queue, c.Offset)
		}
	}
	if froms == nil {
		return moved, nil
	}
	if err := f.forgetOrder(b, at, froms); err != nil {
		return 0, err
	}
	return moved, f.forget(b, at, froms)
}

// forget deletes the checkpoints of each queue in froms whose offset is at least the one given there.
func (f *fold) forget(b *kvindex.Batch, at place, froms map[int32]int64) error {
	c, err := f.counters(b, at)
	if err != nil || c.InFlight == 0 {
		return err
	}
	goes := func(ref Ref) bool {
		from, ok := froms[ref.Queue]
		return ok && ref.Offset >= from
	}
	kept := false
	err = f.eachRow(b, at, func(ref Ref) bool { return !goes(ref) }, func(_, _ []byte) (bool, error) {
		kept = true
		return false, nil
	})
	if err != nil {
		return err
	}
	if !kept {
		prefix := kvindex.AppendCheckpointTopicPrefix(nil, at.group, at.topic)
		b.DeleteRange(prefix, kvindex.PrefixEnd(prefix))
		f.change.InFlight, f.change.Postponed = -c.InFlight, -c.Postponed
		return f.count(b, at)
	}
	err = f.eachRow(b, at, goes, func(key, val []byte) (bool, error) {
		row, err := decodeCheckpoint(val)
		f.postpone(&row, false)
		f.change.InFlight--
		b.SingleDelete(key)
		return true, err
	})
	if err != nil {
		return err
	}
	return f.count(b, at)
}

// eachRow calls do for the checkpoints of a group on a topic that which picks, until do returns false, as the batch has left
// them so far. Rows that the batch itself wrote are not in the engine yet, and those that it deleted still are. A row may
// come twice unless do deletes it.
func (f *fold) eachRow(b *kvindex.Batch, at place, which func(Ref) bool, do func(key, val []byte) (more bool, err error)) error {
	more := true
	visit := func(key []byte) (bool, error) {
		val, ok, err := b.Get(key)
		if err == nil && ok {
			more, err = do(key, val)
		}
		return more, err
	}
	prefix := kvindex.AppendCheckpointTopicPrefix(nil, at.group, at.topic)
	err := kvindex.EachRow(b.Engine(), prefix, kvindex.PrefixEnd(prefix), func(key, _ []byte) (bool, error) {
		if !which(refOfKey(key)) {
			return true, nil
		}
		return visit(key)
	})
	for i := 0; i < len(f.fresh) && more && err == nil; i++ {
		if row := &f.fresh[i]; row.place == at && which(row.Ref) {
			f.key = row.appendKey(f.key[:0], at)
			_, err = visit(f.key)
		}
	}
	return err
}

// applyForget deletes all rows of a group on a topic, as the catalog does when either of them goes.
func (f *fold) applyForget(b *kvindex.Batch, payload []byte) (record.Outcome, error) {
	at, err := decodeForget(payload)
	if err != nil {
		return record.Outcome{}, err
	}
	gone := int64(0)
	forget := func(queueID int32) error {
		_, ok, err := f.cursor(b, at, queueID)
		if err != nil || !ok {
			return err
		}
		gone++
		b.Delete(f.key)
		f.moved = append(f.moved, movedCursor{queue: queue{at, queueID}, gone: true})
		return nil
	}
	for _, m := range f.moved { // those that the batch wrote may not be in the engine
		if err == nil && m.queue.place == at {
			err = forget(m.queue.queue)
		}
	}
	if err != nil {
		return record.Outcome{}, err
	}
	prefix := kvindex.AppendCursorTopicPrefix(nil, at.group, at.topic)
	err = kvindex.EachRow(b.Engine(), prefix, kvindex.PrefixEnd(prefix), func(key, _ []byte) (bool, error) {
		return true, forget(int32(binary.BigEndian.Uint32(key[17:])))
	})
	if err != nil {
		return record.Outcome{}, err
	}
	for _, prefix := range [][]byte{
		kvindex.AppendCheckpointTopicPrefix(nil, at.group, at.topic), kvindex.AppendOrderTopicPrefix(nil, at.group, at.topic),
	} {
		b.DeleteRange(prefix, kvindex.PrefixEnd(prefix))
	}
	b.Delete(kvindex.AppendCounterKey(nil, at.group, at.topic))
	return record.Outcome{Offset: gone, Refused: gone == 0}, nil
}
