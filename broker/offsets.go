package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
)

const (
	// maxGathered bounds the offsets that were committed one-way and are not in the log yet.
	maxGathered = 100_000
	// commitEvery is how long an offset that was committed one-way stays in memory only.
	commitEvery = time.Second
	// commitChunk is how many offsets one record holds at most.
	commitChunk = 1000

	// maxResets bounds the resets that consumers have not noticed yet.
	maxResets = 10_000
	// resetNotice is how long a reset waits for the next pull, and then for the one from the new offset. A consumer that is
	// there pulls at once; one that comes later asks for its committed offset first.
	resetNotice = 2 * time.Minute
)

// place is a group's place in a queue.
type place struct {
	group, topic kvindex.ID
	queue        int32
}

// offsets holds what the index does not know yet of where groups stand: offsets that were committed one-way and wait to be
// written together, and resets that pulling consumers have not noticed yet.
//
// The mutex is held while records are proposed, which does not block, so that the order of decisions here is their order
// in the log: a commit that was let through before a reset lies before it.
type offsets struct {
	clock   clock.Clock
	propose func(p *commitlog.Proposal) error

	mu struct {
		sync.Mutex
		gathered map[place]gathered
		seq      uint64
		resets   map[place]*reset
		ignored  map[kvindex.ID]struct{} // groups whose commits do not count
	}
}

// gathered is the newest offset of a place that was committed one-way. It stays until it is applied.
type gathered struct {
	offset   int64
	seq      uint64 // tells it from a later one
	proposed bool
}

// reset is a place that was moved. The consumer that pulls there is told once, and until it pulls from the new offset its
// commits are from before and are ignored.
type reset struct {
	offset int64
	told   bool
	until  time.Time
}

func newOffsets(c clock.Clock, propose func(*commitlog.Proposal) error) *offsets {
	o := &offsets{clock: c, propose: propose}
	o.mu.gathered = map[place]gathered{}
	o.mu.resets = map[place]*reset{}
	o.mu.ignored = map[kvindex.ID]struct{}{}
	return o
}

// gather notes an offset that was committed one-way. CodeBusy when too many wait.
func (o *offsets) gather(at place, offset int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.staleLocked(at, offset) {
		return nil
	}
	if _, there := o.mu.gathered[at]; !there && len(o.mu.gathered) >= maxGathered {
		return refuse(CodeBusy, "%d committed offsets wait to be written", len(o.mu.gathered))
	}
	o.mu.seq++
	o.mu.gathered[at] = gathered{offset: offset, seq: o.mu.seq}
	return nil
}

// committed answers the offset of a place when one is gathered for it.
func (o *offsets) committed(at place) (int64, bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	g, ok := o.mu.gathered[at]
	return g.offset, ok
}

// ignore has commits of a group count for nothing until heed is called, while where it stands is passing to others than who commit.
func (o *offsets) ignore(group kvindex.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.ignored[group] = struct{}{}
}

func (o *offsets) heed(group kvindex.ID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.mu.ignored, group)
}

// staleLocked says whether a commit comes from a consumer that has not noticed that its place was reset, or that it is not its own
// any more.
func (o *offsets) staleLocked(at place, offset int64) bool {
	if _, ok := o.mu.ignored[at.group]; ok {
		return true
	}
	r := o.resetLocked(at)
	return r != nil && offset != r.offset
}

// resetLocked is the reset of a place that is still to be noticed, or nil.
func (o *offsets) resetLocked(at place) *reset {
	r := o.mu.resets[at]
	if r != nil && !o.clock.Now().Before(r.until) {
		delete(o.mu.resets, at)
		return nil
	}
	return r
}

// pulled is called before a pull at offset. It answers the offset of a reset that the puller has to be told of.
func (o *offsets) pulled(at place, offset int64) (moved int64, told bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.mu.resets) == 0 {
		return 0, false
	}
	r := o.resetLocked(at)
	if r == nil {
		return 0, false
	}
	if offset == r.offset || r.told {
		delete(o.mu.resets, at)
		return 0, false
	}
	r.told, r.until = true, o.clock.Now().Add(resetNotice)
	return r.offset, true
}

// hasReset says whether the next pull has to be told of a reset.
func (o *offsets) hasReset(at place) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	r := o.resetLocked(at)
	return r != nil && !r.told
}

// flush proposes what was gathered since the last time. flushed, when not nil, is called when all that is gathered is applied
// or has failed; otherwise what is under way is left alone.
func (o *offsets) flush(flushed func(error)) {
	if flushed == nil {
		flushed = func(error) {}
	} else {
		o.mu.Lock()
		for at, g := range o.mu.gathered {
			g.proposed = false
			o.mu.gathered[at] = g
		}
		o.mu.Unlock()
	}
	o.mu.Lock()
	p, taken := o.takeLocked()
	if len(taken) == 0 {
		o.mu.Unlock()
		flushed(nil)
		return
	}
	p.Done = func(p *commitlog.Proposal) {
		o.settle(taken, p.Err)
		flushed(p.Err)
	}
	err := o.propose(p)
	o.mu.Unlock()
	if err != nil {
		o.settle(taken, err)
		flushed(err)
	}
}

// taken is a gathered offset that was proposed.
type taken struct {
	at  place
	seq uint64
}

// takeLocked puts what was not proposed yet into records.
func (o *offsets) takeLocked() (*commitlog.Proposal, []taken) {
	p := &commitlog.Proposal{}
	var items []taken
	var commits []pop.Commit
	for at, g := range o.mu.gathered {
		if g.proposed {
			continue
		}
		g.proposed = true
		o.mu.gathered[at] = g
		items = append(items, taken{at, g.seq})
		commits = append(commits, pop.Commit{Group: at.group, Topic: at.topic, Queue: at.queue, Offset: g.offset})
	}
	for chunk := range slices.Chunk(commits, commitChunk) {
		p.Records = append(p.Records, pop.CommitRecord(chunk))
	}
	return p, items
}

// settle forgets what is applied, or lets the next flush try again. What was committed meanwhile stays.
func (o *offsets) settle(items []taken, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, it := range items {
		g, ok := o.mu.gathered[it.at]
		switch {
		case !ok || g.seq != it.seq:
		case err == nil:
			delete(o.mu.gathered, it.at)
		default:
			g.proposed = false
			o.mu.gathered[it.at] = g
		}
	}
}

// write proposes offsets that are to be durable, without those from before a reset; then is called when they are applied.
// What was gathered for the same places is older and forgotten.
func (o *offsets) write(commits []pop.Commit, then func(error)) {
	o.mu.Lock()
	kept := make([]pop.Commit, 0, len(commits))
	for _, c := range commits {
		at := place{c.Group, c.Topic, c.Queue}
		if !o.staleLocked(at, c.Offset) {
			kept = append(kept, c)
			delete(o.mu.gathered, at)
		}
	}
	var err error
	if len(kept) > 0 {
		p := &commitlog.Proposal{Records: []record.Record{pop.CommitRecord(kept)}}
		p.Done = func(p *commitlog.Proposal) { then(p.Err) }
		err = o.propose(p)
	}
	o.mu.Unlock()
	if err != nil || len(kept) == 0 {
		then(err)
	}
}

// reset proposes to move places; then is called when they have moved or it failed. From now on pulls at other offsets are
// told, and commits from before are ignored.
func (o *offsets) reset(commits []pop.Commit, then func(error)) {
	until := o.clock.Now().Add(resetNotice)
	o.mu.Lock()
	p := &commitlog.Proposal{Records: []record.Record{pop.ResetRecord(commits)}}
	notices := make(map[place]*reset, len(commits))
	p.Done = func(p *commitlog.Proposal) {
		if p.Err != nil {
			o.withdraw(notices)
		}
		then(p.Err)
	}
	err := o.propose(p)
	if err == nil {
		for _, c := range commits {
			at := place{c.Group, c.Topic, c.Queue}
			delete(o.mu.gathered, at)
			notices[at] = &reset{offset: c.Offset, until: until}
			o.noteResetLocked(at, notices[at])
		}
	}
	o.mu.Unlock()
	if err != nil {
		then(err)
	}
}

// noteResetLocked adds a reset. When there are too many some other is forgotten.
func (o *offsets) noteResetLocked(at place, r *reset) {
	if len(o.mu.resets) >= maxResets {
		o.expireLocked()
	}
	if len(o.mu.resets) >= maxResets {
		for some := range o.mu.resets {
			delete(o.mu.resets, some)
			break
		}
	}
	o.mu.resets[at] = r
}

// expire forgets resets that nobody noticed in time.
func (o *offsets) expire() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.expireLocked()
}

func (o *offsets) expireLocked() {
	now := o.clock.Now()
	for at, r := range o.mu.resets {
		if !now.Before(r.until) {
			delete(o.mu.resets, at)
		}
	}
}

func (o *offsets) withdraw(notices map[place]*reset) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for at, r := range notices {
		if o.mu.resets[at] == r {
			delete(o.mu.resets, at)
		}
	}
}

// OffsetCommit is a committed offset of one queue: the next one that the group wants.
type OffsetCommit struct {
	Topic  string
	Queue  int32
	Offset int64
}

// CommitOffsets is durable when it returns; CommitOffsetAsync (one-way commits) gathers and commits within a second. A group
// that is not there is made when that is allowed. While a reset of a queue has not been noticed by the consumer there, its
// commits are from before the reset: they are ignored, without an error.
//
// Refusals: CodeGroupNotFound, CodeTopicNotFound, CodeParameter (queue, negative offset), CodeBusy, CodeReadOnly.
func (b *Broker) CommitOffsets(ctx context.Context, group string, commits []OffsetCommit) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	g, err := b.EnsureGroup(ctx, group)
	if err != nil {
		return err
	}
	rows := make([]pop.Commit, 0, len(commits))
	for _, c := range commits {
		t, err := b.checkCommit(c)
		if err != nil {
			return err
		}
		rows = append(rows, pop.Commit{Group: g.ID, Topic: t.ID, Queue: c.Queue, Offset: c.Offset})
	}
	_, err = await(ctx, func(done func(struct{}, error)) {
		b.offsets.write(rows, func(err error) { done(struct{}{}, err) })
	})
	return verbError(err, "commit offsets of "+group)
}

// CommitOffsetAsync notes an offset, which is durable within about a second or when the broker is closed; CommittedOffset
// sees it at once. It neither blocks nor makes a group.
func (b *Broker) CommitOffsetAsync(group string, c OffsetCommit) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	g, err := b.group(group)
	if err != nil {
		return err
	}
	t, err := b.checkCommit(c)
	if err != nil {
		return err
	}
	return b.offsets.gather(place{g.ID, t.ID, c.Queue}, c.Offset)
}

func (b *Broker) checkCommit(c OffsetCommit) (*catalog.Topic, error) {
	t, err := b.topic(c.Topic)
	if err != nil {
		return nil, err
	}
	if err := checkQueue(t, c.Queue); err != nil {
		return nil, err
	}
	if c.Offset < 0 {
		return nil, refuse(CodeParameter, "commit of offset %d", c.Offset)
	}
	return t, nil
}

func checkQueue(t *catalog.Topic, queue int32) error {
	if last := max(t.ReadQueues, t.WriteQueues) - 1; queue < 0 || queue > last {
		return refuse(CodeParameter, "queue %d of topic %s is not within 0 to %d", queue, t.Name, last)
	}
	return nil
}

// eachGathered calls f for every gathered offset.
func (o *offsets) eachGathered(f func(at place, offset int64)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for at, g := range o.mu.gathered {
		f(at, g.offset)
	}
}
