package broker

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

const (
	// maxAttempts bounds the receives that are remembered, 1.5 KB each at most.
	maxAttempts = 4096
	// maxAttemptID is the longest id that is remembered, in bytes; clients send a UUID.
	maxAttemptID = 128
	// forgetAfter is how long (ms) what is over is remembered still: a clock that is set back makes it invisible again.
	forgetAfter = 5 * 60 * 1000
)

// attempts remember what the receives of groups that are served in order were given, until it is visible again: a client that got no
// answer asks again with the same attempt id, and nothing else would come to it as long as its messages hold up what is behind
// them. They are in memory only; after a restart such a client waits for the invisible time.
type attempts struct {
	mu struct {
		sync.Mutex
		lru *simplelru.LRU[attemptKey, *attempt]
	}
}

type attemptKey struct {
	group, topic kvindex.ID
	id           string
}

type attempt struct {
	refs  []pop.Ref
	until int64 // ms
}

func newAttempts() *attempts {
	lru, err := simplelru.NewLRU[attemptKey, *attempt](maxAttempts, nil)
	if err != nil {
		panic(err) // only a size below 1
	}
	a := &attempts{}
	a.mu.lru = lru
	return a
}

// put remembers what a receive was given at now (ms), and forgets what has been over for long.
func (a *attempts) put(key attemptKey, given *attempt, now int64) {
	if key.id == "" || len(key.id) > maxAttemptID {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for {
		oldest, was, ok := a.mu.lru.GetOldest()
		if !ok || was.until+forgetAfter > now {
			break
		}
		a.mu.lru.Remove(oldest)
	}
	a.mu.lru.Add(key, given)
}

// take answers what a receive was given, nil when that is not known or over. It is forgotten.
func (a *attempts) take(key attemptKey, now int64) *attempt {
	a.mu.Lock()
	defer a.mu.Unlock()
	given, ok := a.mu.lru.Get(key)
	if !ok {
		return nil
	}
	a.mu.lru.Remove(key)
	if given.until <= now {
		return nil
	}
	return given
}

// remember keeps what the take was answered with for a request that comes again.
func (t *take) remember(mask pop.Mask) {
	if !t.ordered || t.req.AttemptID == "" {
		return
	}
	given := &attempt{until: t.rec.VisibleAt, refs: make([]pop.Ref, 0, len(t.ends))}
	t.eachHandedOut(mask, func(ref pop.Ref) { given.refs = append(given.refs, ref) })
	t.p.attempts.put(attemptKey{t.group, t.topic, t.req.AttemptID}, given, t.now)
}

// repeat gives a receive that comes again the messages of the first one, when all of them are as they were then: the same deliveries
// for another invisible time, under new handles. nil when there is nothing to repeat.
func (r *popping) repeat() (*PopResult, error) {
	key := attemptKey{r.g.ID, r.t.ID, r.req.AttemptID}
	now := r.p.clock.Now().UnixMilli()
	given := r.p.attempts.take(key, now)
	if given == nil {
		return nil, nil
	}
	e := &pop.Extend{Group: key.group, Topic: key.topic}
	res := &PopResult{PoppedAt: now, Invisible: invisibleMs(r.req.Invisible)}
	again := &attempt{until: now + res.Invisible}
	entries := make([]store.Entry, 0, len(given.refs))
	for _, ref := range given.refs {
		c, ok, err := r.p.store.Pop.Get(pop.Popped{Group: key.group, Topic: key.topic, Ref: ref})
		if err != nil || !ok {
			return nil, err
		}
		entries = append(entries, store.Entry{Offset: ref.Offset, Position: c.Position, Size: c.Size})
		e.Moves = append(e.Moves, pop.Move{Ref: ref, To: again.until})
		h := pop.Handle{
			Group: key.group, Topic: key.topic, Queue: ref.Queue, Offset: ref.Offset, PoppedAt: now, VisibleAt: again.until,
			Attempts: c.Attempts, Nonce: ref.Nonce,
		}
		again.refs = append(again.refs, h.Ref())
		res.Handles = append(res.Handles, h)
		res.Attempts = append(res.Attempts, c.Attempts)
	}
	res.Buffer = store.NewBuffer()
	for len(entries) > 0 {
		ends, err := r.b.reader(r.cold).ReadMessages(entries, maxPopBytes, res.Buffer)
		if errors.Is(err, store.ErrCold) { // it is repeated by who reads the tier
			res.Buffer.Release()
			r.p.attempts.put(key, given, now)
			r.asked = false
			return nil, err
		}
		if err != nil {
			res.Buffer.Release()
			return nil, nil // the look finds out what is wrong with it
		}
		res.Ends, entries = append(res.Ends, ends...), entries[len(ends):]
	}
	moved, err := await(r.ctx, func(done func(bool, error)) {
		p := &commitlog.Proposal{Records: []record.Record{pop.ExtendRecord(e)}}
		p.Done = func(p *commitlog.Proposal) {
			moved := p.Err == nil && pop.MaskOf(p.Outcomes[0]).Count() == len(e.Moves)
			if moved { // also when nobody waits for it any more
				r.p.attempts.put(key, again, now)
				r.p.alarms.note(groupOfTopic{key.group, key.topic}, again.until)
			}
			done(moved, p.Err)
		}
		if err := r.p.store.Propose(p); err != nil {
			p.Err = err
			p.Done(p)
		}
	})
	if err != nil || !moved { // something was settled meanwhile, so the first answer has arrived
		res.Buffer.Release()
		return nil, err
	}
	return res, nil
}

// invisibleMs is an invisible time in whole milliseconds, at least one.
func invisibleMs(d time.Duration) int64 { return max((d + time.Millisecond - 1).Milliseconds(), 1) }
