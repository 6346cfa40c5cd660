package broker

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/store"
)

// waiter is a long poll that found nothing. The rule against lost wake-ups: add it, look once more, then wait. Whoever is
// woken and takes nothing, or not all, because it ended meanwhile or wants no more, must wake the next one with ready.
type waiter struct {
	topic, group kvindex.ID
	queue        int32 // −1: any queue of the topic (pop)
	byQueue      bool  // of pops: asks for the order of queues
	pull         bool  // a pull waits at its own offset, so every arrival in its queue wakes it; of pops, as many as there are messages
	filter       *filter.Expr
	wake         func() // called at most once for each add, without locks held; must not block

	// In the table.
	in         *line
	next, prev *waiter
}

// line is the waiters that anything which wakes one of them may wake as well: those that want the same of the same queue.
// The one that waits longest is in front.
type line struct {
	lineKey
	first, last *waiter
	n           int
}

type lineKey struct {
	group   kvindex.ID
	queue   int32
	byQueue bool
	pull    bool
	kind    string // of the filter
	filter  string
}

// waiters is indexed by topic and group, so that an arrival costs what it wakes and idle waiters cost memory only.
//
//	topic ─┬─ queue of pulls ─ waiter ─ waiter …
//	       └─ group ─┬─ line of pops ─ waiter ─ waiter …
//	                 └─ line of pops …
type waiters struct {
	max    int64
	n      atomic.Int64
	shards [waiterShards]waiterShard
}

// waiterShards must be a power of two.
const waiterShards = 64

type waiterShard struct {
	sync.Mutex
	topics map[kvindex.ID]*topicWaiters
}

// topicWaiters is there while somebody waits for something of the topic; so is each line.
type topicWaiters struct {
	pulls  map[int32]*line        // by queue
	groups map[kvindex.ID][]*line // pops, by group; a group has few kinds of waiters
}

func newWaiters(max int) *waiters {
	ws := &waiters{max: int64(max)}
	for i := range ws.shards {
		ws.shards[i].topics = map[kvindex.ID]*topicWaiters{}
	}
	return ws
}

func (ws *waiters) shard(topic kvindex.ID) *waiterShard { return &ws.shards[topic%waiterShards] }

// want fills in what a pop waits for.
func (w *waiter) want(r *popping) {
	w.topic, w.group, w.queue, w.byQueue, w.filter = r.t.ID, r.g.ID, r.req.Queue, r.req.QueueOrder, r.req.Filter
}

// len is how many wait.
func (ws *waiters) len() int { return int(ws.n.Load()) }

// add puts w at the end of its line; CodeBusy over the bound. w is not to be changed until it is woken or removed.
func (ws *waiters) add(w *waiter) error {
	if ws.n.Add(1) > ws.max {
		ws.n.Add(-1)
		return refuse(CodeBusy, "%d requests wait for messages already", ws.max)
	}
	s := ws.shard(w.topic)
	s.Lock()
	defer s.Unlock()
	t := s.topics[w.topic]
	if t == nil {
		t = &topicWaiters{}
		s.topics[w.topic] = t
	}
	l := t.line(w)
	w.in, w.prev, w.next = l, l.last, nil
	if l.last != nil {
		l.last.next = w
	} else {
		l.first = w
	}
	l.last = w
	l.n++
	return nil
}

// line finds the line of w or makes it.
func (t *topicWaiters) line(w *waiter) *line {
	if w.pull {
		l := t.pulls[w.queue]
		if l == nil {
			if t.pulls == nil {
				t.pulls = map[int32]*line{}
			}
			l = &line{lineKey: lineKey{queue: w.queue, pull: true}}
			t.pulls[w.queue] = l
		}
		return l
	}
	key := lineKey{group: w.group, queue: w.queue, byQueue: w.byQueue, kind: w.filter.Type(), filter: w.filter.String()}
	for _, l := range t.groups[w.group] {
		if l.lineKey == key {
			return l
		}
	}
	if t.groups == nil {
		t.groups = map[kvindex.ID][]*line{}
	}
	l := &line{lineKey: key}
	t.groups[w.group] = append(t.groups[w.group], l)
	return l
}

// remove takes w out; waiting is false when it has been woken, even if wake is still to be called.
func (ws *waiters) remove(w *waiter) (waiting bool) {
	s := ws.shard(w.topic)
	s.Lock()
	defer s.Unlock()
	if w.in == nil {
		return false
	}
	ws.takeLocked(s, w)
	return true
}

// takeLocked takes w out of its line, and the line with what is around it out of the table when it was the last.
func (ws *waiters) takeLocked(s *waiterShard, w *waiter) {
	l := w.in
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.in, w.prev, w.next = nil, nil, nil
	l.n--
	ws.n.Add(-1)
	if l.n > 0 {
		return
	}
	t := s.topics[w.topic]
	t.drop(l)
	if len(t.pulls) == 0 && len(t.groups) == 0 {
		delete(s.topics, w.topic)
	}
}

func (t *topicWaiters) drop(l *line) {
	if l.pull {
		delete(t.pulls, l.queue)
		return
	}
	lines := t.groups[l.group]
	if len(lines) == 1 {
		delete(t.groups, l.group)
		return
	}
	for i := range lines {
		if lines[i] == l {
			lines[i] = lines[len(lines)-1]
			lines[len(lines)-1] = nil
			t.groups[l.group] = lines[:len(lines)-1]
			return
		}
	}
}

// arrived wakes who waits for what arrived: every pull of the queue whose filter may match, and of each group as many pops as
// there are messages that they may want. The folder calls it after the messages became visible.
func (ws *waiters) arrived(arrivals []store.Arrival) {
	// Who is added after this look sees the messages when he looks once more.
	if ws.n.Load() == 0 {
		return
	}
	var room [32]func()
	for i := range arrivals {
		a := &arrivals[i]
		woken := room[:0]
		s := ws.shard(a.Topic)
		s.Lock()
		if t := s.topics[a.Topic]; t != nil {
			woken = ws.arrivedLocked(s, t, a, woken)
		}
		s.Unlock()
		for _, wake := range woken {
			wake()
		}
	}
}

func (ws *waiters) arrivedLocked(s *waiterShard, t *topicWaiters, a *store.Arrival, woken []func()) []func() {
	if l := t.pulls[a.Queue]; l != nil {
		for w := l.first; w != nil; {
			next := w.next
			if matches(w.filter, a, 1) > 0 {
				woken = ws.takeWakeLocked(s, w, woken)
			}
			w = next
		}
	}
	for group := range t.groups {
		// Each message is for one of the group, whichever line it stands in.
		left := a.Count
		t.eachLine(group, func(l *line) {
			if l.queue >= 0 && l.queue != a.Queue {
				return
			}
			n := min(matches(l.first.filter, a, l.n), left)
			left -= n
			woken = ws.wakeFirstLocked(s, l, n, woken)
		})
	}
	return woken
}

// eachLine calls f for the lines of a group; f may take waiters out of the line, and the line with them.
func (t *topicWaiters) eachLine(group kvindex.ID, f func(*line)) {
	// From the end: a line that goes is replaced by the last one, which was visited.
	for i := len(t.groups[group]) - 1; i >= 0; i-- {
		f(t.groups[group][i])
	}
}

// ready wakes up to n pops of a group because messages became visible again, or are left over by who was woken for them. As it
// is not known what these messages are, that many of each line are woken.
func (ws *waiters) ready(group, topic kvindex.ID, n int) {
	if n <= 0 || ws.n.Load() == 0 {
		return
	}
	var room [8]func()
	woken := room[:0]
	s := ws.shard(topic)
	s.Lock()
	if t := s.topics[topic]; t != nil {
		t.eachLine(group, func(l *line) { woken = ws.wakeFirstLocked(s, l, min(n, l.n), woken) })
	}
	s.Unlock()
	for _, wake := range woken {
		wake()
	}
}

// waiting says whether pops of the group wait for the topic, and whether one of them asks for the order of queues.
func (ws *waiters) waiting(group, topic kvindex.ID) (anyone, byQueue bool) {
	if ws.n.Load() == 0 {
		return false, false
	}
	s := ws.shard(topic)
	s.Lock()
	defer s.Unlock()
	t := s.topics[topic]
	if t == nil {
		return false, false
	}
	lines := t.groups[group]
	return len(lines) > 0, slices.ContainsFunc(lines, func(l *line) bool { return l.byQueue })
}

// wakeFirstLocked takes the first n out of a line, to be woken.
func (ws *waiters) wakeFirstLocked(s *waiterShard, l *line, n int, woken []func()) []func() {
	for range n {
		woken = ws.takeWakeLocked(s, l.first, woken)
	}
	return woken
}

func (ws *waiters) takeWakeLocked(s *waiterShard, w *waiter, woken []func()) []func() {
	wake := w.wake // w may be used again as soon as the lock is released
	ws.takeLocked(s, w)
	return append(woken, wake)
}

// matches counts the messages of an arrival that a filter may want, up to most.
func matches(f *filter.Expr, a *store.Arrival, most int) int {
	if f.All() {
		return min(a.Count, most)
	}
	n := 0
	for _, hash := range a.TagHashes {
		if n == most {
			break
		}
		if f.MatchHash(hash) {
			n++
		}
	}
	return n
}
