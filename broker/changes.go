package broker

import (
	"context"
	"sync"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
)

const (
	// maxHeld bounds what sends hold in memory while their topic is being made, in bytes.
	maxHeld = 64 << 20
	// heldCost is what one that waits for a change costs beside the bytes that it holds.
	heldCost = 1 << 10
)

// changes lets one change of a name happen at a time: what reads a topic or group and writes it back does not lose another's
// change, and many that want the same topic made share one append. Nothing here blocks.
type changes struct {
	mu struct {
		sync.Mutex
		underWay map[string][]waitingChange
		held     int64
	}
}

// waitingChange is called with the outcome of the change that it waited for.
type waitingChange struct {
	then func(error)
	held int64
}

func newChanges() *changes {
	c := &changes{}
	c.mu.underWay = map[string][]waitingChange{}
	return c
}

// enter makes the caller the one who changes key (true), who must call leave; or arranges that then is called when the
// change under way is over (false). The error is CodeBusy when too many bytes wait already.
func (c *changes) enter(key string, held int64, then func(error)) (mine bool, err error) {
	held += heldCost
	c.mu.Lock()
	defer c.mu.Unlock()
	waiting, busy := c.mu.underWay[key]
	if !busy {
		c.mu.underWay[key] = nil
		return true, nil
	}
	if c.mu.held+held > maxHeld {
		return false, refuse(CodeBusy, "too much waits for %s to be made", key)
	}
	c.mu.held += held
	c.mu.underWay[key] = append(waiting, waitingChange{then, held})
	return false, nil
}

// leave ends the change of key and calls those who waited for it.
func (c *changes) leave(key string, err error) {
	c.mu.Lock()
	waiting := c.mu.underWay[key]
	delete(c.mu.underWay, key)
	for _, w := range waiting {
		c.mu.held -= w.held
	}
	c.mu.Unlock()
	for _, w := range waiting {
		w.then(err)
	}
}

// lock makes the caller the one who changes key; it waits until the changes before are over.
func (c *changes) lock(ctx context.Context, key string) error {
	for {
		over := make(chan struct{})
		mine, err := c.enter(key, 0, func(error) { close(over) })
		if mine || err != nil {
			return err
		}
		select {
		case <-over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func topicKey(name string) string { return "topic " + name }
func groupKey(name string) string { return "group " + name }

// change reads, checks and writes back one topic or group: records says what to write, with nobody else changing key. When
// ctx ends before, the change still happens or fails as a whole, and key stays taken until then.
func (b *Broker) change(ctx context.Context, key, doing string, records func() ([]record.Record, error)) error {
	if err := b.changes.lock(ctx, key); err != nil {
		return err
	}
	recs, err := records()
	if err != nil {
		b.changes.leave(key, nil)
		return verbError(err, doing)
	}
	over := make(chan error, 1)
	b.propose(doing, recs, func(_ *commitlog.Proposal, err error) {
		if err == nil {
			b.topicsChanged()
		}
		b.changes.leave(key, nil)
		over <- err
	})
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// propose hands records to the log and calls then, from the folder goroutine, when they are applied; refused tells whether
// one of them changed nothing. then is also called when the log does not take them, before propose returns.
func (b *Broker) propose(doing string, records []record.Record, then func(p *commitlog.Proposal, err error)) {
	p := &commitlog.Proposal{Records: records}
	p.Done = func(p *commitlog.Proposal) { then(p, verbError(p.Err, doing)) }
	if err := b.store.Propose(p); err != nil {
		then(p, verbError(err, doing))
	}
}

// append waits until the records are applied.
func (b *Broker) append(ctx context.Context, doing string, records ...record.Record) ([]record.Outcome, error) {
	outcomes, err := b.store.Append(ctx, records...)
	return outcomes, verbError(err, doing)
}

// ensureTopic calls then with the topic, which it makes like wanted when it is not there; held is how many bytes then keeps
// alive. then is called once, at once or from the folder goroutine.
func (b *Broker) ensureTopic(wanted catalog.Topic, held int64, then func(*catalog.Topic, error)) {
	doing := "make topic " + wanted.Name
	found := func(err error) {
		if err != nil {
			then(nil, err)
			return
		}
		t, err := b.catalog.Topic(wanted.Name)
		then(t, verbError(err, doing))
	}
	mine, err := b.changes.enter(topicKey(wanted.Name), held, found)
	if err != nil {
		then(nil, err)
		return
	}
	if !mine {
		return
	}
	if t, err := b.catalog.Topic(wanted.Name); err == nil { // made between the caller's look and enter
		b.changes.leave(topicKey(wanted.Name), nil)
		then(t, nil)
		return
	}
	b.propose(doing, []record.Record{b.catalog.PutTopic(wanted)}, func(_ *commitlog.Proposal, err error) {
		if err == nil {
			b.topicsChanged()
		}
		b.changes.leave(topicKey(wanted.Name), err)
		found(err)
	})
}

// ensureGroup calls then with the group, which it makes together with its retry topic when it is not there. then is called
// once, at once or from the folder goroutine.
func (b *Broker) ensureGroup(name string, held int64, then func(*catalog.Group, error)) {
	doing := "make group " + name
	found := func(err error) {
		if err != nil {
			then(nil, err)
			return
		}
		g, err := b.catalog.Group(name)
		then(g, verbError(err, doing))
	}
	mine, err := b.changes.enter(groupKey(name), held, found)
	if err != nil {
		then(nil, err)
		return
	}
	if !mine {
		return
	}
	if g, err := b.catalog.Group(name); err == nil {
		b.changes.leave(groupKey(name), nil)
		then(g, nil)
		return
	}
	g := catalog.DefaultGroup(name)
	b.propose(doing, b.groupRecords(g), func(_ *commitlog.Proposal, err error) {
		if err == nil {
			b.topicsChanged()
		}
		b.changes.leave(groupKey(name), err)
		found(err)
	})
}

// groupRecords puts a group, and its retry topic when there is none yet: tools find a group by the route of that topic.
func (b *Broker) groupRecords(g catalog.Group) []record.Record {
	records := []record.Record{b.catalog.PutGroup(g)}
	if _, err := b.catalog.Topic(catalog.RetryPrefix + g.Name); err != nil {
		records = append(records, b.catalog.PutTopic(b.groupTopic(catalog.RetryPrefix+g.Name, g.RetryQueueNums)))
	}
	return records
}
