package broker

import (
	"context"
	"math/rand/v2"
	"strconv"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// RedriveRequest is one part of a run over a group's dead letters. It moves those that match to a topic, or purges them.
type RedriveRequest struct {
	Group  string
	Filter DeadFilter
	To     string // topic; "": where each of them was first
	Purge  bool   // they go nowhere
	Most   int    // dead letters to look at, at most 1000 and about 32 MiB; 0: 100
	From   RedrivePoint
}

// RedrivePoint is how far a run has come. The zero value begins one, and a run that is broken off may simply be begun anew: what was
// done is not there any more.
type RedrivePoint struct {
	Began record.Position // what died behind it is not looked at, so that a run ends
	After DeadPoint
}

// RedriveResult is what became of the dead letters that one part looked at.
type RedriveResult struct {
	Done   int    // redriven or purged
	Passed int    // did not match; they stay
	Failed int    // cannot go there; they stay
	Why    string // of the first that failed
	Next   RedrivePoint
	End    bool // the run is over
}

// Redrive does one part of a run. A dead letter is entered in the topic and leaves the dead letters by the same record: whatever
// happens in between, and however many do it at once, it is redriven once. It keeps its unique id, keys, tag and message group, but
// nothing of a delay or transaction, and the topic's groups all see it as a new message.
//
// Refusals: CodeGroupNotFound (without dead letters), CodeTopicNotFound, CodeNoPermission (topic), CodeParameter, CodeBusy,
// CodeReadOnly, CodeClosing. A part that is refused or interrupted may have redriven some.
func (b *Broker) Redrive(ctx context.Context, req *RedriveRequest) (*RedriveResult, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	return b.redrive(ctx, req, nil)
}

// redrive is Redrive for those who are inside; auto is nil when somebody asked for it.
func (b *Broker) redrive(ctx context.Context, req *RedriveRequest, auto *catalog.AutoRedrive) (*RedriveResult, error) {
	t, err := b.deadTopic(req.Group, &req.Filter)
	if err != nil {
		return nil, err
	}
	r := &redrive{b: b, ctx: ctx, req: req, auto: auto, from: t, targets: map[string]*catalog.Topic{}, buf: store.NewBuffer()}
	defer r.buf.Release()
	if req.To != "" {
		if _, err := r.target(req.To); err != nil {
			return nil, err
		}
	}
	keeper, err := b.EnsureGroup(ctx, deadKeeper)
	if err != nil {
		return nil, err
	}
	r.keeper, r.now = keeper.ID, b.clock.Now().UnixMilli()
	r.res.Next = req.From
	if r.res.Next.Began <= 0 {
		r.res.Next.Began = b.store.Stats().Applied
	}
	most := req.Most
	if most <= 0 {
		most = defaultLetters
	}
	b.redriving.Lock() // runs that choose the same dead letters would only refuse each other
	defer b.redriving.Unlock()
	for left := min(most, maxLetters); left > 0 && r.read < deadBytes && !r.res.End; {
		n, err := r.step(min(left, pop.MaxItems))
		if err != nil {
			return nil, verbError(err, "redrive dead letters of "+req.Group)
		}
		left -= max(n, 1)
	}
	return &r.res, nil
}

// redrive is a part of a run under way.
type redrive struct {
	b       *Broker
	ctx     context.Context
	req     *RedriveRequest
	auto    *catalog.AutoRedrive
	from    *catalog.Topic // of the dead letters
	keeper  kvindex.ID
	now     int64 // ms
	targets map[string]*catalog.Topic
	buf     *store.Buffer
	read    int // bytes
	res     RedriveResult
	// What one step writes.
	forwards []record.Record
	sent     []*topicMeter // aligned with forwards
	sizes    []int
	acks     []pop.Ref
	moves    []pop.Move
}

// step looks at up to most of the next dead letters, and answers how many that was.
func (r *redrive) step(most int) (looked int, err error) {
	r.forwards, r.sent, r.sizes, r.acks, r.moves = nil, nil, nil, nil, nil
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.res.Next.After.Kept == fresh {
		return r.stepFresh(most)
	}
	return r.stepKept(most)
}

// stepKept looks at those that an earlier run has passed over.
func (r *redrive) stepKept(most int) (int, error) {
	at := &r.res.Next.After
	page, err := r.b.deadAfter(r.from, r.keeper, *at, most, nil)
	if err != nil {
		return 0, err
	}
	size := 0
	for i := range page {
		d := &page[i]
		if d.Kept == fresh || r.auto != nil && d.Kept > r.now {
			*at = DeadPoint{Kept: fresh, Offset: -1}
			return i, r.write(nil)
		}
		if size += int(d.entry.Size); size > copiedAtOnce && i > 0 {
			return i, r.write(nil)
		}
		if err := r.choose(d); err != nil {
			return 0, err
		}
		*at = d.DeadPoint
	}
	if len(page) < most {
		*at = DeadPoint{Kept: fresh, Offset: -1}
	}
	return len(page), r.write(nil)
}

// stepFresh looks at those that nobody has looked at, of one queue. They get a checkpoint first, which those that stay keep.
func (r *redrive) stepFresh(most int) (int, error) {
	at := &r.res.Next.After
	queue := at.Queue
	if queue >= r.from.Queues() {
		r.res.End = true
		return 0, nil
	}
	s, err := r.b.pop.stand(place{r.keeper, r.from.ID, queue})
	if err != nil {
		return 0, err
	}
	if !s.there {
		s.next = s.low
	}
	entries, err := r.b.store.Entries(r.from.ID, queue, max(s.next, s.low), most, nil)
	if err != nil {
		return 0, err
	}
	p := &pop.Pop{
		Group: r.keeper, Topic: r.from.ID, PoppedAt: r.now, VisibleAt: r.now, Nonce: rand.Uint64(),
		Ranges: []pop.Range{{Queue: queue, Start: s.next, End: s.next}},
	}
	size := 0
	for _, e := range entries {
		if size += int(e.Size); r.beyond(&e) || size > copiedAtOnce && len(p.Entries) > 0 {
			break
		}
		d := &DeadLetter{DeadPoint: DeadPoint{fresh, queue, e.Offset}, entry: e,
			ref: pop.Ref{VisibleAt: p.VisibleAt, Queue: queue, Offset: e.Offset, Nonce: p.Nonce}}
		if err := r.choose(d); err != nil {
			return 0, err
		}
		p.Entries = append(p.Entries, pop.Entry{Offset: e.Offset, Position: e.Position, Size: e.Size})
		p.Ranges[0].End, p.Ranges[0].Count = e.Offset+1, len(p.Entries)
	}
	if len(p.Entries) == 0 {
		*at = DeadPoint{Kept: fresh, Queue: queue + 1, Offset: -1}
		return 0, nil
	}
	return len(p.Entries), r.write(p)
}

// beyond says that a fresh dead letter, and those behind it, are too young for the run.
func (r *redrive) beyond(e *store.Entry) bool {
	return e.Position >= r.res.Next.Began || r.auto != nil && e.StoreTime > r.req.Filter.To
}

// parked is the visible-at, in ms, of dead letters that do not go back by themselves any more.
const parked = 1 << 52

// choose decides what becomes of one dead letter.
func (r *redrive) choose(d *DeadLetter) error {
	m, err := r.b.readDead(d, r.buf)
	if err != nil {
		return err
	}
	r.read += int(d.entry.Size)
	switch {
	case m == nil && r.req.Purge:
		r.acks = append(r.acks, d.ref)
		return nil
	case m == nil:
		r.fail(d, "its body cannot be read")
		return nil
	case !r.req.Filter.match(d) || d.entry.Position >= r.res.Next.Began:
		r.pass(d)
		return nil
	case r.req.Purge:
		r.acks = append(r.acks, d.ref)
		return nil
	}
	name := r.req.To
	if name == "" {
		name = d.Topic
	}
	t, err := r.target(name)
	if err != nil {
		r.fail(d, err.Error())
		return nil
	}
	return r.send(d, m, t)
}

// pass leaves a dead letter where it is. What goes back by itself is looked at again when it may be its time.
func (r *redrive) pass(d *DeadLetter) {
	r.res.Passed++
	if r.auto == nil {
		return
	}
	to := int64(parked)
	if d.Redrives < r.auto.Most {
		to = max(d.Died+r.auto.After.Milliseconds(), r.now+1)
	}
	r.moves = append(r.moves, pop.Move{Ref: d.ref, To: to})
}

func (r *redrive) fail(d *DeadLetter, why string) {
	if r.res.Failed++; r.res.Failed == 1 {
		r.res.Why = "dead letter " + d.UniqueID + ": " + why
	}
	if r.auto != nil {
		r.moves = append(r.moves, pop.Move{Ref: d.ref, To: r.now + r.auto.After.Milliseconds()})
	}
}

// target finds a topic that dead letters may go to.
func (r *redrive) target(name string) (*catalog.Topic, error) {
	if t := r.targets[name]; t != nil {
		return t, nil
	}
	if name == "" {
		return nil, refuse(CodeParameter, "nobody knows which topic it was in: name one")
	}
	t, err := r.b.topic(name)
	switch {
	case err != nil:
		return nil, err
	case !catalog.ClientsMaySend(name) || isDLQ(name) || t.Perm&catalog.PermWrite == 0:
		return nil, refuse(CodeNoPermission, "dead letters cannot go to topic %s", name)
	}
	r.targets[name] = t
	return t, nil
}

// send adds the record that enters a dead letter in a topic: in the queue where it was first, when the topic has that.
func (r *redrive) send(d *DeadLetter, m *message.Message, t *catalog.Topic) error {
	m.QueueID = d.OriginQueue
	if m.QueueID < 0 || m.QueueID >= max(t.WriteQueues, 1) {
		m.QueueID = r.b.rotation.next(t, r.b.clock.Now().UnixMilli())
	}
	m.Properties = redrivenProperties(m.Properties, d.Redrives+1)
	m.Topic, m.StoreHost, m.ReconsumeTimes = t.Name, r.b.opts.Advertise, 0
	m.SysFlag &^= message.FlagTransactionMask
	m.QueueOffset, m.PhysicalOffset, m.StoreTimestamp, m.PreparedOffset = 0, 0, 0, 0
	payload, err := store.AppendForward(make([]byte, 0, forwardRoom+m.EncodedSize()),
		pop.Popped{Group: r.keeper, Topic: r.from.ID, Ref: d.ref}, t.ID, m)
	if err != nil {
		return err
	}
	r.forwards = append(r.forwards, record.Record{Kind: record.KindForward, Payload: payload})
	r.sent, r.sizes = append(r.sent, r.b.meters.topic(t)), append(r.sizes, m.EncodedSize())
	return nil
}

// redrivenProperties are those of a dead letter that it takes along.
func redrivenProperties(props []byte, redrives int32) []byte {
	out := make([]byte, 0, len(props)+32)
	message.EachProperty(props, func(key, value []byte) bool {
		switch string(key) {
		case message.PropRetryTopic, message.PropOriginID, message.PropDLQTopic, message.PropDLQMessageID, message.PropReconsume,
			message.PropMaxReconsume, message.PropFirstPopTime, message.PropPopCK, message.PropConsumeStart,
			propDeadReason, propDeadAttempts, propDeadFirst, propDeadLast, propDeadQueue, propDeadOffset, propRedrives,
			message.PropDelayLevel, message.PropRealTopic, message.PropRealQueueID, message.PropTimerDeliver, message.PropTimerDelayMs,
			message.PropTimerDelaySec, message.PropTimerOut, message.PropTranMsg, message.PropTransactionID, message.PropTranChecks,
			message.PropTranImmunity, message.PropTranOffset, message.PropTranQueueOffset:
			return true
		}
		out = append(append(out, key...), keyEnd)
		out = append(append(out, value...), propertyEnd)
		return true
	})
	return withProperty(out, propRedrives, strconv.Itoa(int(redrives)))
}

// write appends what the step has decided: the checkpoints of fresh dead letters first, if there are any.
func (r *redrive) write(p *pop.Pop) error {
	var records []record.Record
	if p != nil {
		records = append(records, p.Record())
	}
	first := len(records)
	records = append(records, r.forwards...)
	if len(r.acks) > 0 {
		records = append(records, pop.AckRecord(&pop.Ack{Group: r.keeper, Topic: r.from.ID, Refs: r.acks}))
	}
	if len(r.moves) > 0 {
		records = append(records, pop.ExtendRecord(&pop.Extend{Group: r.keeper, Topic: r.from.ID, Moves: r.moves}))
	}
	if len(records) == 0 {
		return nil
	}
	out, err := r.b.store.Append(r.ctx, records...)
	if err != nil {
		return err
	}
	for i := range r.forwards {
		if out[first+i].Refused { // somebody else did it, or its topic was deleted meanwhile: then it is still there
			r.res.Passed++
			continue
		}
		r.res.Done++
		r.sent[i].countIn(kindNormal, int64(r.sizes[i]))
	}
	if len(r.acks) > 0 {
		r.res.Done += pop.MaskOf(out[first+len(r.forwards)]).Count()
	}
	return nil
}
