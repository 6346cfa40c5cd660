package broker

import (
	"context"
	"sync"
	"time"

	"github.com/cairnmq/cairn/catalog"
)

const (
	// redriveEvery is how often the broker looks for dead letters that go back by themselves.
	redriveEvery = 10 * time.Second
	// redrivenAtOnce bounds the dead letters of all groups that it looks at each time: consumers that have failed on them before
	// get them at a pace that they can stand.
	redrivenAtOnce = 1000
)

// redriver brings dead letters back for the groups whose attributes ask for it. One goroutine. A message that dies again comes back
// as often as its group says, and then stays.
type redriver struct {
	b    *Broker
	tick chan struct{}
	mu   struct {
		sync.Mutex
		groups map[string]struct{} // those that ask for it, and some that have not for long
	}
}

func newRedriver(b *Broker) *redriver {
	r := &redriver{b: b, tick: make(chan struct{}, 1)}
	r.mu.groups = map[string]struct{}{}
	return r
}

// nudge lets it look once. It does not block.
func (r *redriver) nudge() {
	select {
	case r.tick <- struct{}{}:
	default: // still at it
	}
}

// note remembers a group that was put.
func (r *redriver) note(g *catalog.Group) {
	if g.AutoRedrive().After > 0 {
		r.mu.Lock()
		r.mu.groups[g.Name] = struct{}{}
		r.mu.Unlock()
	}
}

// run redrives until ctx ends. It reads all groups once.
func (r *redriver) run(ctx context.Context) {
	known := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.tick:
		}
		if !known {
			err := r.learn(ctx)
			if known = err == nil; err != nil {
				r.b.log.Error().Err(err).Msg("cannot read which groups redrive their dead letters; trying on")
			}
		}
		r.round(ctx)
	}
}

// learn reads which groups ask for it.
func (r *redriver) learn(ctx context.Context) error {
	return r.b.catalog.EachGroup(func(g *catalog.Group) bool {
		r.note(g)
		return ctx.Err() == nil
	})
}

// round looks at every group that asks for it, as far as the bound goes.
func (r *redriver) round(ctx context.Context) {
	r.mu.Lock()
	names := make([]string, 0, len(r.mu.groups))
	for name := range r.mu.groups {
		names = append(names, name)
	}
	r.mu.Unlock()
	left := redrivenAtOnce
	for _, name := range names { // in random order: none is always the last
		if left <= 0 || ctx.Err() != nil {
			return
		}
		n, err := r.redrive(ctx, name, left)
		if err != nil && ctx.Err() == nil && CodeOf(err) != CodeGroupNotFound {
			r.b.log.Error().Err(err).Str("group", name).Msg("dead letters do not go back; trying on")
		}
		left -= n
	}
}

// redrive brings back what is due of one group, and answers how many dead letters it looked at.
func (r *redriver) redrive(ctx context.Context, name string, most int) (int, error) {
	g, err := r.b.catalog.Group(name)
	if err != nil {
		if code, _ := codeOfCause(err); code != CodeGroupNotFound {
			return 0, err
		}
		g = &catalog.Group{}
	}
	auto := g.AutoRedrive()
	if auto.After <= 0 {
		r.mu.Lock()
		delete(r.mu.groups, name)
		r.mu.Unlock()
		return 0, nil
	}
	due := r.b.clock.Now().Add(-auto.After).UnixMilli()
	if due <= 0 {
		return 0, nil
	}
	res, err := r.b.redrive(ctx, &RedriveRequest{Group: name, Filter: DeadFilter{To: due, redrives: auto.Most}, Most: most}, &auto)
	if err != nil {
		return 0, err
	}
	if res.Done > 0 || res.Failed > 0 {
		r.b.log.Info().Str("group", name).Int("redriven", res.Done).Int("failed", res.Failed).Str("why", res.Why).Msg("dead letters went back by themselves")
	}
	return res.Done + res.Passed + res.Failed, nil
}
