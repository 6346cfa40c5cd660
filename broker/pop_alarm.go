package broker

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/cairnmq/cairn/pop"
)

// alarms wake the groups that wait for a topic when one of their checkpoints becomes visible again. A group has at most one
// alarm, which is not later than the earliest checkpoint:
//
//   - Who is about to wait arms it by looking up the earliest checkpoint that was not visible at its last look, unless that was
//     done for the alarm that there is. What was visible then and was not taken is none of the alarm's business: whoever holds
//     it up wakes the next one.
//   - Who has made or moved a checkpoint notes its time when somebody waits or there is an alarm. The rows are visible by
//     then, and a waiter is in the table before it looks them up, so one of the two sees the other.
//   - When it goes off it is gone, and wakes one waiter. That one looks, wakes the next one when there is more, and arms anew.
//
// Nobody cancels an alarm because the checkpoint is gone, or because nobody waits any more: it goes off, and one waiter at
// most looks in vain. So there are not more alarms than groups with something in flight.
type alarms struct {
	due     *due
	waiters *waiters
	n       atomic.Int64 // alarms that there are, or more
	mu      struct {
		sync.Mutex
		armed map[groupOfTopic]*alarm
	}
}

type alarm struct {
	at     int64 // ms
	looked bool  // the earliest checkpoint was looked up, so that this is not later
	cancel func() bool
}

func newAlarms(d *due, ws *waiters) *alarms {
	a := &alarms{due: d, waiters: ws}
	a.mu.armed = map[groupOfTopic]*alarm{}
	return a
}

// arm sees to it that the group has an alarm when it has a checkpoint that was not visible at the time of the last look (ms). A
// look-up that fails leaves it without: the group's waits end at their time.
func (a *alarms) arm(s *pop.State, key groupOfTopic, looked int64) {
	a.mu.Lock()
	old := a.mu.armed[key]
	armed := old != nil && old.looked
	a.mu.Unlock()
	if armed {
		return
	}
	if at, ok, err := s.NextVisible(key.group, key.topic, looked); err == nil && ok {
		a.set(key, at, true)
	}
}

// note makes the alarm go off at that time (ms) at the latest, when somebody waits or there is one. It does not block.
func (a *alarms) note(key groupOfTopic, at int64) {
	anyone, _ := a.waiters.waiting(key.group, key.topic)
	if anyone || a.n.Load() > 0 && a.has(key) {
		a.set(key, at, false)
	}
}

func (a *alarms) has(key groupOfTopic) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.armed[key] != nil
}

func (a *alarms) set(key groupOfTopic, at int64, looked bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if old := a.mu.armed[key]; old != nil {
		looked = looked || old.looked
		if old.at <= at {
			old.looked = looked
			return
		}
		old.cancel() // should it be going off right now, one waiter looks in vain
	} else {
		a.n.Add(1)
	}
	armed := &alarm{at: at, looked: looked}
	a.mu.armed[key] = armed
	armed.cancel = a.due.at(time.UnixMilli(at), func() { a.off(key, armed) })
}

// off is called by the due loop.
func (a *alarms) off(key groupOfTopic, which *alarm) {
	a.mu.Lock()
	if a.mu.armed[key] == which {
		delete(a.mu.armed, key)
		a.n.Add(-1)
	}
	a.mu.Unlock()
	a.waiters.ready(key.group, key.topic, 1)
}
