package broker

import (
	"context"
	"slices"
	"strconv"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/txn"
)

// Resolution is what a producer says of its transaction.
type Resolution int

// Resolutions.
const (
	TransactionUnknown Resolution = iota
	TransactionCommit
	TransactionRollback
)

// EndTransactionRequest ends the transaction of a half message. What is empty in it is not compared with the half message.
type EndTransactionRequest struct {
	Topic, Group, UniqueID string
	Position               record.Position
	Resolution             Resolution
	FromCheck              bool // it answers a check
}

// EndTransactionAsync commits or rolls back; done is called exactly once, from the folder goroutine or before it returns: it
// must not block. Unknown changes nothing: the producer is asked again. To end a transaction twice in the same way is no
// error. The delay of a delayed message begins now.
//
// Refusals: CodeNotFound (no half message there), CodeParameter (the half message is of another topic, group or id),
// CodeConflict (it was ended otherwise: rolled back, committed or expired before), CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) EndTransactionAsync(req *EndTransactionRequest, done func(error)) {
	if err := b.gate.enter(); err != nil {
		done(err)
		return
	}
	defer b.gate.leave()
	if req.Resolution == TransactionUnknown {
		done(nil)
		return
	}
	e := &ending{b: b, req: *req, done: done}
	if under, err := e.propose(); !under {
		done(err)
	}
}

// EndTransaction waits. When ctx ends before, the transaction may still end.
func (b *Broker) EndTransaction(ctx context.Context, req *EndTransactionRequest) error {
	_, err := await(ctx, func(done func(struct{}, error)) {
		b.EndTransactionAsync(req, func(err error) { done(struct{}{}, err) })
	})
	return err
}

// ending is the end of a transaction under way.
type ending struct {
	b        *Broker
	req      EndTransactionRequest
	done     func(error)
	topic    *catalog.Topic
	half     txn.Half
	due      int64 // ms, when it is committed and is to wait; else 0
	records  [1]record.Record
	proposal commitlog.Proposal
}

// propose hands the end to the log; it is not under way when that is not needed or not possible.
func (e *ending) propose() (under bool, err error) {
	b, req := e.b, &e.req
	if req.Resolution != TransactionCommit && req.Resolution != TransactionRollback {
		return false, refuse(CodeParameter, "a transaction cannot be resolved as %d", req.Resolution)
	}
	if req.Position < 0 {
		return false, refuse(CodeNotFound, "there is no half message at position %d", req.Position)
	}
	h, ok, err := b.store.Txn.Get(req.Position)
	if err != nil {
		return false, verbError(err, "look up the half message at "+formatPosition(req.Position))
	}
	if !ok {
		return false, b.endedBefore(req)
	}
	t, err := b.catalog.TopicByID(h.Topic)
	if code, _ := codeOfCause(err); err != nil && code == CodeTopicNotFound {
		return false, refuse(CodeNotFound, "the topic of the half message at %d was deleted", req.Position)
	} else if err != nil {
		return false, verbError(err, "look up the topic of a half message")
	}
	if err := req.compare(t.Name, h.Group, h.ID); err != nil {
		return false, err
	}
	end := txn.End{Position: req.Position, Action: txn.Rollback}
	if req.Resolution == TransactionCommit {
		end.Action = txn.Commit
		if end.Due, err = b.dueAtCommit(&h); err != nil {
			return false, err
		}
	}
	e.half, e.topic, e.due = h, t, end.Due
	e.records[0] = end.Record()
	e.proposal.Records, e.proposal.Done = e.records[:], e.applied
	if err := b.store.Propose(&e.proposal); err != nil {
		return false, verbError(err, "end the transaction at "+formatPosition(req.Position))
	}
	return true, nil
}

// compare says whether the half message is another than the one that is meant.
func (r *EndTransactionRequest) compare(topic, group string, id uint64) error {
	switch {
	case r.Topic != "" && r.Topic != topic:
		return refuse(CodeParameter, "the half message at %d is of topic %s, not %s", r.Position, topic, r.Topic)
	case r.Group != "" && r.Group != group:
		return refuse(CodeParameter, "the half message at %d is of producer group %s, not %s", r.Position, group, r.Group)
	case r.UniqueID != "" && kvindex.HashID(r.UniqueID) != id:
		return refuse(CodeParameter, "the half message at %d has another id than %s", r.Position, r.UniqueID)
	}
	return nil
}

// dueAtCommit is when a half message that is committed now becomes visible (ms); 0: at once.
func (b *Broker) dueAtCommit(h *txn.Half) (int64, error) {
	if !h.Delayed {
		return 0, nil
	}
	buf := store.NewBuffer()
	defer buf.Release()
	layout, err := b.store.ReadStored(h.Position, h.Size, buf)
	if err != nil {
		return 0, verbError(err, "read the half message at "+formatPosition(h.Position))
	}
	now := b.clock.Now().UnixMilli()
	due := b.dueOf(message.PropertiesOf(layout), now)
	if due <= now {
		return 0, nil
	}
	return due, nil
}

func (e *ending) applied(p *commitlog.Proposal) {
	switch {
	case p.Err != nil:
		e.done(verbError(p.Err, "end the transaction at "+formatPosition(e.req.Position)))
	case p.Outcomes[0].Refused: // somebody else ended it after it was looked up
		e.done(e.b.endedBefore(&e.req))
	default:
		e.b.halves.countEnd(e.topic, e.req.Resolution, p.Timestamp-e.half.Stored)
		if e.due > 0 {
			e.b.meters.topic(e.topic).timers.countSet(e.half.Stored, e.due)
		}
		e.done(nil)
	}
}

// endedBefore answers an end for which there is no half message any more: nil when it ended in that way before.
func (b *Broker) endedBefore(req *EndTransactionRequest) error {
	buf := store.NewBuffer()
	defer buf.Release()
	layout, err := b.store.ReadStored(req.Position, 0, buf)
	if err != nil {
		return verbError(err, "read the half message at "+formatPosition(req.Position))
	}
	m, _, err := message.Decode(layout)
	if err != nil {
		return verbError(err, "read the half message at "+formatPosition(req.Position))
	}
	// Only a half message names itself as the one that it commits.
	if m.PreparedOffset != int64(req.Position) || m.SysFlag&message.FlagTransactionMask != message.FlagCommit {
		return refuse(CodeNotFound, "the message at %d is not a half message", req.Position)
	}
	group, _ := message.Property(m.Properties, message.PropProducerGroup)
	id, _ := message.Property(m.Properties, message.PropUniqueKey)
	if err := req.compare(m.Topic, string(group), kvindex.HashID(string(id))); err != nil {
		return err
	}
	ended, ok, err := kvindex.ReadEnded(b.store.Reader(), kvindex.HourOf(m.StoreTimestamp), int64(req.Position))
	if err != nil {
		return verbError(err, "look up what became of a transaction")
	}
	if !ok {
		return refuse(CodeNotFound, "there is no half message at %d any more", req.Position)
	}
	return endedAs(req, ended)
}

// endedAs compares what is wanted with what became of the transaction.
func endedAs(req *EndTransactionRequest, ended kvindex.Ended) error {
	how := ""
	switch ended.Outcome {
	case kvindex.OutcomeCommitted:
		how = "was committed, with queue offset " + strconv.FormatInt(ended.Number, 10)
	case kvindex.OutcomeScheduled:
		how = "was committed, to be delivered at " + kvindex.FormatTime(ended.Number)
	case kvindex.OutcomeRolledBack:
		how = "was rolled back"
	case kvindex.OutcomeExpired:
		how = "has expired"
	default:
		how = "ended as " + ended.Outcome.String()
	}
	committed := ended.Outcome == kvindex.OutcomeCommitted || ended.Outcome == kvindex.OutcomeScheduled
	if committed && req.Resolution == TransactionCommit ||
		ended.Outcome == kvindex.OutcomeRolledBack && req.Resolution == TransactionRollback {
		return nil
	}
	return refuse(CodeConflict, "the transaction at %d %s before", req.Position, how)
}

// TransactionCheck asks a producer for the end of a transaction.
type TransactionCheck struct {
	Group, Topic, UniqueID string
	Half                   txn.Half // with this check among its checks
	Layout                 []byte   // the stored layout in the form in which producers get it; not to be kept
}

// HalfInfo is a half message, open or parked.
type HalfInfo struct {
	txn.Half
	Topic          string
	UniqueID, Keys string // "" when the body cannot be read any more
	BodySize       int
}

// HalfQuery asks for half messages, oldest first.
type HalfQuery struct {
	Parked bool   // parked ones, else open ones
	Topic  string // "": of all topics
	Group  string // "": of all producer groups
	From   record.Position
	Most   int // at most 1000; 0: 100
}

const (
	defaultHalves = 100
	maxHalves     = 1000
	// maxHalvesRead bounds the rows that one list goes through in search of a topic's or a group's.
	maxHalvesRead = 100_000
)

// HalfMessages lists half messages; next is the position to go on from, −1 at the end. A list that looks for a topic or a group
// ends after 100,000 half messages of others, perhaps with none found, and then also tells where to go on. Those of deleted
// topics are left out. CodeTopicNotFound.
func (b *Broker) HalfMessages(q HalfQuery) (found []HalfInfo, next record.Position, err error) {
	if err := b.gate.enter(); err != nil {
		return nil, -1, err
	}
	defer b.gate.leave()
	var topic kvindex.ID
	if q.Topic != "" {
		t, err := b.topic(q.Topic)
		if err != nil {
			return nil, -1, err
		}
		topic = t.ID
	}
	if q.Most <= 0 {
		q.Most = defaultHalves
	}
	q.Most, next = min(q.Most, maxHalves), -1
	read := 0
	err = b.store.Txn.Each(q.Parked, max(q.From, 0), func(h *txn.Half) bool {
		if len(found) == q.Most || read == maxHalvesRead {
			next = h.Position
			return false
		}
		read++
		if (topic == 0 || h.Topic == topic) && (q.Group == "" || h.Group == q.Group) {
			found = append(found, HalfInfo{Half: *h})
		}
		return true
	})
	if err != nil {
		return nil, -1, verbError(err, "list half messages")
	}
	buf := store.NewBuffer()
	defer buf.Release()
	found = slices.DeleteFunc(found, func(h HalfInfo) bool { return !there(b.catalog.TopicByID(h.Half.Topic)) })
	for i := range found {
		b.describeHalf(&found[i], buf)
	}
	return found, next, nil
}

// describeHalf adds what only the names and the message tell.
func (b *Broker) describeHalf(h *HalfInfo, buf *store.Buffer) {
	if t, err := b.catalog.TopicByID(h.Half.Topic); err == nil {
		h.Topic = t.Name
	}
	buf.B = buf.B[:0]
	layout, err := b.store.ReadStored(h.Position, h.Size, buf)
	if err != nil {
		b.log.Warn().Err(err).Int64("position", int64(h.Position)).Msg("a half message cannot be read")
		return
	}
	props := message.PropertiesOf(layout)
	id, _ := message.Property(props, message.PropUniqueKey)
	keys, _ := message.Property(props, message.PropKeys)
	h.UniqueID, h.Keys, h.BodySize = string(id), string(keys), len(message.BodyOf(layout))
}
