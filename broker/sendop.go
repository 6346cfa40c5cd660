package broker

import (
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

const (
	region = "DefaultRegion"
	// keptSlab is the largest buffer that goes back into the pool, in bytes.
	keptSlab = 256 << 10
	// recordPrefix is what a record has in front of the message's layout, for the size of the slab.
	recordPrefix = 8
	// propertyEnd ends a property; of properties that lie one after the other each must be ended.
	propertyEnd = 0x02
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

	items    []sendItem
	messages []message.Message
	props    []byte // enriched properties of all messages
	slab     []byte // payloads of all records
	ids      []byte // unique ids of all messages
}

// sendItem is what is remembered of one message until it is stored.
type sendItem struct {
	kind  messageKind
	size  int32 // of the stored layout
	idEnd int   // in ids
}

var sendOps sync.Pool

func newSendOp() *sendOp {
	if op, ok := sendOps.Get().(*sendOp); ok {
		return op
	}
	return &sendOp{}
}

// sendTo encodes the messages for one queue (−1: the broker chooses) and proposes them. With an error done is not called.
func (b *Broker) sendTo(t *catalog.Topic, queue int32, messages []message.Message, done func([]SendResult, error)) error {
	op := newSendOp()
	op.proposal.Done, op.proposal.Context = sendApplied, op
	op.b, op.done, op.began = b, done, b.clock.Now()
	op.meter, op.topic = b.meters.topic(t), t.Name
	if op.queue = queue; queue < 0 {
		op.queue = b.rotation.next(t)
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
		size += recordPrefix + m.EncodedSize()
	}
	op.slab = slices.Grow(op.slab[:0], size)
	for i := range op.messages {
		start := len(op.slab)
		slab, err := store.AppendMessage(op.slab, t.ID, &op.messages[i])
		if err != nil {
			return &Error{Code: CodeMessageIllegal, Message: "send to " + t.Name + ": " + err.Error(), Err: err}
		}
		op.slab = slab
		op.proposal.Records = append(op.proposal.Records, record.Record{
			Kind: record.KindMessage, Payload: slab[start:len(slab):len(slab)],
		})
	}
	return nil
}

// enrich checks a message's properties and adds those that every stored message has.
func (op *sendOp) enrich(m *message.Message, batch bool) (sendItem, error) {
	seen := scanProperties(m.Properties)
	if err := op.checkKind(m, &seen, batch); err != nil {
		return sendItem{}, err
	}
	props := m.Properties
	if seen.popCheck {
		props = message.DropProperty(props, message.PropPopCK)
	}
	start := len(op.props)
	op.props = append(op.props, props...)
	if len(op.props) > start && op.props[len(op.props)-1] != propertyEnd {
		op.props = append(op.props, propertyEnd)
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
	m.Properties = op.props[start:len(op.props):len(op.props)]
	if len(m.Properties) > message.MaxProperties {
		return sendItem{}, refuse(CodePropertiesTooLarge, "send to %s: properties of %d bytes are over the limit of %d",
			op.topic, len(m.Properties), message.MaxProperties)
	}
	return sendItem{kind: seen.kind, idEnd: len(op.ids)}, nil
}

// checkKind refuses what this stage of the broker does not do. A consumer's retry carries the delay or the transaction that
// the message once had, or a delay that it wants now; it goes to the retry topic at once.
func (op *sendOp) checkKind(m *message.Message, seen *seenProperties, batch bool) error {
	if isRetry(op.topic) || isDLQ(op.topic) {
		if batch {
			return refuse(CodeMessageIllegal, "batches to %s are not allowed", op.topic)
		}
		return nil
	}
	flag := m.SysFlag & message.FlagTransactionMask
	switch {
	case seen.transaction, flag == message.FlagPrepared, flag == message.FlagRollback:
		return refuse(CodeUnsupported, "send to %s: transactional messages are not supported yet", op.topic)
	case seen.delay:
		return refuse(CodeUnsupported, "send to %s: delayed messages are not supported yet", op.topic)
	}
	return nil
}

// seenProperties is what a look at a message's properties found.
type seenProperties struct {
	uniqueID                     []byte
	cluster, region, traceOn     bool
	popCheck, delay, transaction bool
	kind                         messageKind
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
		case message.PropDelayLevel:
			level, bad := strconv.Atoi(string(value))
			seen.delay = seen.delay || bad == nil && level > 0
		case message.PropTimerDeliver, message.PropTimerDelayMs, message.PropTimerDelaySec:
			seen.delay = true
		case message.PropTranMsg:
			seen.transaction = string(value) == "true"
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
			OffsetID: message.OffsetID(b.opts.Advertise, int64(p.Positions[i])), UniqueID: ids[start:item.idEnd],
			QueueID: op.queue, QueueOffset: p.Outcomes[i].Offset, Position: p.Positions[i], StoreTime: p.Timestamp,
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
	op.done, op.meter, op.topic = nil, nil, ""
	clear(op.messages)
	clear(op.proposal.Records)
	op.proposal = commitlog.Proposal{Records: op.proposal.Records[:0]}
	op.items, op.messages, op.ids, op.props = op.items[:0], op.messages[:0], op.ids[:0], op.props[:0]
	if cap(op.slab) > keptSlab || cap(op.props) > keptSlab {
		op.slab, op.props = nil, nil
	}
	sendOps.Put(op)
}
