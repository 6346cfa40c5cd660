package broker

import (
	"context"
	"errors"
	"math/rand/v2"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// maxHandOver is how many messages are moved with one look for them.
const maxHandOver = 32

// HandOver sees to it that a group which pops a topic no more loses nothing of what it has popped: what was not acknowledged in its
// time goes to the group's retry topic, where consumers that pull find it, or to its dead letters when it was delivered as often as
// the group allows. That is for groups that were told to pull (SetRequestMode, or virtual queues turned off), since of all others the next pop takes it.
//
// What a group gets in order is not handed over: in a retry topic it would have none.
//
// It returns at once, and costs next to nothing when there is nothing to do. Whoever pulls calls it when a pull finds nothing, so a
// message whose time is over comes again as late as the next pull that is. What fails is tried again at the next one.
func (b *Broker) HandOver(group, topic string) {
	if b.gate.enter() != nil {
		return
	}
	g, t, err := b.groupAndTopic(group, topic)
	if err != nil || InOrder(g, t) || !b.store.Pop.MayHaveExpired(g.ID, t.ID, pop.AnyQueue, b.clock.Now().UnixMilli()) {
		b.gate.leave()
		return
	}
	go func() {
		defer b.gate.leave()
		if err := b.handOver(g, t); err != nil && b.pop.mayComplain() {
			b.log.Error().Err(err).Str("group", g.Name).Str("topic", t.Name).Msg("popped messages cannot be handed over to who pulls")
		}
	}()
}

func (b *Broker) handOver(g *catalog.Group, t *catalog.Topic) (err error) {
	for more := true; more && err == nil; {
		more, err = b.handOverSome(g, t)
	}
	return err
}

// handOverSome does it for some, with one record for each message that enters the copy and removes the checkpoint. more says that
// there may be others.
func (b *Broker) handOverSome(g *catalog.Group, t *catalog.Topic) (more bool, err error) {
	m, set, err := b.storedMode(g, t)
	if err != nil || !set || m.Pop || g.VirtualQueues() {
		return false, err
	}
	at := place{g.ID, t.ID, everything}
	if _, mine := b.pop.leases.acquire(at, noEnd); !mine {
		return false, nil // a pop takes it, or another one hands it over
	}
	defer func() {
		if b.pop.leases.chosen(at) {
			b.pop.waiters.ready(g.ID, t.ID, 1)
		}
	}()
	expired, err := b.store.Pop.Expired(g.ID, t.ID, pop.AnyQueue, b.clock.Now().UnixMilli(), maxHandOver, nil)
	if err != nil || len(expired) == 0 {
		return false, err
	}
	ctx := context.Background()
	retry, err := b.made(ctx, b.groupTopic(catalog.RetryPrefix+g.Name, g.RetryQueueNums))
	if err != nil {
		return false, err
	}
	dlq, err := b.made(ctx, b.groupTopic(catalog.DLQPrefix+g.Name, 1))
	if err != nil {
		return false, err
	}
	buf := store.NewBuffer()
	defer buf.Release()
	var recs []record.Record
	for i := range expired {
		e := &expired[i]
		d := deathOf(g.ID, t.ID, e.Ref, &e.Checkpoint, DeadAttempts)
		var rec record.Record
		if e.Attempts >= attemptsFor(g, t) {
			rec, _, err = b.letter(dlq, &d, buf)
		} else {
			rec, err = b.retried(retry, &d, buf)
		}
		switch {
		case errors.Is(err, commitlog.ErrGone):
			rec, err = pop.AckRecord(&pop.Ack{Group: g.ID, Topic: t.ID, Refs: []pop.Ref{e.Ref}}), nil
		case err != nil:
			return false, err
		}
		recs = append(recs, rec)
	}
	_, err = b.append(ctx, "hand over messages of "+t.Name, recs...)
	return len(expired) == maxHandOver, err
}

// retried makes the record of a popped message as it goes to the retry topic.
func (b *Broker) retried(retry *catalog.Topic, d *death, buf *store.Buffer) (r record.Record, err error) {
	buf.B = buf.B[:0]
	layout, err := b.store.ReadStored(d.position, d.size, buf)
	if err != nil {
		return r, err
	}
	m, _, err := message.Decode(layout)
	if err != nil {
		return r, err
	}
	again := resent(&m, d.position)
	again.ReconsumeTimes = m.ReconsumeTimes + d.attempts
	again.Topic, again.QueueID, again.StoreHost = retry.Name, rand.Int32N(max(retry.WriteQueues, 1)), b.opts.Advertise
	again.QueueOffset, again.PhysicalOffset, again.StoreTimestamp, again.PreparedOffset = 0, 0, 0, 0
	r.Kind = record.KindForward
	r.Payload, err = store.AppendForward(make([]byte, 0, forwardRoom+again.EncodedSize()), d.popped, retry.ID, &again)
	return r, err
}
