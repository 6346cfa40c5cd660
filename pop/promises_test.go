package pop

import (
	"maps"
	"slices"

	"pgregory.net/rapid"
)

// promises are followed from what was answered alone, knowing no rows, lines or reasons: while somebody holds a message nobody else of
// the group gets it, and what was settled never comes again. A cursor that is moved back to a message takes back what was said of it.
type promises struct {
	held    map[modelMessage]int64 // until when (ms)
	settled map[modelMessage]bool  // acknowledged, or passed over
}

func newPromises() promises {
	return promises{held: map[modelMessage]int64{}, settled: map[modelMessage]bool{}}
}

func (p *promises) handOut(t *rapid.T, msg modelMessage, by *Pop) {
	if p.settled[msg] {
		t.Fatalf("%+v is handed out and was settled", msg)
	}
	if until, ok := p.held[msg]; ok && until > by.PoppedAt {
		t.Fatalf("%+v is handed out at %d and is held until %d", msg, by.PoppedAt, until)
	}
	p.held[msg] = by.VisibleAt
}

func (p *promises) settle(msg modelMessage) {
	p.settled[msg] = true
	delete(p.held, msg)
}

func (p *promises) forget(which func(modelMessage) bool) {
	maps.DeleteFunc(p.held, func(msg modelMessage, _ int64) bool { return which(msg) })
	maps.DeleteFunc(p.settled, func(msg modelMessage, _ bool) bool { return which(msg) })
}

// passedOver answers, when the model has followed p, what p has passed over for good.
func (r *run) passedOver(p *Pop) (after func() []modelMessage) {
	at := place{p.Group, p.Topic}
	var maybe []modelMessage
	for _, ref := range p.Dropped {
		if msg, _, ok := r.holds(at, ref); ok {
			maybe = append(maybe, msg)
		}
	}
	for i := range p.Discarded {
		h := &p.Discarded[i]
		msg := modelMessage{modelQueue{at, h.Queue}, h.Offset}
		if _, waits := r.order.parked[msg]; waits {
			maybe = append(maybe, msg)
		}
	}
	return func() (gone []modelMessage) {
		for _, msg := range maybe {
			_, waits := r.order.parked[msg]
			if _, flies := r.model.inFlight[msg]; !waits && !flies {
				gone = append(gone, msg)
			}
		}
		return gone
	}
}

// compareQueues looks whether who asks for one queue finds what who asks for all of them does.
func (r *run) compareQueues(t *rapid.T, at place, expired []Expired) {
	for q := range int32(2) {
		want := slices.DeleteFunc(slices.Clone(expired), func(e Expired) bool { return e.Queue != q })
		got, err := r.state.Expired(at.group, at.topic, q, r.now, 1000, nil)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%+v: queue %d has %+v, want %+v (%v)", at, q, got, want, err)
		}
		if len(got) > 0 && !r.state.MayHaveExpired(at.group, at.topic, q, r.now) {
			t.Fatalf("%+v: queue %d may have nothing, but %+v is there", at, q, got)
		}
	}
}
