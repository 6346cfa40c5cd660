package broker

import (
	"errors"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/store"
)

// PeekRequest asks what a pop of the group would find.
type PeekRequest struct {
	Group, Topic string
	Queue        int32 // −1: all readable queues of the topic
	Max          int   // 1..32
}

// Peek reads what a pop without a filter would hand out next, expired messages before new ones, and takes nothing: Handles is
// nil, Attempts is which delivery the next one will be, Invisible is 0. Nothing found is not an error. What another pop is
// taking at the same time may be among it, and so may new messages that will have to wait behind others of their message group.
//
// Refusals: CodeTopicNotFound, CodeGroupNotFound, CodeNoPermission, CodeParameter, CodeClosing.
func (b *Broker) Peek(req *PeekRequest) (*PopResult, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	if req.Max < 1 || req.Max > maxPop {
		return nil, refuse(CodeParameter, "peek at %d messages: 1 to %d", req.Max, maxPop)
	}
	r := &popping{b: b, p: b.pop, cold: true, req: &PopRequest{Group: req.Group, Topic: req.Topic, Queue: req.Queue}}
	if err := r.check(); err != nil {
		return nil, err
	}
	k := &peek{popping: r, most: req.Max, res: &PopResult{PoppedAt: b.clock.Now().UnixMilli()}}
	err := k.seen()
	first, end := queuesOf(req.Queue, r.t.ReadQueues)
	for q := first; q < end && err == nil && k.room() > 0; q++ {
		err = k.new(q)
	}
	if err != nil {
		k.res.Buffer.Release()
		return nil, verbError(err, "peek at "+r.t.Name)
	}
	if len(k.res.Ends) == 0 {
		k.res.Buffer.Release()
		k.res.Buffer = nil
	}
	return k.res, nil
}

// peek is a Peek under way.
type peek struct {
	*popping
	most int
	res  *PopResult
}

// room is how many messages may still be read.
func (k *peek) room() int {
	if k.res.Buffer != nil && len(k.res.Buffer.B) >= maxPopBytes {
		return 0
	}
	return k.most - len(k.res.Ends)
}

// seen reads what the group has met before.
func (k *peek) seen() error {
	again, heads, err := k.popping.seen(k.res.PoppedAt, k.most)
	for i := range again {
		if e := &again[i]; err == nil && k.room() > 0 {
			err = k.read([]store.Entry{{Offset: e.Offset, Position: e.Position, Size: e.Size}}, e.Attempts+1)
		}
	}
	for i := range heads {
		if h := &heads[i]; err == nil && k.room() > 0 {
			err = k.read([]store.Entry{{Offset: h.Offset, Position: h.Position, Size: h.Size}}, 1)
		}
	}
	return err
}

// new reads what comes next in a queue.
func (k *peek) new(queue int32) error {
	s, err := k.p.stand(place{k.g.ID, k.t.ID, queue})
	if err != nil {
		return err
	}
	if held, err := k.barred(queue, max(s.next, s.low)); err != nil || held {
		return err
	}
	entries, err := k.b.reader(true).Entries(k.t.ID, queue, max(s.next, s.low), k.room(), nil)
	if err != nil {
		return err
	}
	return k.read(entries, 1)
}

// read reads the messages of entries of one queue that are there and that there is room for.
func (k *peek) read(entries []store.Entry, attempt int32) error {
	if k.res.Buffer == nil {
		k.res.Buffer = store.NewBuffer()
	}
	for len(entries) > 0 && k.room() > 0 {
		ends, err := k.b.reader(true).ReadMessages(entries, maxPopBytes-len(k.res.Buffer.B), k.res.Buffer)
		if errors.Is(err, commitlog.ErrGone) {
			entries = entries[1:]
			continue
		}
		if err != nil {
			return err
		}
		for _, end := range ends {
			k.res.Ends = append(k.res.Ends, end)
			k.res.Attempts = append(k.res.Attempts, attempt)
		}
		entries = entries[len(ends):]
	}
	return nil
}

// Unpopped is how many messages of a queue the group has not popped yet; what is visible again is not among them.
// CodeGroupNotFound, CodeTopicNotFound.
func (b *Broker) Unpopped(group, topic string, queue int32) (int64, error) {
	if err := b.gate.enter(); err != nil {
		return 0, err
	}
	defer b.gate.leave()
	g, t, err := b.groupAndTopic(group, topic)
	if err != nil {
		return 0, err
	}
	s, err := b.pop.stand(place{g.ID, t.ID, queue})
	return max(s.high-max(s.next, s.low), 0), verbError(err, "count messages of "+group)
}
