package broker


import (
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/store"
)

// waiter is a long poll that found nothing. The rule against lost wake-ups: add it, look once more, then wait.
type waiter struct {
	topic, group kvindex.ID
	queue        int32 // −1: any queue of the topic (pop)
	pull         bool  // a pull waits at its own offset, so every arrival in its queue wakes it; of pops, as many as there are messages
	filter       *filter.Expr
	wake         func() // called at most once, without locks held; must not block
}

// waiters is indexed by topic and group, so that an arrival costs what it wakes and idle waiters cost memory only.
type waiters struct{}

func newWaiters(max int) *waiters { panic("unbuilt") }

func (ws *waiters) add(w *waiter) error             { panic("unbuilt") } // CodeBusy over the bound
func (ws *waiters) remove(w *waiter) (waiting bool) { panic("unbuilt") } // false: it has been woken
func (ws *waiters) arrived(a []store.Arrival)       { panic("unbuilt") }

// ready wakes up to n pop waiters of a group (expired or released messages).
func (ws *waiters) ready(group, topic kvindex.ID, n int) { panic("unbuilt") }
