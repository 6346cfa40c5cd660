package broker

// GroupCounters are exact: ready = not yet handed out plus expired, in flight = invisible now. Ready counts messages that the
// group's filter will pass over, until it does, and those that wait behind others of their message group.
type GroupCounters struct{ Ready, InFlight int64 }

// GroupCounters counts for a group on all readable queues of a topic; what is expired is walked through. CodeGroupNotFound,
// CodeTopicNotFound.
func (b *Broker) GroupCounters(group, topic string) (GroupCounters, error) {
	if err := b.gate.enter(); err != nil {
		return GroupCounters{}, err
	}
	defer b.gate.leave()
	g, t, err := b.groupAndTopic(group, topic)
	if err != nil {
		return GroupCounters{}, err
	}
	doing := "count messages of " + group
	var c GroupCounters
	for q := range t.ReadQueues {
		s, err := b.pop.stand(place{g.ID, t.ID, q})
		if err != nil {
			return GroupCounters{}, verbError(err, doing)
		}
		c.Ready += max(s.high-max(s.next, s.low), 0)
	}
	counters, err := b.store.Pop.Counters(g.ID, t.ID)
	inFlight := counters.InFlight
	c.Ready += counters.Parked
	if err != nil || inFlight == 0 {
		return c, verbError(err, doing)
	}
	expired, err := b.store.Pop.CountExpired(g.ID, t.ID, b.clock.Now().UnixMilli())
	if err != nil {
		return GroupCounters{}, verbError(err, doing)
	}
	// The two were not read at the same moment.
	expired = min(expired, inFlight)
	c.Ready += expired
	c.InFlight = inFlight - expired
	return c, nil
}
