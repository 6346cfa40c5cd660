package broker

import (
	"context"
	"maps"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
)

// ForgetPlace takes a group's place in a topic away, with what it has in flight there: whoever consumes in the group again begins as
// in a topic that is new to it. found is false when the group had none.
//
// Refusals: CodeTopicNotFound, CodeGroupNotFound, CodeParameter (a group of the system), CodeBusy, CodeReadOnly.
func (b *Broker) ForgetPlace(ctx context.Context, group, topic string) (found bool, err error) {
	if err := b.gate.enter(); err != nil {
		return false, err
	}
	defer b.gate.leave()
	if catalog.IsSystemGroup(group) {
		return false, refuse(CodeParameter, "where group %s stands is the broker's own business", group)
	}
	g, err := b.group(group)
	if err != nil {
		return false, err
	}
	t, err := b.topic(topic)
	if err != nil {
		return false, err
	}
	found, err = await(ctx, func(done func(bool, error)) { b.offsets.forget(g.ID, t.ID, done) })
	return found, verbError(err, "forget where "+group+" stands in "+topic)
}

// forget proposes to take a group's place in a topic away; then is called when that is applied or has failed. What was gathered for
// it, and resets that nobody has noticed, are from before.
func (o *offsets) forget(group, topic kvindex.ID, then func(found bool, err error)) {
	goes := func(at place) bool { return at.group == group && at.topic == topic }
	o.mu.Lock()
	waiting := len(o.mu.gathered)
	maps.DeleteFunc(o.mu.gathered, func(at place, _ gathered) bool { return goes(at) })
	waiting -= len(o.mu.gathered)
	maps.DeleteFunc(o.mu.resets, func(at place, _ *reset) bool { return goes(at) })
	p := &commitlog.Proposal{Records: []record.Record{pop.ForgetRecord(group, topic)}}
	p.Done = func(p *commitlog.Proposal) {
		then(p.Err == nil && (waiting > 0 || !p.Outcomes[0].Refused), p.Err)
	}
	err := o.propose(p)
	o.mu.Unlock()
	if err != nil {
		then(false, err)
	}
}
