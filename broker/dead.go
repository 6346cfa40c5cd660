package broker

import (
	"context"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// Dead letters, in the order of reading: this file (how a message becomes one), dead_list.go (what there is), dead_redrive.go
// (how they go back, or away), dead_auto.go (how they go back by themselves).
//
// A dead letter is a copy of its message in %DLQ%group, unlike all else that happens to messages here: dead letters are rare, stay
// for as long as any message from then on, and must not keep old segments of the log. One record enters the copy and removes the
// checkpoint of the message, so it is there exactly once, wherever the power goes.

// Reasons why a message became a dead letter.
const (
	DeadAttempts  = "max-attempts" // it was delivered as often as its group allows
	DeadForwarded = "forwarded"    // its consumer gave it up
	DeadSentBack  = "sent-back"    // a Remoting consumer sent it back as one
)

// Properties of a dead letter that tell what became of the message; users of %DLQ% topics see them. Times are in ms.
const (
	propDeadReason   = "CAIRN_DLQ_REASON"
	propDeadAttempts = "CAIRN_DLQ_ATTEMPTS" // deliveries
	propDeadFirst    = "CAIRN_DLQ_FIRST_DELIVERY"
	propDeadLast     = "CAIRN_DLQ_LAST_DELIVERY"
	propDeadQueue    = "CAIRN_DLQ_ORIGIN_QUEUE"
	propDeadOffset   = "CAIRN_DLQ_ORIGIN_OFFSET"
	propRedrives     = "CAIRN_DLQ_REDRIVES" // how often it was redriven; it stays with the message
)

// endless is the limit of attempts where there is none.
const endless = math.MaxInt32

// attemptsFor is how often a group gets a message of a topic. Its own dead letters have nowhere to go.
func attemptsFor(g *catalog.Group, t *catalog.Topic) int32 {
	if group, dead := strings.CutPrefix(t.Name, catalog.DLQPrefix); dead && group == g.Name {
		return endless
	}
	return g.MaxAttempts()
}

// death is how a message became a dead letter of its group.
type death struct {
	popped   pop.Popped
	position record.Position // of the message's record
	size     int32
	reason   string
	attempts int32
	first    int64 // ms, of the first delivery
	last     int64 // ms, of the last one
}

func deathOf(group, topic kvindex.ID, ref pop.Ref, c *pop.Checkpoint, reason string) death {
	return death{
		popped: pop.Popped{Group: group, Topic: topic, Ref: ref}, position: c.Position, size: c.Size, reason: reason,
		attempts: c.Attempts, first: c.FirstAt, last: c.PoppedAt,
	}
}

// letter makes the record of a dead letter from the message's own; buf is what to read it with. It also answers the topic where the
// message was first. Errors to decide on: commitlog.ErrGone, *commitlog.CorruptError.
func (b *Broker) letter(dlq *catalog.Topic, d *death, buf *store.Buffer) (r record.Record, origin string, err error) {
	buf.B = buf.B[:0]
	layout, err := b.store.ReadStored(d.position, d.size, buf)
	if err != nil {
		return r, "", err
	}
	m, _, err := message.Decode(layout)
	if err != nil {
		return r, "", err
	}
	origin = m.Topic
	if isRetry(origin) || isDLQ(origin) {
		origin = originOf(&m)
	}
	m.Properties = deadProperties(&m, d, origin)
	m.ReconsumeTimes += d.attempts
	m.Topic, m.QueueID, m.StoreHost = dlq.Name, 0, b.opts.Advertise
	m.QueueOffset, m.PhysicalOffset, m.StoreTimestamp, m.PreparedOffset = 0, 0, 0, 0
	r.Kind = record.KindForward
	r.Payload, err = store.AppendForward(make([]byte, 0, forwardRoom+m.EncodedSize()), d.popped, dlq.ID, &m)
	return r, origin, err
}

// forwardRoom is what a record of KindForward has in front of the layout, at most.
const forwardRoom = 64

// deadProperties are a message's own with those that tell where it was and what became of it: first what clients of the reference
// look for, and nothing that is too much for the layout.
func deadProperties(m *message.Message, d *death, origin string) []byte {
	props := slices.Clone(m.Properties)
	set := func(key, value string) { props = withProperty(props, key, value) }
	add := func(key, value string) {
		if _, there := message.Property(props, key); !there {
			set(key, value)
		}
	}
	offsetID := message.OffsetID(m.StoreHost, int64(d.position))
	id := offsetID
	if unique, ok := message.Property(props, message.PropUniqueKey); ok {
		id = string(unique)
	}
	add(message.PropRetryTopic, origin)
	add(message.PropOriginID, offsetID)
	set(message.PropDLQTopic, origin)
	set(message.PropDLQMessageID, id)
	set(message.PropReconsume, strconv.Itoa(int(m.ReconsumeTimes+d.attempts)))
	set(propDeadReason, d.reason)
	set(propDeadAttempts, strconv.Itoa(int(d.attempts)))
	set(propDeadFirst, strconv.FormatInt(d.first, 10))
	set(propDeadLast, strconv.FormatInt(d.last, 10))
	set(propDeadQueue, strconv.Itoa(int(d.popped.Queue)))
	set(propDeadOffset, strconv.FormatInt(d.popped.Offset, 10))
	return props
}

// withProperty is message.SetProperty that leaves out what is too much for the layout.
func withProperty(props []byte, key, value string) []byte {
	if with := message.SetProperty(props, key, value); len(with) <= message.MaxProperties {
		return with
	}
	return props
}

// noteDeath adds to the properties of a dead letter that was sent back what tells so.
func noteDeath(props []byte, attempts int32, asked bool) []byte {
	reason := DeadAttempts
	if asked {
		reason = DeadSentBack
	}
	return withProperty(withProperty(props, propDeadReason, reason), propDeadAttempts, strconv.Itoa(int(attempts)))
}

// made answers a topic, which is made when it is not there.
func (b *Broker) made(ctx context.Context, wanted catalog.Topic) (*catalog.Topic, error) {
	if t, err := b.catalog.Topic(wanted.Name); err == nil {
		return t, nil
	}
	return await(ctx, func(done func(*catalog.Topic, error)) { b.ensureTopic(wanted, 0, done) })
}

// ForwardRequest gives a message up that a consumer holds.
type ForwardRequest struct {
	Group, Topic, Handle string
	Attempts             int32 // that its consumer made; what counts is the larger number
}

// Forward moves a message to its group's dead letters at once, and settles it. As in the reference the handle may be late. One that
// is spent is no error, for some consumers ask until they are told that it is done, and go on with nothing until then: the message was
// forwarded or settled before, or it was handed out again, and whoever has it now decides.
//
// Refusals: CodeInvalidHandle, CodeGroupNotFound, CodeTopicNotFound, CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) Forward(ctx context.Context, req *ForwardRequest) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	g, t, err := b.groupAndTopic(req.Group, req.Topic)
	if err != nil {
		return err
	}
	h, err := checkHandle(g, t, req.Handle, noLater)
	if err != nil {
		return err
	}
	c, ok, err := b.store.Pop.Get(pop.Popped{Group: g.ID, Topic: t.ID, Ref: h.Ref()})
	if err != nil {
		return verbError(err, "forward a message of "+t.Name)
	}
	if !ok {
		return nil
	}
	d := deathOf(g.ID, t.ID, h.Ref(), &c, DeadForwarded)
	d.attempts = max(d.attempts, req.Attempts)
	return b.forward(ctx, g, t, &d)
}

// noLater is a time at which no handle is late.
const noLater = math.MinInt64

// forward is Forward for a checkpoint.
func (b *Broker) forward(ctx context.Context, g *catalog.Group, t *catalog.Topic, d *death) error {
	doing := "forward a message of " + t.Name
	dlq, err := b.made(ctx, b.groupTopic(catalog.DLQPrefix+g.Name, 1))
	if err != nil {
		return err
	}
	buf := store.NewBuffer()
	defer buf.Release()
	rec, origin, err := b.letter(dlq, d, buf)
	gone := errors.Is(err, commitlog.ErrGone)
	if gone { // nothing is left to be kept
		rec, err = pop.AckRecord(&pop.Ack{Group: g.ID, Topic: t.ID, Refs: []pop.Ref{d.popped.Ref}}), nil
	}
	if err != nil {
		return verbError(err, doing)
	}
	out, err := b.append(ctx, doing, rec)
	if err != nil {
		return err
	}
	if out[0].Refused {
		return b.forwardRefused(dlq)
	}
	if !gone {
		b.meters.countDead(g.Name, origin)
	}
	b.pop.waiters.ready(g.ID, t.ID, 1) // in an ordered group it may have held up others
	return nil
}

// forwardRefused says why a dead letter was not entered: its message was settled meanwhile, unless the topic has gone.
func (b *Broker) forwardRefused(dlq *catalog.Topic) error {
	_, err := b.catalog.TopicByID(dlq.ID)
	if errors.Is(err, catalog.ErrTopicNotFound) {
		return refuse(CodeBusy, "topic %s was deleted meanwhile: try again", dlq.Name)
	}
	return verbError(err, "look up topic "+dlq.Name)
}

// ---- what a pop meets ----

// deadFound are the messages that one look of a pop found to be dead, and their records.
type deadFound struct {
	deaths  []pop.Expired
	letters []record.Record
	origins []string // aligned with letters
}

// bury makes the records of the dead letters that the look found. It leaves some to the next look when they are large.
func (t *take) bury(r *popping) {
	if len(t.dead.deaths) == 0 {
		return
	}
	dlq, err := r.b.made(r.ctx, r.b.groupTopic(catalog.DLQPrefix+r.g.Name, 1))
	if err != nil {
		t.fail(err)
		return
	}
	buf := store.NewBuffer()
	defer buf.Release()
	size := 0
	for i := range t.dead.deaths {
		e := &t.dead.deaths[i]
		if size += int(e.Size); size > copiedAtOnce && i > 0 {
			t.more = true
			return
		}
		d := deathOf(t.group, t.topic, e.Ref, &e.Checkpoint, DeadAttempts)
		rec, origin, err := r.b.letter(dlq, &d, buf)
		switch {
		case errors.Is(err, commitlog.ErrGone):
			t.rec.Dropped = append(t.rec.Dropped, e.Ref)
		case err != nil:
			t.fail(err) // it stays where it is, and does not hold up the others
		default:
			t.dead.letters = append(t.dead.letters, rec)
			t.dead.origins = append(t.dead.origins, origin)
		}
	}
}

// buried counts the dead letters of a look whose records are applied.
func (t *take) buried(r *popping) (n int) {
	if t.proposal.Err != nil {
		return 0
	}
	for i, origin := range t.dead.origins {
		if !t.proposal.Outcomes[1+i].Refused {
			r.b.meters.countDead(r.g.Name, origin)
			n++
		}
	}
	return n
}
