package broker


import "time"

// due is the one loop that owns the clock: it calls functions at their time, in due order, from one goroutine, so they must
// not block.
type due struct{}

// at arranges that f is called at t, or as soon after as possible; cancel forgets it (false: it has run or is running).
func (d *due) at(t time.Time, f func()) (cancel func() bool) { panic("unbuilt") }
