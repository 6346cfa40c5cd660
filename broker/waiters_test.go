package broker

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// waitRig is a table of waiters and the names of those that were woken, in that order.
type waitRig struct {
	*waiters
	all   map[string]*waiter
	woken []string
}

func newWaitRig(max int) *waitRig {
	return &waitRig{waiters: newWaiters(max), all: map[string]*waiter{}}
}

func (r *waitRig) add(t testing.TB, name string, w waiter) {
	t.Helper()
	w.wake = func() { r.woken = append(r.woken, name) }
	r.all[name] = &w
	if err := r.waiters.add(&w); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func (r *waitRig) wantWoken(t testing.TB, after string, want ...string) {
	t.Helper()
	if !slices.Equal(r.woken, want) {
		t.Errorf("after %s %v were woken, want %v", after, r.woken, want)
	}
	for _, name := range r.woken {
		if r.remove(r.all[name]) {
			t.Errorf("%s was woken and still waits", name)
		}
	}
	r.woken = nil
}

// wantEmpty looks whether anything is left in memory.
func (r *waitRig) wantEmpty(t testing.TB) {
	t.Helper()
	for i := range r.shards {
		if n := len(r.shards[i].topics); n > 0 {
			t.Errorf("%d topics are left in shard %d", n, i)
		}
	}
	if n := r.len(); n != 0 {
		t.Errorf("%d waiters are counted", n)
	}
}

func tags(t testing.TB, text string) *filter.Expr {
	t.Helper()
	f, err := filter.ParseTags(text)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func arrival(topic kvindex.ID, queue int32, tags ...string) []store.Arrival {
	a := store.Arrival{Topic: topic, Queue: queue, Count: len(tags)}
	for _, tag := range tags {
		a.TagHashes = append(a.TagHashes, message.TagHash(tag))
	}
	return []store.Arrival{a}
}

func TestArrivalsWakeAsManyAsThereAreMessages(t *testing.T) {
	r := newWaitRig(100)
	for i := range 5 {
		r.add(t, fmt.Sprint("a", i), waiter{topic: 1, group: 1, queue: -1})
		r.add(t, fmt.Sprint("b", i), waiter{topic: 1, group: 2, queue: -1})
		r.add(t, fmt.Sprint("other", i), waiter{topic: 1 + waiterShards, group: 1, queue: -1})
	}
	r.arrived(arrival(1, 0, "", "", ""))
	slices.Sort(r.woken)
	r.wantWoken(t, "three messages", "a0", "a1", "a2", "b0", "b1", "b2")
	if !r.remove(r.all["a3"]) || r.remove(r.all["a3"]) {
		t.Error("a3 waited, and then no more")
	}
	r.arrived(arrival(1, 7, "", "", ""))
	slices.Sort(r.woken)
	r.wantWoken(t, "three more", "a4", "b3", "b4")
	r.arrived(arrival(1, 7, ""))
	r.wantWoken(t, "one more")
	if r.anyone(1, 1) || !r.anyone(1, 1+waiterShards) || r.anyone(2, 1+waiterShards) {
		t.Error("who waits")
	}
	r.ready(2, 1+waiterShards, 9)
	r.ready(1, 1+waiterShards, 2)
	r.wantWoken(t, "two are ready", "other0", "other1")
	r.ready(1, 1+waiterShards, 100)
	r.wantWoken(t, "all are ready", "other2", "other3", "other4")
	r.wantEmpty(t)
}

func TestArrivalsWakeWhoWantsThem(t *testing.T) {
	r := newWaitRig(100)
	r.add(t, "red", waiter{topic: 1, group: 1, queue: -1, filter: tags(t, "red")})
	r.add(t, "red or blue", waiter{topic: 1, group: 1, queue: -1, filter: tags(t, "red||blue")})
	r.add(t, "red too", waiter{topic: 1, group: 1, queue: -1, filter: tags(t, "red")})
	r.add(t, "queue 3", waiter{topic: 1, group: 1, queue: 3})
	r.add(t, "pull 3", waiter{topic: 1, group: 9, queue: 3, pull: true, filter: tags(t, "blue")})
	r.add(t, "pull 3 too", waiter{topic: 1, group: 8, queue: 3, pull: true})
	r.add(t, "pull 4", waiter{topic: 1, group: 9, queue: 4, pull: true})
	r.arrived(arrival(1, 2, "green", "green"))
	r.wantWoken(t, "what nobody wants")
	r.arrived(arrival(1, 2, "green", "red"))
	if len(r.woken) != 2 {
		t.Errorf("two messages, one of them wanted by two kinds: %v", r.woken)
	}
	for _, name := range []string{"red", "red or blue", "red too"} {
		r.remove(r.all[name])
	}
	r.woken = nil
	r.arrived(arrival(1, 3, "red"))
	slices.Sort(r.woken)
	r.wantWoken(t, "one in queue 3", "pull 3 too", "queue 3")
	r.arrived(arrival(1, 3, "blue", "blue"))
	r.wantWoken(t, "two in queue 3", "pull 3")
	r.ready(9, 1, 5)
	r.wantWoken(t, "pulls wait for arrivals only")
	if !r.remove(r.all["pull 4"]) {
		t.Error("pull 4 does not wait")
	}
	r.wantEmpty(t)
}

// Whichever kinds wait in a group, one message wakes one of them, and leftovers wake one of each kind.
func TestKindsOfOneGroup(t *testing.T) {
	r := newWaitRig(100)
	for i := range 3 {
		r.add(t, fmt.Sprint("any", i), waiter{topic: 1, group: 1, queue: -1})
		r.add(t, fmt.Sprint("tag", i), waiter{topic: 1, group: 1, queue: -1, filter: tags(t, "x")})
		r.add(t, fmt.Sprint("queue", i), waiter{topic: 1, group: 1, queue: 5})
	}
	r.arrived(arrival(1, 5, "x"))
	if len(r.woken) != 1 {
		t.Errorf("one message woke %v", r.woken)
	}
	r.woken = nil
	r.ready(1, 1, 1)
	if len(r.woken) != 3 {
		t.Errorf("a leftover woke %v", r.woken)
	}
	r.arrived(arrival(1, 5, "x", "x", "x", "x", "x", "x", "x", "x", "x"))
	r.wantEmpty(t)
}

func TestWaitersAreBounded(t *testing.T) {
	r := newWaitRig(2)
	r.add(t, "a", waiter{topic: 1, group: 1, queue: -1})
	r.add(t, "b", waiter{topic: 2, group: 1, queue: 0, pull: true})
	wantCode(t, "a third", r.waiters.add(&waiter{topic: 3}), CodeBusy)
	r.remove(r.all["a"])
	r.add(t, "c", waiter{topic: 3, group: 1, queue: -1})
	r.arrived(append(arrival(2, 0, ""), arrival(3, 0, "")...))
	r.wantWoken(t, "both", "b", "c")
	r.wantEmpty(t)
}

// Against a plain list: who is woken, in which order within a kind, and who still waits.
func TestWaitersAgreeWithAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type entry struct {
			waiter
			tag string // "" for all
		}
		ws := newWaiters(1000)
		var list []*entry // those that wait, in order of arrival
		woken := map[*entry]bool{}
		take := func(e *entry) {
			if !woken[e] {
				t.Fatalf("%+v was not woken", e)
			}
			delete(woken, e)
			list = slices.DeleteFunc(list, func(o *entry) bool { return o == e })
		}
		// kinds lists the waiters of each kind that f picks, in order.
		kinds := func(f func(*entry) bool) map[string][]*entry {
			out := map[string][]*entry{}
			for _, e := range list {
				if f(e) {
					k := fmt.Sprint(e.group, e.queue, e.pull, e.tag)
					out[k] = append(out[k], e)
				}
			}
			return out
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": func(t *rapid.T) {
				e := &entry{tag: rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "tag")}
				e.topic, e.group = kvindex.ID(rapid.IntRange(1, 2).Draw(t, "topic")), kvindex.ID(rapid.IntRange(1, 2).Draw(t, "group"))
				e.queue = rapid.Int32Range(-1, 1).Draw(t, "queue")
				e.pull = e.queue >= 0 && rapid.Bool().Draw(t, "pull")
				if e.tag != "" {
					e.filter, _ = filter.ParseTags(e.tag)
				}
				e.wake = func() { woken[e] = true }
				if err := ws.add(&e.waiter); err != nil {
					t.Fatal(err)
				}
				list = append(list, e)
			},
			"remove": func(t *rapid.T) {
				if len(list) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(list)-1).Draw(t, "which")
				if !ws.remove(&list[i].waiter) {
					t.Fatal("it waits")
				}
				list = slices.Delete(list, i, i+1)
			},
			"ready": func(t *rapid.T) {
				topic, group, n := kvindex.ID(rapid.IntRange(1, 2).Draw(t, "topic")), kvindex.ID(rapid.IntRange(1, 2).Draw(t, "group")),
					rapid.IntRange(0, 3).Draw(t, "n")
				ws.ready(group, topic, n)
				for _, k := range kinds(func(e *entry) bool { return e.topic == topic && e.group == group && !e.pull }) {
					for _, e := range k[:min(n, len(k))] {
						take(e)
					}
				}
			},
			"arrive": func(t *rapid.T) {
				topic, queue := kvindex.ID(rapid.IntRange(1, 2).Draw(t, "topic")), rapid.Int32Range(0, 1).Draw(t, "queue")
				count := map[string]int{}
				var sent []string
				for range rapid.IntRange(1, 4).Draw(t, "n") {
					tag := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(t, "tag")
					sent = append(sent, tag)
					count[tag]++
				}
				count[""] = len(sent)
				ws.arrived(arrival(topic, queue, sent...))
				for _, k := range kinds(func(e *entry) bool { return e.topic == topic && e.pull && e.queue == queue && count[e.tag] > 0 }) {
					for _, e := range k {
						take(e)
					}
				}
				for group := kvindex.ID(1); group <= 2; group++ {
					total := 0
					of := kinds(func(e *entry) bool {
						return e.topic == topic && e.group == group && !e.pull && (e.queue < 0 || e.queue == queue)
					})
					for _, k := range of {
						n := 0
						for n < len(k) && woken[k[n]] {
							take(k[n]) // the ones in front
							n++
						}
						if total += n; n > count[k[0].tag] {
							t.Fatalf("%d were woken for %d messages that they want", n, count[k[0].tag])
						}
					}
					// Nobody is left waiting for a message that nobody was woken for.
					for _, k := range of {
						if still := slices.ContainsFunc(k, func(e *entry) bool { return slices.Contains(list, e) }); still && total < count[k[0].tag] {
							t.Fatalf("%d of the group were woken for %v, and one that wants %q waits", total, sent, k[0].tag)
						}
					}
					if total > len(sent) {
						t.Fatalf("%d were woken for %d messages", total, len(sent))
					}
				}
			},
			"": func(t *rapid.T) {
				if len(woken) > 0 {
					t.Fatalf("%d were woken for nothing", len(woken))
				}
				if ws.len() != len(list) {
					t.Fatalf("%d wait, want %d", ws.len(), len(list))
				}
			},
		})
	})
}

// Producers add to a counter and say so; consumers add themselves, look once more, and wait. If a wake-up could be lost, some
// consumer would wait for ever although there is something.
func TestNoWakeUpIsLost(t *testing.T) {
	const producers, consumers, each = 3, 8, 2000
	ws := newWaiters(100)
	var there atomic.Int64
	var left atomic.Int64
	left.Store(producers * each)
	take := func() bool {
		for {
			n := there.Load()
			if n == 0 {
				return false
			}
			if there.CompareAndSwap(n, n-1) {
				return true
			}
		}
	}
	over := make(chan struct{})
	var wg sync.WaitGroup
	for range producers {
		wg.Go(func() {
			for range each {
				there.Add(1)
				ws.arrived(arrival(1, 0, ""))
			}
		})
	}
	for range consumers {
		wg.Go(func() {
			signal := make(chan struct{}, 1)
			w := waiter{topic: 1, group: 1, queue: -1, wake: func() {
				select {
				case signal <- struct{}{}:
				default:
				}
			}}
			for {
				if err := ws.add(&w); err != nil {
					t.Error(err)
					return
				}
				got := take()
				if !got {
					select {
					case <-signal:
					case <-over:
						ws.remove(&w)
						return
					}
				}
				woken := !ws.remove(&w)
				if got {
					if woken {
						ws.ready(1, 1, 1)
					}
					if left.Add(-1) == 0 {
						close(over)
					}
				}
			}
		})
	}
	wg.Wait()
	if there.Load() != 0 || ws.len() != 0 {
		t.Errorf("%d are left, %d wait", there.Load(), ws.len())
	}
}

func BenchmarkArrivalsAmongIdleWaiters(b *testing.B) {
	for _, n := range []int{0, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			ws := newWaiters(1 << 20)
			all := make([]waiter, n)
			for i := range all {
				all[i] = waiter{topic: kvindex.ID(2 + i%1000), group: kvindex.ID(i), queue: -1, wake: func() {}}
				if err := ws.add(&all[i]); err != nil {
					b.Fatal(err)
				}
			}
			w := waiter{topic: 1, group: 1, queue: -1, wake: func() {}}
			a := arrival(1, 0, "")
			b.ReportAllocs()
			for b.Loop() {
				if err := ws.add(&w); err != nil {
					b.Fatal(err)
				}
				ws.arrived(a)
			}
		})
	}
}

func (r *waitRig) anyone(group, topic kvindex.ID) bool {
	anyone, _ := r.waiting(group, topic)
	return anyone
}
