package javaimport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/message"
)

// Topics in which the Java broker keeps what waits. The RocksDB forms of transactions write to topics of their own.
const (
	timerTopic     = "rmq_sys_wheel_timer"
	scheduleTopic  = "SCHEDULE_TOPIC_XXXX"
	halfTopic      = "RMQ_SYS_TRANS_HALF_TOPIC"
	opTopic        = "RMQ_SYS_TRANS_OP_HALF_TOPIC"
	rocksHalfTopic = "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC"
	rocksOpTopic   = "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC"
	reviveTopic    = "rmq_sys_REVIVE_LOG_" // and the cluster's name

	transactionGroup = "CID_RMQ_SYS_TRANS"
	reviveGroup      = "CID_RMQ_SYS_REVIVE_GROUP"
)

// ErrUnsupported says that the store holds what cannot be brought over.
var ErrUnsupported = errors.New("this store cannot be imported")

// place is a queue by name.
type place struct {
	topic string
	queue int32
}

// line is what is known of a queue: the messages that are its own are those from position from on whose offsets follow each other.
type line struct {
	start int64 // offset at which it begins
	next  int64 // offset of the next message
	from  int64 // position of its first message
	seen  bool
	// fixed says that a consume queue told start and from. Otherwise a topic that was deleted and made anew shows by its offsets:
	// they begin again.
	fixed bool
}

// kind is why a message waits.
type kind byte

const (
	byTimer kind = iota
	byLevel
	byHalf
)

// wait is a message that was not delivered yet, as far as the log has been read.
type wait struct {
	kind     kind
	queue    int32
	offset   int64 // in the queue of the topic where it waits
	position int64
	due      int64 // ms; 0 for a half message
}

// plan is what the first look at a store finds. Its size follows the number of queues, of messages that wait, and of receives that
// are not acknowledged.
type plan struct {
	folder  *javastore.Folder
	levels  delay.Levels
	topics  map[string]*catalog.Topic
	lines   map[place]*line
	waits   map[uint64]wait  // by what idOf makes of topic and unique id
	halves  map[int64]uint64 // offset of a half message → its key in waits
	pops    *pops
	retries *retries
	// dispatched is the end of what the consume queues know of: messages behind it were stored, but not entered yet.
	dispatched int64

	first   int64 // ms, store time of the first message
	latest  int64 // ms, of those read so far
	early   int   // messages that were stored at a time before that of the one before them
	end     int64 // position behind the last message
	pending []wait
	report  Report
}

// Report tells what was found and what became of it.
type Report struct {
	Topics   int   `json:"topics"`
	Groups   int   `json:"groups"`
	Offsets  int   `json:"offsets"`
	Messages int64 `json:"messages"` // in their queues
	Delayed  int64 `json:"delayed"`  // that are not due yet
	Halves   int64 `json:"halves"`   // that nobody decided
	InFlight int64 `json:"inFlight"` // popped and not acknowledged
	// Skipped are messages that no client could have got, by topic: of topics that were deleted, or the broker's own.
	Skipped map[string]int64 `json:"skipped"`
	// Warnings are what could not be brought over, one sentence each.
	Warnings []string `json:"warnings"`
	Torn     bool     `json:"torn"` // the log ended within a message
	// Before says that the import had ended in an earlier run: Offsets and InFlight, which are counted as they are written, are 0.
	Before bool `json:"before"`
	// Bytes of the Java commitlog that were read.
	Bytes int64 `json:"bytes"`
}

// look reads the whole log once. read is called with the position now and then.
func look(ctx context.Context, f *javastore.Folder, levels delay.Levels, read func(int64)) (*plan, error) {
	p := &plan{
		folder: f, levels: levels, topics: map[string]*catalog.Topic{}, lines: map[place]*line{}, waits: map[uint64]wait{},
		halves: map[int64]uint64{}, pops: newPops(), retries: newRetries(f), report: Report{Skipped: map[string]int64{}},
	}
	for i := range f.Topics {
		t := &f.Topics[i]
		if _, retry := p.retries.of[t.Name]; !retry && moves(t.Name) {
			p.topics[t.Name] = t
		}
	}
	if err := p.readQueues(); err != nil {
		return nil, err
	}
	p.pops.setRevived(f.Offsets)
	r, err := f.Log.ReadFrom(0)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // only read
	var m javastore.Message
	for n := 0; ; n++ {
		ok, err := r.Next(&m)
		if err != nil {
			return nil, err
		}
		if !ok {
			break
		}
		if n == 0 {
			p.first = m.StoreTimestamp
		}
		if err := p.see(&m); err != nil {
			return nil, err
		}
		if n%1024 == 0 {
			read(r.Position())
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
	}
	p.end, p.report.Torn = r.Position(), r.Torn
	p.report.Bytes = p.end - f.Log.First()
	return p, p.settle()
}

// moves tells whether a topic's messages come along: clients' topics do, and of the system's those that clients may send to.
func moves(topic string) bool {
	return (!catalog.IsSystemTopic(topic) || catalog.ClientsMaySend(topic) && !strings.HasPrefix(topic, "rmq_sys_")) &&
		catalog.ValidateTopicName(topic) == nil
}

// readQueues looks at the consume queues of all topics.
func (p *plan) readQueues() error {
	for name, t := range p.topics {
		for q := range t.Queues() {
			found, known, err := p.folder.Queue(name, q)
			if err != nil {
				return err
			}
			if !known {
				return nil
			}
			l := &line{fixed: true, start: found.Min, next: found.Min, from: found.First}
			if found.First < 0 {
				l.from = -1 // an empty queue: what is there was stored behind what the queues know of
			}
			p.lines[place{name, q}] = l
			p.dispatched = max(p.dispatched, found.Last+1)
		}
	}
	return nil
}

// own tells whether a message of a client's topic is one of its queue's, and moves the queue on.
func (p *plan) own(m *javastore.Message) (bool, error) {
	t := p.topics[m.Topic]
	if t == nil || m.QueueID < 0 || m.QueueID >= t.Queues() {
		return false, nil
	}
	if flag := m.SysFlag & message.FlagTransactionMask; flag == message.FlagPrepared || flag == message.FlagRollback {
		return false, nil // never in a queue
	}
	if m.SysFlag&message.FlagInnerBatch != 0 {
		return false, fmt.Errorf("%w: topic %s has queues of batches (queue.type=BatchCQ)", ErrUnsupported, m.Topic)
	}
	at := place{m.Topic, m.QueueID}
	l := p.lines[at]
	if l == nil {
		l = &line{start: m.QueueOffset, next: m.QueueOffset, from: m.Position}
		p.lines[at] = l
	}
	switch {
	case l.fixed && l.from < 0 && m.Position < p.dispatched:
		return false, nil
	case l.fixed && l.from < 0 && !l.seen && m.QueueOffset < l.start:
		return false, nil
	case m.Position < l.from:
		return false, nil
	case !l.fixed && m.QueueOffset < l.next: // the topic was made anew
		l.start, l.next, l.from = m.QueueOffset, m.QueueOffset, m.Position
	case m.QueueOffset < l.next:
		return false, nil // stored twice
	case !l.seen: // the messages before were deleted
		l.start, l.next = m.QueueOffset, m.QueueOffset
	case m.QueueOffset > l.next:
		return false, fmt.Errorf("%w: queue %d of topic %s has offset %d behind %d: messages between are not in the commitlog",
			ErrUnsupported, m.QueueID, m.Topic, m.QueueOffset, l.next-1)
	}
	if l.from < 0 {
		l.from = m.Position
	}
	l.next++
	l.seen = true
	return true, nil
}

// isNext tells in the second look whether a message is the next one of its queue.
func (p *plan) isNext(m *javastore.Message) (*line, bool) {
	l := p.lines[place{m.Topic, m.QueueID}]
	if l == nil || l.from < 0 || m.Position < l.from || m.QueueOffset != l.next ||
		m.SysFlag&message.FlagTransactionMask == message.FlagPrepared || m.SysFlag&message.FlagTransactionMask == message.FlagRollback {
		return nil, false
	}
	return l, true
}

// see notes what one message means.
func (p *plan) see(m *javastore.Message) error {
	switch m.Topic {
	case timerTopic:
		return p.seeTimer(m)
	case scheduleTopic:
		p.seeLevel(m)
	case halfTopic, rocksHalfTopic:
		p.seeHalf(m)
	case opTopic, rocksOpTopic:
		p.seeOp(m)
	default:
		if strings.HasPrefix(m.Topic, reviveTopic) {
			return p.pops.see(m, true)
		}
		if p.retries.see(m) {
			return nil
		}
		ok, err := p.own(m)
		if err != nil {
			return err
		}
		if !ok {
			p.report.Skipped[m.Topic]++
			return nil
		}
		p.report.Messages++
		if m.StoreTimestamp < p.latest {
			p.early++
		}
		p.latest = max(p.latest, m.StoreTimestamp)
		if len(p.waits) > 0 {
			if id, ok := message.Property(m.Properties, message.PropUniqueKey); ok {
				delete(p.waits, idOf(m.Topic, id)) // this is what waited
			}
		}
	}
	return nil
}

// idOf is a message by its real topic and its unique id.
func idOf(topic string, id []byte) uint64 {
	h := xxhash.Sum64(id)
	return h*31 ^ xxhash.Sum64String(topic)
}

// realOf is where a message belongs that waits elsewhere, and its key in waits.
func realOf(m *javastore.Message) (topic string, queue int32, key uint64) {
	name, _ := message.Property(m.Properties, message.PropRealTopic)
	text, _ := message.Property(m.Properties, message.PropRealQueueID)
	n, err := strconv.ParseInt(string(text), 10, 32)
	if err != nil || n < 0 {
		n = 0
	}
	id, ok := message.Property(m.Properties, message.PropUniqueKey)
	if !ok { // nothing tells when it was delivered
		id = strconv.AppendInt(nil, m.Position, 10)
	}
	return string(name), int32(n), idOf(string(name), id)
}

// maxPrecision is the largest and usual timerPrecisionMs.
const maxPrecision = 1000

// wished is when the sender of a timer's message wants it delivered (ms). The Java broker notes the last multiple of its precision
// before that, in TIMER_OUT_MS, and delivers when that has passed. A message that was written again as it waited (a long timer) has
// another store time than the one from which its delay began.
func wished(m *javastore.Message, out int64) int64 {
	wish := number(m, message.PropTimerDeliver)
	if ms := number(m, message.PropTimerDelayMs); ms > 0 {
		wish = m.StoreTimestamp + ms
	}
	if sec := number(m, message.PropTimerDelaySec); sec > 0 {
		wish = m.StoreTimestamp + sec*1000
	}
	return min(max(wish, out), out+maxPrecision)
}

func number(m *javastore.Message, property string) int64 {
	text, _ := message.Property(m.Properties, property)
	n, err := strconv.ParseInt(string(text), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

func (p *plan) seeTimer(m *javastore.Message) error {
	topic, _, key := realOf(m)
	if strings.HasPrefix(topic, reviveTopic) {
		return p.pops.see(m, false)
	}
	if target, ok := message.Property(m.Properties, message.PropTimerDelUniqKey); ok {
		// A recall names the unique id, in 5.5 behind the topic and a plus sign.
		delete(p.waits, idOf(topic, target))
		delete(p.waits, idOf(topic, bytes.TrimPrefix(target, []byte(topic+"+"))))
		return nil
	}
	p.waits[key] = wait{
		kind: byTimer, queue: m.QueueID, offset: m.QueueOffset, position: m.Position, due: number(m, message.PropTimerOut),
	}
	return nil
}

func (p *plan) seeLevel(m *javastore.Message) {
	_, _, key := realOf(m)
	after, _ := p.levels.Delay(max(m.QueueID, 0) + 1)
	p.waits[key] = wait{
		kind: byLevel, queue: m.QueueID, offset: m.QueueOffset, position: m.Position,
		due: m.StoreTimestamp + after.Milliseconds(),
	}
}

func (p *plan) seeHalf(m *javastore.Message) {
	_, _, key := realOf(m)
	p.waits[key] = wait{kind: byHalf, offset: m.QueueOffset, position: m.Position}
	p.halves[m.QueueOffset] = key
}

// seeOp reads the offsets of half messages that have ended: one before 5.0, then several with commas between.
func (p *plan) seeOp(m *javastore.Message) {
	for word := range bytes.SplitSeq(m.Body, []byte(",")) {
		offset, err := strconv.ParseInt(string(bytes.TrimSpace(word)), 10, 64)
		if err != nil {
			continue
		}
		key, ok := p.halves[offset]
		if !ok {
			continue
		}
		delete(p.halves, offset)
		if w, there := p.waits[key]; there && w.kind == byHalf && w.offset == offset {
			delete(p.waits, key)
		}
	}
}

// settle leaves those that really wait, in the order of the log.
func (p *plan) settle() error {
	due, err := p.dueTimes()
	if err != nil {
		return err
	}
	halves := p.committed(transactionGroup, halfTopic, 0)
	for _, w := range p.waits {
		switch w.kind {
		case byTimer:
			if w.offset < p.folder.Timers.QueueOffset && w.due <= p.folder.Timers.ReadTime {
				continue // delivered, or given up
			}
			p.report.Delayed++
		case byLevel:
			if w.offset < p.folder.DelayOffsets[w.queue+1] {
				continue
			}
			if at, ok := due[place{scheduleTopic, w.queue}][w.offset]; ok {
				w.due = at
			}
			p.report.Delayed++
		case byHalf:
			if w.offset < halves {
				continue // asked for too often, or too old: the broker has put it aside
			}
			p.report.Halves++
		}
		p.pending = append(p.pending, w)
	}
	p.waits, p.halves = nil, nil
	p.startEmpty()
	p.report.Topics, p.report.Groups = len(p.topics), len(p.groups())
	slices.SortFunc(p.pending, func(a, b wait) int { return int(min(max(a.position-b.position, -1), 1)) })
	if p.folder.Lite > 0 {
		p.warn("%d offsets of lite topics were left behind: lite topics come with a later release", p.folder.Lite)
	}
	if p.early > 0 {
		p.warn("%d messages were stored while the Java broker's clock was set back: they have the time of the message before them", p.early)
	}
	if p.folder.PopInRocks {
		p.warn("kvStore/ was not read: what groups had popped and not acknowledged when the broker stopped does not come again")
	}
	if len(p.folder.Groups.Forbidden) > 0 {
		p.warn("%d groups had topics that are forbidden to them (forbiddenTable): that is not brought over", len(p.folder.Groups.Forbidden))
	}
	return nil
}

// startEmpty lets queues of which there is neither a message nor a consume queue begin where their groups are.
func (p *plan) startEmpty() {
	for _, o := range p.folder.Offsets {
		t := p.topics[o.Topic]
		if t == nil || o.Queue < 0 || o.Queue >= t.Queues() {
			continue
		}
		at := place{o.Topic, o.Queue}
		l := p.lines[at]
		if l == nil {
			l = &line{from: -1}
			p.lines[at] = l
		}
		if !l.seen && !l.fixed {
			l.start = max(l.start, o.Offset)
			l.next = l.start
		}
	}
}

// dueTimes are those that the consume queues of the delay levels tell, of what was not delivered yet.
func (p *plan) dueTimes() (map[place]map[int64]int64, error) {
	out := map[place]map[int64]int64{}
	for _, w := range p.waits {
		at := place{scheduleTopic, w.queue}
		if w.kind != byLevel || out[at] != nil {
			continue
		}
		times := map[int64]int64{}
		out[at] = times
		err := p.folder.DueTimes(scheduleTopic, w.queue, p.folder.DelayOffsets[w.queue+1], func(offset, due int64) bool {
			times[offset] = due
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// committed is the offset of a group in a queue, 0 when it has none.
func (p *plan) committed(group, topic string, queue int32) int64 {
	for _, o := range p.folder.Offsets {
		if o.Group == group && o.Topic == topic && o.Queue == queue {
			return o.Offset
		}
	}
	return 0
}

func (p *plan) warn(format string, args ...any) {
	p.report.Warnings = append(p.report.Warnings, fmt.Sprintf(format, args...))
}
