package broker

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/txn"
)

const (
	region = "DefaultRegion"
	// keptSlab is the largest buffer that goes back into the pool, in bytes.
	keptSlab = 256 << 10
	// recordPrefix is what a record has in front of the message's layout, timePrefix what one has besides whose message waits.
	recordPrefix = 8
	timePrefix   = 8
	// propertyEnd ends a property; of properties that lie one after the other each must be ended. keyEnd ends its key.
	propertyEnd = 0x02
	keyEnd      = 0x01
)

// sendOp is a send under way: the records of one request, encoded one after the other into one slab, and what its results
// need. It is pooled; between Propose and Done it belongs to the log.
type sendOp struct {
	b        *Broker
	proposal commitlog.Proposal
	done     func([]SendResult, error)
	began    time.Time
	meter    *topicMeter
	topic    string
	queue    int32
	producer string // group, of half messages that do not name theirs; "" when it is not known

	items    []sendItem
	messages []message.Message
	props    []byte // enriched properties of all messages
	slab     []byte // payloads of all records
	ids      []byte // unique ids of all messages
}

// sendItem is what is remembered of one message until it is stored.
type sendItem struct {
	kind   messageKind
	record record.Kind
	at     int64 // ms: when a delayed message is due, or the producer of a half message is first asked
	size   int32 // of the stored layout
	idEnd  int   // in ids
}

var sendOps sync.Pool

func newSendOp() *sendOp {
	if op, ok := sendOps.Get().(*sendOp); ok {
		return op
	}
	return &sendOp{}
}

// sendTo encodes the messages for one queue (−1: the broker chooses) and proposes them. With an error done is not called.
func (b *Broker) sendTo(t *catalog.Topic, queue int32, producer string, messages []message.Message,
	done func([]SendResult, error),
) error {
	op := newSendOp()
	op.proposal.Done, op.proposal.Context = sendApplied, op
	op.b, op.done, op.began = b, done, b.clock.Now()
	op.meter, op.topic, op.producer = b.meters.topic(t), t.Name, producer
	if op.queue = queue; queue < 0 {
		op.queue = b.rotation.next(t, op.began.UnixMilli())
	}
	err := op.encode(t, messages)
	if err == nil {
		err = b.store.Propose(&op.proposal) // from here on the op is the log's, unless it refused
	}
	if err != nil {
		op.release()
		return verbError(err, "send to "+t.Name)
	}
	return nil
}

// encode checks and enriches the messages, then writes the payloads of their records into the slab.
func (op *sendOp) encode(t *catalog.Topic, messages []message.Message) error {
	op.messages = append(op.messages[:0], messages...)
	size, body := 0, 0
	for i := range op.messages {
		m := &op.messages[i]
		if body += len(m.Body); body > op.b.opts.MaxMessageSize {
			return refuse(CodeBodyTooLarge, "send to %s: a body of %d bytes is over the limit of %d", t.Name, body,
				op.b.opts.MaxMessageSize)
		}
		item, err := op.enrich(m, len(messages) > 1)
		if err != nil {
			return err
		}
		m.Topic, m.QueueID, m.StoreHost = t.Name, op.queue, op.b.opts.Advertise
		m.QueueOffset, m.PhysicalOffset, m.StoreTimestamp, m.PreparedOffset = 0, 0, 0, 0
		item.size = int32(m.EncodedSize())
		op.items = append(op.items, item)
		size += timePrefix + recordPrefix + m.EncodedSize()
	}
	op.slab = slices.Grow(op.slab[:0], size)
	for i := range op.messages {
		start, item := len(op.slab), &op.items[i]
		slab, err := op.appendPayload(t, item, &op.messages[i])
		if err != nil {
			return &Error{Code: CodeMessageIllegal, Message: "send to " + t.Name + ": " + err.Error(), Err: err}
		}
		op.slab = slab
		op.proposal.Records = append(op.proposal.Records, record.Record{
			Kind: item.record, Payload: slab[start:len(slab):len(slab)],
		})
	}
	return nil
}

func (op *sendOp) appendPayload(t *catalog.Topic, item *sendItem, m *message.Message) ([]byte, error) {
	switch item.record {
	case record.KindDelayed:
		return store.AppendDelayed(op.slab, item.at, t.ID, m)
	case record.KindHalf:
		return store.AppendHalf(op.slab, item.at, t.ID, m)
	}
	return store.AppendMessage(op.slab, t.ID, m)
}

// enrich checks a message's properties and adds those that every stored message has.
func (op *sendOp) enrich(m *message.Message, batch bool) (sendItem, error) {
	seen := scanProperties(m.Properties)
	item, level, err := op.plan(m, &seen, batch)
	if err != nil {
		return sendItem{}, err
	}
	start, idStart := len(op.props), len(op.ids)
	if keepsAll := item.record == record.KindMessage || item.record == record.KindDelayed && level == 0; keepsAll && !seen.popCheck {
		op.props = append(op.props, m.Properties...)
		if len(op.props) > start && op.props[len(op.props)-1] != propertyEnd {
			op.props = append(op.props, propertyEnd)
		}
	} else {
		op.copyKept(m.Properties, item.record, level)
	}
	if seen.uniqueID == nil {
		id := message.NewUniqueID()
		op.props = message.AppendProperty(op.props, message.PropUniqueKey, id)
		op.ids = append(op.ids, id...)
	} else {
		op.ids = append(op.ids, seen.uniqueID...)
	}
	if !seen.cluster {
		op.props = message.AppendProperty(op.props, message.PropCluster, op.b.opts.ClusterName)
	}
	if !seen.region {
		op.props = message.AppendProperty(op.props, message.PropRegion, region)
	}
	if !seen.traceOn {
		op.props = message.AppendProperty(op.props, message.PropTraceOn, "true")
	}
	op.markWaiting(&item, &seen, level, op.ids[idStart:])
	m.Properties = op.props[start:len(op.props):len(op.props)]
	if len(m.Properties) > message.MaxProperties {
		return sendItem{}, refuse(CodePropertiesTooLarge, "send to %s: properties of %d bytes are over the limit of %d",
			op.topic, len(m.Properties), message.MaxProperties)
	}
	item.idEnd = len(op.ids)
	return item, nil
}

// plan decides what becomes of a message: it is entered in its queue, waits for its time, with the delay level that it has then,
// or waits for the end of its transaction. A consumer's retry has no transaction any more, and a dead letter waits for nothing.
func (op *sendOp) plan(m *message.Message, seen *seenProperties, batch bool) (item sendItem, level int32, err error) {
	item = sendItem{kind: seen.kind, record: record.KindMessage}
	retry, dead := isRetry(op.topic), isDLQ(op.topic)
	if batch && (retry || dead) {
		return item, 0, refuse(CodeMessageIllegal, "batches to %s are not allowed", op.topic)
	}
	if dead {
		return item, 0, nil
	}
	half := false
	if flag := m.SysFlag & message.FlagTransactionMask; !retry {
		if half = seen.transaction || flag == message.FlagPrepared; !half && flag == message.FlagRollback {
			return item, 0, refuse(CodeMessageIllegal, "send to %s: the message says that it is rolled back", op.topic)
		}
	}
	delayed := seen.wish.asks()
	if !half && !delayed {
		return item, 0, nil
	}
	if batch {
		return item, 0, refuse(CodeMessageIllegal, "send to %s: messages of a batch have no delay and no transaction", op.topic)
	}
	now := op.began.UnixMilli()
	due, level, err := op.b.dueTime(&seen.wish, now)
	if err != nil {
		return item, 0, verbError(err, "send to "+op.topic)
	}
	if half {
		return op.planHalf(m, seen, item, level)
	}
	item.kind = kindDelay
	if due <= now {
		return item, 0, nil
	}
	item.record, item.at = record.KindDelayed, due
	return item, level, nil
}

// planHalf lets a message wait for the end of its transaction, in the form in which it will be committed. Its delay begins then.
func (op *sendOp) planHalf(m *message.Message, seen *seenProperties, item sendItem, level int32) (sendItem, int32, error) {
	if seen.group == nil && op.producer == "" {
		return item, 0, refuse(CodeMessageIllegal, "send to %s: a transactional message names no producer group", op.topic)
	}
	immunity := op.b.opts.TransactionTimeout.Milliseconds()
	if seen.immunity != nil {
		if sec, err := strconv.ParseInt(string(seen.immunity), 10, 32); err == nil && sec > 0 {
			immunity = sec * time.Second.Milliseconds()
		}
	}
	m.SysFlag = m.SysFlag&^message.FlagTransactionMask | message.FlagCommit
	item.kind, item.record, item.at = kindTransaction, record.KindHalf, op.began.UnixMilli()+immunity
	return item, level, nil
}

// copyKept copies the properties that a message keeps; markWaiting writes those anew that are left out of one that waits.
func (op *sendOp) copyKept(props []byte, kind record.Kind, level int32) {
	message.EachProperty(props, func(key, value []byte) bool {
		drop := false
		switch string(key) {
		case message.PropPopCK:
			drop = true
		case message.PropDelayLevel, message.PropRealTopic, message.PropRealQueueID:
			drop = level > 0
		case message.PropTimerDeliver, message.PropTimerDelayMs, message.PropTimerDelaySec, message.PropTimerOut:
			drop = level > 0 // the level wins
		case message.PropTranMsg, message.PropTransactionID:
			drop = kind == record.KindHalf
		}
		if !drop {
			op.props = append(append(op.props, key...), keyEnd)
			op.props = append(append(op.props, value...), propertyEnd)
		}
		return true
	})
}

// markWaiting adds what consumers see of a message that had to wait, as the reference writes it: after a delay level where it
// went all the time, after a time of its own that time.
func (op *sendOp) markWaiting(item *sendItem, seen *seenProperties, level int32, id []byte) {
	if level > 0 {
		op.addNumber(message.PropDelayLevel, int64(level))
		op.props = message.AppendProperty(op.props, message.PropRealTopic, op.topic)
		op.addNumber(message.PropRealQueueID, int64(op.queue))
	}
	switch {
	case item.record == record.KindDelayed && level == 0:
		op.addNumber(message.PropTimerOut, item.at)
	case item.record == record.KindHalf:
		op.props = append(append(op.props, message.PropTransactionID...), keyEnd)
		op.props = append(append(op.props, id...), propertyEnd)
		if seen.group == nil {
			op.props = message.AppendProperty(op.props, message.PropProducerGroup, op.producer)
		}
	}
}

func (op *sendOp) addNumber(key string, n int64) {
	op.props = append(append(op.props, key...), keyEnd)
	op.props = append(strconv.AppendInt(op.props, n, 10), propertyEnd)
}

// seenProperties is what a look at a message's properties found.
type seenProperties struct {
	uniqueID                 []byte
	cluster, region, traceOn bool
	popCheck                 bool
	kind                     messageKind
	wish                     delayWish
	transaction              bool
	group, immunity          []byte // producer group, and seconds until it is first asked
}

// scanProperties looks once at all properties.
func scanProperties(props []byte) (seen seenProperties) {
	message.EachProperty(props, func(key, value []byte) bool {
		switch string(key) {
		case message.PropUniqueKey:
			seen.uniqueID = value
		case message.PropCluster:
			seen.cluster = true
		case message.PropRegion:
			seen.region = true
		case message.PropTraceOn:
			seen.traceOn = true
		case message.PropPopCK:
			seen.popCheck = true
		case message.PropDelayLevel, message.PropTimerDeliver, message.PropTimerDelayMs, message.PropTimerDelaySec,
			message.PropTimerOut:
			seen.wish.see(string(key), value)
		case message.PropTranMsg:
			seen.transaction = string(value) == "true"
		case message.PropProducerGroup:
			seen.group = value
		case message.PropTranImmunity:
			seen.immunity = value
		case message.PropShardingKey:
			seen.kind = max(seen.kind, kindFIFO)
		case message.PropPriority:
			seen.kind = max(seen.kind, kindPriority)
		case message.PropLiteTopic:
			seen.kind = max(seen.kind, kindLite)
		}
		return true
	})
	return seen
}

// sendApplied is the Done of every send; it runs on the folder goroutine.
func sendApplied(p *commitlog.Proposal) {
	op := p.Context.(*sendOp)
	done := op.done
	results, err := op.results()
	op.release()
	done(results, err)
}

// results are what the sender is told. The unique ids share one string.
func (op *sendOp) results() ([]SendResult, error) {
	p := &op.proposal
	if p.Err != nil {
		op.b.rates.putFailed.Add(1)
		return nil, verbError(p.Err, "send to "+op.topic)
	}
	for i := range p.Outcomes {
		if p.Outcomes[i].Refused {
			return nil, refuse(CodeTopicNotFound, "topic %s was deleted meanwhile", op.topic)
		}
	}
	b, results, ids, start := op.b, make([]SendResult, len(op.items)), string(op.ids), 0
	for i := range results {
		item := &op.items[i]
		results[i] = SendResult{
			UniqueID: ids[start:item.idEnd], QueueID: op.queue, QueueOffset: p.Outcomes[i].Offset, Position: p.Positions[i], StoreTime: p.Timestamp,
		}
		switch r := &results[i]; item.record {
		case record.KindDelayed:
			r.RecallHandle = delay.Handle{
				Topic: op.topic, Broker: b.opts.BrokerName, Due: item.at, UniqueID: r.UniqueID, Origin: r.Position,
			}.String()
			op.meter.timers.countSet(op.messages[i].BornTimestamp, item.at)
		case record.KindHalf:
			r.TransactionID = txn.ID(r.Position, r.UniqueID)
		}
		start = item.idEnd
		op.meter.countIn(item.kind, int64(item.size))
	}
	op.meter.requests.Add(1)
	b.rates.put(len(results), len(op.slab), b.clock.Now().Sub(op.began))
	return results, nil
}

// release gives the op back to the pool, without what it held of others and without very large buffers.
func (op *sendOp) release() {
	op.done, op.meter, op.topic, op.producer = nil, nil, "", ""
	clear(op.messages)
	clear(op.proposal.Records)
	op.proposal = commitlog.Proposal{Records: op.proposal.Records[:0]}
	op.items, op.messages, op.ids, op.props = op.items[:0], op.messages[:0], op.ids[:0], op.props[:0]
	if cap(op.slab) > keptSlab || cap(op.props) > keptSlab {
		op.slab, op.props = nil, nil
	}
	sendOps.Put(op)
}
