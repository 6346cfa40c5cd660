package broker

import (
	"math"
	"sync"

	"github.com/cairnmq/cairn/kvindex"
)

// leases say who chooses messages for a group in a queue. Only one may at a time, since two that choose from the same cursor
// choose the same messages and the fold refuses one of them. A busy queue is skipped, not waited for.
//
// The choice itself takes microseconds, its record some milliseconds until it is applied. Meanwhile the next one need not
// wait: it chooses from where the last proposed record will leave the cursor. The log keeps the order of proposals, so the
// fold finds the cursor there, unless something else moved it in between; then it refuses the record, and whoever proposed it
// looks again.
//
// What is expired has a lease of its own, as queue −1, that is held until the record is applied.
//
// An entry exists while somebody chooses or a record is under way.
type leases struct {
	shards [leaseShards]leaseShard
}

// leaseShards must be a power of two.
const leaseShards = 64

type leaseShard struct {
	sync.Mutex
	held map[place]*lease
}

type lease struct {
	choosing bool
	wanted   bool  // somebody found it busy and may be waiting
	pending  int   // records under way
	next     int64 // where the last of them leaves the cursor; unknown once one of them went wrong
}

const (
	unknown int64 = -1
	// everything is the queue −1 of what is expired.
	everything int32 = -1
)

func newLeases() *leases {
	l := &leases{}
	for i := range l.shards {
		l.shards[i].held = map[place]*lease{}
	}
	return l
}

func (l *leases) shard(at place) *leaseShard {
	return &l.shards[(at.topic*31+at.group*7+kvindex.ID(uint32(at.queue)))%leaseShards]
}

// acquire makes the caller the one who chooses. next is where it has to begin, or unknown: where the cursor stands. end is the
// queue's end: when everything before it is taken already there is nothing to choose and nobody to wait for.
func (l *leases) acquire(at place, end int64) (next int64, mine bool) {
	s := l.shard(at)
	s.Lock()
	defer s.Unlock()
	e := s.held[at]
	switch {
	case e == nil:
		s.held[at] = &lease{choosing: true, next: unknown}
		return unknown, true
	case e.pending > 0 && e.next >= end:
		return 0, false
	case e.choosing || e.pending > 0 && e.next == unknown:
		e.wanted = true
		return 0, false
	}
	e.choosing = true
	return e.next, true
}

// proposing tells, before it is proposed, that a record which moves the cursor to next will be under way. The choice goes on
// until chosen, so that the records come into the log in the order of the choices.
func (l *leases) proposing(at place, next int64) {
	s := l.shard(at)
	s.Lock()
	defer s.Unlock()
	e := s.held[at]
	e.pending++
	if e.next != unknown || e.pending == 1 {
		e.next = next
	} // else this choice began before another record went wrong
}

// chosen ends the choice, whether something is under way now or not.
func (l *leases) chosen(at place) (wanted bool) {
	s := l.shard(at)
	s.Lock()
	defer s.Unlock()
	e := s.held[at]
	e.choosing = false
	return s.leaveLocked(at, e)
}

// applied tells that a record is no longer under way, which may be before its chosen; ok is false when it is not certain that
// it moved the cursor.
func (l *leases) applied(at place, ok bool) (wanted bool) {
	s := l.shard(at)
	s.Lock()
	defer s.Unlock()
	e := s.held[at]
	e.pending--
	if !ok {
		e.next = unknown // what was chosen from there may be refused as well
	}
	return s.leaveLocked(at, e)
}

// leaveLocked says whether somebody wants what is free now, and forgets that.
func (s *leaseShard) leaveLocked(at place, e *lease) (wanted bool) {
	if e.pending == 0 {
		e.next = unknown
		if !e.choosing {
			delete(s.held, at)
		}
	}
	if e.choosing || e.pending > 0 && e.next == unknown {
		return false
	}
	wanted, e.wanted = e.wanted, false
	return wanted
}

// noEnd is the end of what has none.
const noEnd = math.MaxInt64

// len is the number of entries.
func (l *leases) len() (n int) {
	for i := range l.shards {
		s := &l.shards[i]
		s.Lock()
		n += len(s.held)
		s.Unlock()
	}
	return n
}
