package broker

import (
	"context"
	"errors"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
)

// Group answers a group's configuration, which is shared and must not be changed. CodeGroupNotFound.
func (b *Broker) Group(name string) (*catalog.Group, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	return b.group(name)
}

// group is Group for those who are inside already.
func (b *Broker) group(name string) (*catalog.Group, error) {
	g, err := b.catalog.Group(name)
	if err != nil {
		return nil, groupError(err, name)
	}
	return g, nil
}

func groupError(err error, name string) error {
	if errors.Is(err, catalog.ErrGroupNotFound) {
		return &Error{Code: CodeGroupNotFound, Message: "consumer group " + name + " does not exist", Err: err}
	}
	return verbError(err, "look up group "+name)
}

// mayMakeGroup says whether a group that is not there is made on demand, or why not. The system's own groups always are.
func (b *Broker) mayMakeGroup(name string) error {
	if !b.opts.AutoCreateGroups && !catalog.IsSystemGroup(name) {
		return refuse(CodeGroupNotFound, "consumer group %s does not exist", name)
	}
	return checkGroupName(name)
}

func checkGroupName(name string) error {
	if err := catalog.ValidateGroupName(name); err != nil {
		return &Error{Code: CodeGroupIllegal, Message: err.Error(), Err: err}
	}
	return nil
}

// EnsureGroup answers the group, and makes it, together with its retry topic, when it is not there and groups may be made on
// demand. CodeGroupNotFound when they may not, CodeGroupIllegal for a bad name.
func (b *Broker) EnsureGroup(ctx context.Context, name string) (*catalog.Group, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	g, err := b.group(name)
	if CodeOf(err) != CodeGroupNotFound {
		return g, err
	}
	if err := b.mayMakeGroup(name); err != nil {
		return nil, err
	}
	type made struct {
		g   *catalog.Group
		err error
	}
	over := make(chan made, 1)
	b.ensureGroup(name, 0, func(g *catalog.Group, err error) { over <- made{g, err} })
	select {
	case m := <-over:
		return m.g, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// InUnit tells whether the retry topic of a group is marked as one that a unit's consumers subscribe to.
func (b *Broker) InUnit(group string) bool {
	t, err := b.Topic(catalog.RetryPrefix + group)
	return err == nil && t.SysFlag&catalog.TopicHasUnitSub != 0
}

// MarkInUnit marks the retry topic of a group so. CodeTopicNotFound when there is none.
func (b *Broker) MarkInUnit(ctx context.Context, group string) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	name := catalog.RetryPrefix + group
	return b.change(ctx, topicKey(name), "mark topic "+name, func() ([]record.Record, error) {
		old, err := b.topic(name)
		if err != nil {
			return nil, err
		}
		t := *old
		t.SysFlag |= catalog.TopicHasUnitSub
		return []record.Record{b.catalog.PutTopic(t)}, nil
	})
}

// PutGroup creates a group, with its retry topic, or replaces its configuration. attributes is `+k=v,-k`; what it does not
// name stays as it is, "" keeps all (g.Attributes, g.ID and g.Created are ignored). CodeGroupIllegal, CodeParameter.
func (b *Broker) PutGroup(ctx context.Context, g catalog.Group, attributes string) (err error) {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	began := b.clock.Now()
	defer func() { b.creates.group(b.clock.Now().Sub(began), err) }()
	if err := checkGroupName(g.Name); err != nil {
		return err
	}
	switch {
	case g.RetryQueueNums < 0 || g.RetryQueueNums > maxQueues:
		return refuse(CodeParameter, "group %s: %d retry queues are not within 0 to %d", g.Name, g.RetryQueueNums, maxQueues)
	case g.RetryMaxTimes < -1:
		return refuse(CodeParameter, "group %s: %d retries", g.Name, g.RetryMaxTimes)
	}
	doing := "put group " + g.Name
	var switched *catalog.Group // as it was, when its virtual queues are turned on or off
	err = b.change(ctx, groupKey(g.Name), doing, func() ([]record.Record, error) {
		old, err := b.catalog.Group(g.Name)
		g.Attributes = nil
		switch {
		case err == nil:
			g.Attributes = old.Attributes
		case !errors.Is(err, catalog.ErrGroupNotFound):
			return nil, err
		}
		if g.Attributes, err = catalog.ApplyGroupAttributes(g.Attributes, attributes, old == nil); err != nil {
			return nil, err
		}
		if g.VirtualQueues() && g.ConsumeMessageOrderly {
			return nil, refuse(CodeParameter, "group %s: who consumes in order cannot have virtual queues", g.Name)
		}
		records := b.groupRecords(g)
		if old == nil || old.VirtualQueues() == g.VirtualQueues() {
			return records, nil
		}
		switched = old
		more, err := b.switchRecords(ctx, old)
		return append(records, more...), err
	})
	if switched != nil {
		b.offsets.heed(switched.ID)
	}
	if err != nil {
		return err
	}
	b.redriver.note(&g)
	if switched != nil {
		if now, err := b.group(g.Name); err == nil {
			b.virtualSwitched(now)
		}
	}
	return nil
}

// DeleteGroup deletes a group; its offsets go with it when cleanOffsets is set. CodeGroupNotFound.
func (b *Broker) DeleteGroup(ctx context.Context, name string, cleanOffsets bool) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	return b.change(ctx, groupKey(name), "delete group "+name, func() ([]record.Record, error) {
		g, err := b.group(name)
		if err != nil {
			return nil, err
		}
		return []record.Record{b.catalog.DeleteGroup(g, cleanOffsets)}, nil
	})
}
