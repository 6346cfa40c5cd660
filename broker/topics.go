package broker

import (
	"context"
	"errors"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
)

const (
	// templateTopic is the topic by whose name clients ask for topics to be made on demand.
	templateTopic = "TBW102"
	// maxQueues bounds the read and write queues of a topic.
	maxQueues = 65_536

	permReadWrite = catalog.PermRead | catalog.PermWrite
	replySuffix   = "_REPLY_TOPIC"
	// benchmarkTopic is what the reference's load clients use. There it is the system's own and has 1024 queues; here it may be
	// put with any number and deleted (until the next start), unlike the system's other topics.
	benchmarkTopic = "BenchmarkTest"
)

// standingTopics are there from the first start, because clients and tools expect them: the template of topics made on
// demand, the topics by which tools find a cluster or a broker, the ones for replies to requests, traces and benchmarks, the one
// that the monitor of mqadmin listens to, and those by which tools look at what waits (see WaitingQueues); these stay empty.
func (b *Broker) standingTopics() []catalog.Topic {
	o := &b.opts
	topics := []catalog.Topic{
		newTopic(o.ClusterName, 16, permReadWrite|catalog.PermInherit),
		newTopic(o.BrokerName, 1, permReadWrite|catalog.PermInherit),
		newTopic(o.ClusterName+replySuffix, 1, permReadWrite),
		newTopic("SELF_TEST_TOPIC", 1, permReadWrite),
		newTopic("OFFSET_MOVED_EVENT", 1, permReadWrite),
		newTopic("RMQ_SYS_TRACE_TOPIC", 1, permReadWrite),
		newTopic(benchmarkTopic, 16, permReadWrite),
		newTopic(scheduleTopic, scheduleQueues, permReadWrite),
		newTopic(halfTopic, 1, permReadWrite),
		newTopic(parkedTopic, 1, permReadWrite),
	}
	if o.AutoCreateTopics {
		topics = append(topics, newTopic(templateTopic, o.DefaultQueues, permReadWrite|catalog.PermInherit))
	}
	return topics
}

func newTopic(name string, queues, perm int32) catalog.Topic {
	return catalog.Topic{Name: name, ReadQueues: queues, WriteQueues: queues, Perm: perm, TopicFilterType: "SINGLE_TAG"}
}

// groupTopic is a retry or dead-letter topic.
func (b *Broker) groupTopic(name string, queues int32) catalog.Topic {
	return newTopic(name, max(queues, 1), permReadWrite)
}

// makeStandingTopics adds those that are missing, in one append.
func (b *Broker) makeStandingTopics(ctx context.Context) error {
	var missing []record.Record
	for _, t := range b.standingTopics() {
		_, err := b.catalog.Topic(t.Name)
		switch {
		case errors.Is(err, catalog.ErrTopicNotFound):
			missing = append(missing, b.catalog.PutTopic(t))
		case err != nil:
			return verbError(err, "look up topic "+t.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	_, err := b.append(ctx, "make the standing topics", missing...)
	return err
}

// isSystemTopic is catalog.IsSystemTopic with the topics that have this cluster's or this broker's name.
func (b *Broker) isSystemTopic(name string) bool {
	o := &b.opts
	return catalog.IsSystemTopic(name) || name == o.ClusterName || name == o.BrokerName || name == o.ClusterName+replySuffix
}

// Topic answers a topic's configuration, which is shared and must not be changed. CodeTopicNotFound.
func (b *Broker) Topic(name string) (*catalog.Topic, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	return b.topic(name)
}

// topic is Topic for those who are inside already.
func (b *Broker) topic(name string) (*catalog.Topic, error) {
	t, err := b.catalog.Topic(name)
	if err != nil {
		return nil, topicError(err, name)
	}
	return t, nil
}

// topicError keeps the message short for the refusal that clients see most.
func topicError(err error, name string) error {
	if errors.Is(err, catalog.ErrTopicNotFound) {
		return &Error{Code: CodeTopicNotFound, Message: "topic " + name + " does not exist", Err: err}
	}
	return verbError(err, "look up topic "+name)
}

// EnsureTopic answers the topic, and makes it with so many queues (0: the default) when it is not there and topics may be
// made on demand. CodeTopicNotFound when they may not, CodeTopicIllegal for a bad name.
func (b *Broker) EnsureTopic(ctx context.Context, name string, queues int32) (*catalog.Topic, error) {
	if err := b.gate.enter(); err != nil {
		return nil, err
	}
	defer b.gate.leave()
	t, err := b.topic(name)
	if CodeOf(err) != CodeTopicNotFound || !b.opts.AutoCreateTopics {
		return t, err
	}
	if err := checkTopicName(name); err != nil {
		return nil, err
	}
	if queues <= 0 {
		queues = b.opts.DefaultQueues
	}
	type made struct {
		t   *catalog.Topic
		err error
	}
	over := make(chan made, 1)
	b.ensureTopic(newTopic(name, min(queues, maxQueues), permReadWrite), 0, func(t *catalog.Topic, err error) {
		over <- made{t, err}
	})
	select {
	case m := <-over:
		return m.t, m.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func checkTopicName(name string) error {
	if err := catalog.ValidateTopicName(name); err != nil {
		return &Error{Code: CodeTopicIllegal, Message: err.Error(), Err: err}
	}
	return nil
}

// PutTopic creates a topic or replaces its configuration. attributes is `+k=v,-k`; what it does not name stays as it is,
// "" keeps all (t.Attributes, t.ID and t.Created are ignored). CodeTopicIllegal for bad names and the system's topics,
// CodeParameter for the rest.
func (b *Broker) PutTopic(ctx context.Context, t catalog.Topic, attributes string) (err error) {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	began := b.clock.Now()
	defer func() { b.creates.topic(b.isSystemTopic(t.Name), b.clock.Now().Sub(began), err) }()
	if err := b.checkTopic(&t); err != nil {
		return err
	}
	doing := "put topic " + t.Name
	return b.change(ctx, topicKey(t.Name), doing, func() ([]record.Record, error) {
		old, err := b.catalog.Topic(t.Name)
		t.Attributes = nil
		switch {
		case err == nil:
			t.Attributes = old.Attributes
		case !errors.Is(err, catalog.ErrTopicNotFound):
			return nil, err
		}
		if t.Attributes, err = catalog.ApplyAttributes(t.Attributes, attributes, old == nil); err != nil {
			return nil, err
		}
		return []record.Record{b.catalog.PutTopic(t)}, nil
	})
}

func (b *Broker) checkTopic(t *catalog.Topic) error {
	if err := checkTopicName(t.Name); err != nil {
		return err
	}
	if t.TopicFilterType == "" {
		t.TopicFilterType = "SINGLE_TAG"
	}
	switch {
	case b.isSystemTopic(t.Name) && t.Name != benchmarkTopic:
		return refuse(CodeTopicIllegal, "topic %s is the system's own", t.Name)
	case t.ReadQueues < 1 || t.ReadQueues > maxQueues || t.WriteQueues < 1 || t.WriteQueues > maxQueues:
		return refuse(CodeParameter, "topic %s: %d read and %d write queues are not within 1 to %d", t.Name, t.ReadQueues,
			t.WriteQueues, maxQueues)
	case t.Perm < 0 || t.Perm > permReadWrite|catalog.PermInherit:
		return refuse(CodeParameter, "topic %s: permission %d is not within 0 to 7", t.Name, t.Perm)
	case t.TopicFilterType != "SINGLE_TAG" && t.TopicFilterType != "MULTI_TAG":
		return refuse(CodeParameter, "topic %s: unknown filter type %q", t.Name, t.TopicFilterType)
	}
	return nil
}

// DeleteTopic deletes a topic with its queues and the groups' places in them. CodeTopicNotFound, CodeTopicIllegal.
func (b *Broker) DeleteTopic(ctx context.Context, name string) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	if b.isSystemTopic(name) && name != benchmarkTopic {
		return refuse(CodeTopicIllegal, "topic %s is the system's own", name)
	}
	doing := "delete topic " + name
	var t *catalog.Topic
	err := b.change(ctx, topicKey(name), doing, func() (_ []record.Record, err error) {
		if t, err = b.topic(name); err != nil {
			return nil, err
		}
		rec, err := b.catalog.DeleteTopic(t)
		return []record.Record{rec}, err
	})
	if err != nil {
		return err
	}
	// Groups that came to the topic between the listing and the deletion left rows behind: once more for them.
	rec, err := b.catalog.DeleteTopic(t)
	if err != nil {
		return verbError(err, doing)
	}
	_, err = b.append(ctx, doing, rec)
	return err
}

// PutKV sets a key of the name server's configuration.
func (b *Broker) PutKV(ctx context.Context, namespace, key, value string) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	if namespace == "" || key == "" {
		return refuse(CodeParameter, "put configuration: namespace or key is empty")
	}
	_, err := b.append(ctx, "put configuration "+namespace+"/"+key, b.catalog.PutKV(namespace, key, value))
	return err
}

// DeleteKV removes a key of the name server's configuration; that it was not there is no error.
func (b *Broker) DeleteKV(ctx context.Context, namespace, key string) error {
	if err := b.gate.enter(); err != nil {
		return err
	}
	defer b.gate.leave()
	_, err := b.append(ctx, "delete configuration "+namespace+"/"+key, b.catalog.DeleteKV(namespace, key))
	return err
}

// OnTopicsChanged registers f, called (not blocking) after topics or groups changed; for registering at name servers.
func (b *Broker) OnTopicsChanged(f func()) {
	b.listeners.Lock()
	defer b.listeners.Unlock()
	b.listeners.f = append(b.listeners.f, f)
}

func (b *Broker) topicsChanged() {
	b.listeners.Lock()
	f := b.listeners.f
	b.listeners.Unlock()
	for _, f := range f {
		f()
	}
}
