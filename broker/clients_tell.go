package broker

import "time"

// A consumer that is told of a change in its group asks who is in it and balances anew. When a thousand consumers start, telling all
// of each one would be half a million notices, each answered with a list of up to a thousand: so a group with many members has quiet
// times, at whose end those that are there are told once of all that changed meanwhile.
const (
	// manyMembers is from how many members on a group has quiet times; smaller ones are told of each change at once.
	manyMembers = 32
	// quietPerMember is how long a group is quiet after a round, for each that was told: at most a thousand notices a second.
	quietPerMember = time.Millisecond
)

// tell tells members of a group, now or at the end of its quiet time, that others came, went or subscribe to something else.
func (c *Clients) tell(group string, members []*Client) {
	if len(members) == 0 || !c.notifies(group) || len(members) >= manyMembers && c.quiet(group, len(members)) {
		return
	}
	for _, cl := range members {
		cl.Notify(group)
	}
}

// quiet is true while a group is not to be told, and sees to it that it is told then. Otherwise the next quiet time begins.
func (c *Clients) quiet(group string, members int) bool {
	now := c.clock.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	g := c.mu.consumers[group]
	if g == nil || c.later == nil {
		return false
	}
	if !now.Before(g.quiet) {
		g.quiet = now.Add(time.Duration(members) * quietPerMember)
		return false
	}
	if !g.untold {
		g.untold = true
		c.later(g.quiet, func() { c.tellAll(group) })
	}
	return true
}

// tellAll tells everybody in a group at the end of its quiet time.
func (c *Clients) tellAll(group string) {
	c.mu.Lock()
	var members []*Client
	if g := c.mu.consumers[group]; g != nil {
		members = g.others("")
		g.untold, g.quiet = false, c.clock.Now().Add(time.Duration(len(members))*quietPerMember)
	}
	c.mu.Unlock()
	if !c.notifies(group) {
		return
	}
	for _, cl := range members {
		cl.Notify(group)
	}
}
