package broker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/store"
)

const (
	// Messages and bytes of one answer.
	defaultPullMessages = 32
	maxPullMessages     = 160
	maxPullBytes        = 256 << 10
	// maxScan is how many queue entries one pull looks at to find what matches its filter; scanChunk at a time.
	maxScan   = 8192
	scanChunk = 256
	// maxSift bounds what one look of a pull or a pop reads of messages, and compares with what their filter is made of, to find
	// what matches a filter that needs their properties, in bytes. The last message may go over it.
	maxSift = 8 << 20
)

// PullStatus is how a pull ended.
type PullStatus int

// How a pull ended.
const (
	PullFound        PullStatus = iota
	PullNoNewMessage            // at the end
	PullNoMatch                 // skipped some, NextOffset moved on
	PullOffsetMoved             // out of range or reset, NextOffset is the correction
)

// PullRequest asks for messages of one queue from an offset on.
type PullRequest struct {
	Group, Topic string
	QueueID      int32
	Offset       int64
	MaxMessages  int // 0: 32; at most 160
	MaxBytes     int // 0 and more than that: 256 KiB. One message is always answered whole
	Filter       *filter.Expr
	// Suspend > 0 holds the request that long when there is nothing new.
	Suspend time.Duration
	// CommitOffset ≥ 0 is committed for the group along the way.
	CommitOffset int64
}

// PullResult: Buffer holds the stored layouts (Ends: end of each); the receiver releases it. Nil unless PullFound.
type PullResult struct {
	Status               PullStatus
	NextOffset, Min, Max int64
	Buffer               *store.Buffer
	Ends                 []int
	LastStoreTime        int64
}

// PullAsync calls done exactly once: at once, or from another goroutine when the wait ends; done must not block. cancel ends
// the wait early (done is then called with PullNoNewMessage unless it already was).
//
// A group that is not there is made when that is allowed. A filter of tags compares their hashes: the receiver compares the
// tags. Any other filter is exact, and what it passes over of what arrives does not end the wait.
//
// Refusals: CodeGroupNotFound, CodeTopicNotFound, CodeNoPermission (topic not readable, group disabled), CodeParameter
// (queue), CodeBusy (too many wait), CodeClosing.
func (b *Broker) PullAsync(req *PullRequest, done func(*PullResult, error)) (cancel func()) {
	p := &pull{b: b, req: *req, done: done}
	if err := b.gate.enter(); err != nil {
		done(nil, err)
		return p.cancel
	}
	defer b.gate.leave()
	if req.Suspend > 0 {
		p.deadline = b.clock.Now().Add(req.Suspend)
	}
	if req.CommitOffset >= 0 {
		// What is wrong with group, topic or queue is the pull's own answer; with too much waiting the next commit counts.
		_ = b.CommitOffsetAsync(req.Group, OffsetCommit{Topic: req.Topic, Queue: req.QueueID, Offset: req.CommitOffset})
	}
	if _, err := b.catalog.Group(req.Group); errors.Is(err, catalog.ErrGroupNotFound) {
		p.afterMakingGroup()
	} else {
		p.run()
	}
	return p.cancel
}

// Pull waits for the answer of PullAsync. When ctx ends before, its error is answered.
func (b *Broker) Pull(ctx context.Context, req *PullRequest) (*PullResult, error) {
	type answer struct {
		res *PullResult
		err error
	}
	over := make(chan answer, 1)
	cancel := b.PullAsync(req, func(res *PullResult, err error) { over <- answer{res, err} })
	select {
	case a := <-over:
		return a.res, a.err
	case <-ctx.Done():
		cancel()
		if a := <-over; a.res != nil && a.res.Buffer != nil {
			a.res.Buffer.Release()
		}
		return nil, ctx.Err()
	}
}

// pull is a pull under way.
type pull struct {
	b        *Broker
	req      PullRequest
	done     func(*PullResult, error)
	deadline time.Time // zero: does not wait
	passed   bool      // it waited behind messages that do not match
	waited   bool
	virtual  bool // whether its group had virtual queues when it began to wait
	cold     bool // it is with those that read the tier

	mu struct {
		sync.Mutex
		hold      *hold // while it waits
		cancelled bool
	}
}

func (p *pull) afterMakingGroup() {
	if err := p.b.mayMakeGroup(p.req.Group); err != nil {
		p.done(nil, err)
		return
	}
	p.b.ensureGroup(p.req.Group, 0, func(_ *catalog.Group, err error) {
		if err != nil {
			p.done(nil, err)
			return
		}
		p.b.workers.run(p.run)
	})
}

// run looks for messages, and answers or waits.
func (p *pull) run() {
	if err := p.b.gate.enter(); err != nil {
		p.done(nil, err)
		return
	}
	defer p.b.gate.leave()
	for {
		t, g, err := p.check()
		if err != nil {
			p.done(nil, err)
			return
		}
		at := place{g.ID, t.ID, p.req.QueueID}
		began := p.b.clock.Now()
		res, err := p.look(t, at)
		if errors.Is(err, store.ErrCold) {
			p.goCold()
			return
		}
		if err == nil && p.waited && g.VirtualQueues() != p.virtual { // the next pull is served otherwise
			res.Buffer.Release()
			p.done(&PullResult{Status: PullNoNewMessage, NextOffset: p.req.Offset, Min: res.Min, Max: res.Max}, nil)
			return
		}
		p.virtual = g.VirtualQueues()
		if err != nil {
			p.done(nil, err)
			return
		}
		p.b.rates.looked(res.Status == PullFound, p.b.clock.Now().Sub(began))
		if p.deadline.IsZero() || !p.mayWait(res) || !p.b.clock.Now().Before(p.deadline) {
			if res.Status == PullFound {
				p.b.meters.countOut(g, t, len(res.Ends), len(res.Buffer.B))
			}
			p.done(res, nil)
			return
		}
		p.waited, p.cold = true, false
		if again := p.wait(at, res); !again {
			return
		}
	}
}

// goCold has those go on with the pull that may wait for the tier.
func (p *pull) goCold() {
	p.cold = true
	if err := p.b.cold.run(p.run); err != nil {
		p.done(nil, err)
	}
}

// mayWait says that the pull has come to the end of the queue with nothing. Where only the messages themselves tell whether
// they match, every arrival wakes it: it goes on behind those that do not, and its answer says so in the end.
func (p *pull) mayWait(res *PullResult) bool {
	switch {
	case res.Status == PullNoNewMessage && p.passed:
		res.Status = PullNoMatch
	case res.Status == PullNoMatch && p.req.Filter.NeedsProperties() && res.NextOffset >= res.Max:
		p.req.Offset, p.passed = res.NextOffset, true
	default:
		return res.Status == PullNoNewMessage
	}
	return true
}

// check looks up group and topic, and whether this group may read that queue.
func (p *pull) check() (*catalog.Topic, *catalog.Group, error) {
	req := &p.req
	g, err := p.b.group(req.Group)
	if err != nil {
		return nil, nil, err
	}
	if !g.ConsumeEnable {
		return nil, nil, refuse(CodeNoPermission, "consumer group %s is disabled", g.Name)
	}
	t, err := p.b.topic(req.Topic)
	if err != nil {
		return nil, nil, err
	}
	if t.Perm&catalog.PermRead == 0 {
		return nil, nil, refuse(CodeNoPermission, "topic %s is not readable", t.Name)
	}
	if req.QueueID < 0 || req.QueueID >= t.ReadQueues {
		return nil, nil, refuse(CodeParameter, "queue %d of topic %s is not within 0 to %d", req.QueueID, t.Name, t.ReadQueues-1)
	}
	return t, g, nil
}

// look finds what the queue has at the wanted offset.
func (p *pull) look(t *catalog.Topic, at place) (*PullResult, error) {
	offset := p.req.Offset
	low, high, err := p.b.store.Bounds(t.ID, at.queue)
	if err != nil {
		return nil, verbError(err, "pull from "+t.Name)
	}
	res := &PullResult{Status: PullOffsetMoved, NextOffset: offset, Min: low, Max: high}
	if moved, told := p.b.offsets.pulled(at, offset); told {
		res.NextOffset = moved
		return res, nil
	}
	switch {
	case offset < low:
		res.NextOffset = low
	case offset > high:
		res.NextOffset = high
	case offset == high:
		res.Status = PullNoNewMessage
	default:
		err = p.read(t, res)
	}
	return res, verbError(err, "pull from "+t.Name)
}

// pullScratch is what a pull needs while it reads.
type pullScratch struct{ entries, picked []store.Entry }

var pullScratches = sync.Pool{New: func() any { return &pullScratch{} }}

// read picks the entries that match and reads their messages.
func (p *pull) read(t *catalog.Topic, res *PullResult) error {
	s := pullScratches.Get().(*pullScratch)
	defer pullScratches.Put(s)
	if p.req.Filter.NeedsProperties() {
		return p.sift(t, res, s)
	}
	if err := p.pick(t, res, s); err != nil {
		return err
	}
	if len(s.picked) == 0 {
		return p.noneMatched(t, res)
	}
	buf := store.NewBuffer()
	ends, err := p.b.reader(p.cold).ReadMessages(s.picked, p.mostBytes(), buf)
	if len(ends) == 0 {
		buf.Release()
		if errors.Is(err, commitlog.ErrGone) { // its segment was deleted: go on behind it
			res.Status, res.NextOffset = PullNoMatch, s.picked[0].Offset+1
			return nil
		}
		return err
	}
	if len(ends) < len(s.picked) {
		res.NextOffset = s.picked[len(ends)].Offset
	}
	res.Status, res.Buffer, res.Ends = PullFound, buf, ends
	res.LastStoreTime = s.picked[len(ends)-1].StoreTime
	return nil
}

// mostMessages bounds the messages of the answer, mostBytes their bytes; one message is always answered whole.
func (p *pull) mostMessages() int {
	if p.req.MaxMessages <= 0 {
		return defaultPullMessages
	}
	return min(p.req.MaxMessages, maxPullMessages)
}

func (p *pull) mostBytes() int {
	if p.req.MaxBytes <= 0 {
		return maxPullBytes
	}
	return min(p.req.MaxBytes, maxPullBytes)
}

// noneMatched tells what the filter passed over from a queue that was trimmed since its bounds were read.
func (p *pull) noneMatched(t *catalog.Topic, res *PullResult) (err error) {
	if res.NextOffset > p.req.Offset {
		res.Status = PullNoMatch
		return nil
	}
	if res.Min, res.Max, err = p.b.store.Bounds(t.ID, p.req.QueueID); err != nil {
		return err
	}
	if res.Min <= p.req.Offset {
		return fmt.Errorf("queue %d has no entry at offset %d, though it reaches from %d to %d", p.req.QueueID, p.req.Offset,
			res.Min, res.Max)
	}
	res.Status, res.NextOffset = PullOffsetMoved, res.Min
	return nil
}

// pick fills s.picked with the entries from the wanted offset on that match, and sets NextOffset behind what it looked at.
func (p *pull) pick(t *catalog.Topic, res *PullResult, s *pullScratch) error {
	req := &p.req
	most := p.mostMessages()
	chunk := scanChunk
	if req.Filter.All() {
		chunk = most
	}
	s.picked = s.picked[:0]
	for scanned := 0; scanned < maxScan && res.NextOffset < res.Max && len(s.picked) < most; scanned += len(s.entries) {
		var err error
		s.entries, err = p.b.reader(p.cold).Entries(t.ID, req.QueueID, res.NextOffset, chunk, s.entries[:0])
		if err != nil || len(s.entries) == 0 {
			return err
		}
		for i := range s.entries {
			e := &s.entries[i]
			if len(s.picked) == most {
				break
			}
			if req.Filter.MatchHash(e.TagHash) {
				s.picked = append(s.picked, *e)
			}
			res.NextOffset = e.Offset + 1
		}
	}
	res.Max = max(res.Max, res.NextOffset) // more may have come since the bounds were read
	return nil
}
