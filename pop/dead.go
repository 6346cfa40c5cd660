package pop

import (
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

// Popped names a checkpoint of any group.
type Popped struct {
	Group, Topic kvindex.ID
	Ref
}

// Settle removes a checkpoint whose message goes on to another topic, where the caller enters a copy of it: to the group's dead
// letters, or from them to where they are redriven. ok is false when the checkpoint is not as it was: then the copy must not be
// entered. Like Apply it belongs to the folder's goroutine.
func (s *State) Settle(b *kvindex.Batch, p Popped) (ok bool, err error) {
	f, at := &s.fold, place{p.Group, p.Topic}
	if ok, err = f.remove(b, at, p.Ref); err == nil {
		err = f.count(b, at)
	}
	if err != nil {
		return false, fmt.Errorf("pop: settle offset %d of queue %d: %w", p.Offset, p.Queue, err)
	}
	return ok, nil
}

// Get reads a checkpoint; ok is false when it is not as it was.
func (s *State) Get(p Popped) (c Checkpoint, ok bool, err error) {
	sc := scratches.Get().(*scratch)
	defer scratches.Put(sc)
	sc.lower = p.appendKey(sc.lower[:0], place{p.Group, p.Topic})
	val, ok, err := s.engine.Get(sc.lower, sc.val)
	if err != nil {
		return Checkpoint{}, false, fmt.Errorf("pop: read a checkpoint of group id %d on topic id %d: %w", p.Group, p.Topic, err)
	}
	if !ok {
		return Checkpoint{}, false, nil
	}
	sc.val = val
	if c, err = decodeCheckpoint(val); err != nil {
		return Checkpoint{}, false, err
	}
	return c, c.Nonce == p.Nonce, nil
}

// EachFrom calls f for the checkpoints of a group on a topic, in the order of their visible-at, queue and offset from those of a
// ref on, until it returns false. f must not keep what it is given.
func (s *State) EachFrom(group, topic kvindex.ID, from Ref, f func(*Expired) bool) error {
	at := place{group, topic}
	var e Expired
	lower := from.appendKey(nil, at)
	err := kvindex.EachRow(s.engine, lower, kvindex.PrefixEnd(kvindex.AppendCheckpointTopicPrefix(nil, group, topic)),
		func(key, val []byte) (_ bool, err error) {
			if e.Checkpoint, err = decodeCheckpoint(val); err != nil {
				return false, err
			}
			e.Ref = refOfKey(key)
			e.Ref.Nonce = e.Checkpoint.Nonce
			return f(&e), nil
		})
	if err != nil {
		return fmt.Errorf("pop: list checkpoints of group id %d on topic id %d: %w", group, topic, err)
	}
	return nil
}
