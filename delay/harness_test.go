package delay

import (
	"testing"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/kvindex/foldtest"
)

type (
	machine = foldtest.Machine[*State]
	step    = foldtest.Step[*State]
	result  = foldtest.Result
)

func newMachine(t testing.TB) *machine { return foldtest.New(t, New, Check) }

// done is the result of a step that changes one timer or none.
func done(ok bool, err error) (result, error) {
	if !ok {
		return result{Outcome: record.Outcome{Refused: true}}, err
	}
	return result{Outcome: record.Outcome{Offset: 1}}, err
}

func add(t Timer) step {
	return func(s *State, b *kvindex.Batch, _ record.Position) (result, error) {
		fresh := t
		return done(true, s.Add(b, &fresh))
	}
}

// take releases what it takes as the store would, from a copy.
func take(at Point) step {
	return func(s *State, b *kvindex.Batch, _ record.Position) (result, error) {
		t, ok, err := s.Take(b, at)
		r, err := done(ok, err)
		if ok {
			r.Released = []kvindex.Release{releaseOf(&t)}
		}
		return r, err
	}
}

func move(at Point, to record.Position, size int32) step {
	return func(s *State, b *kvindex.Batch, _ record.Position) (result, error) {
		return done(s.Move(b, at, to, size))
	}
}

func fire(from, to Point) step { return foldtest.Record[*State](Fire{from, to}.Record()) }

func recall(at Point, topic kvindex.ID) step {
	return foldtest.Record[*State](Recall{at, topic}.Record())
}

func putTopic(id kvindex.ID) step {
	return foldtest.Do[*State](func(b *kvindex.Batch) { b.Set(kvindex.AppendTopicIDKey(nil, id), []byte("t")) })
}

// deleteTopic does what package catalog does to rows that this package looks at.
func deleteTopic(id kvindex.ID) step {
	return foldtest.Do[*State](func(b *kvindex.Batch) {
		b.Delete(kvindex.AppendTopicIDKey(nil, id))
		b.Delete(kvindex.AppendTimerCounterKey(nil, id))
	})
}

func releaseOf(t *Timer) kvindex.Release {
	return kvindex.Release{Topic: t.Topic, Queue: t.Queue, Position: t.Position, Size: t.Size, TagHash: t.TagHash}
}

func check(t testing.TB, m *machine) {
	t.Helper()
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
}

// everything is the range of all timers that are due at now.
func everything(now int64) step {
	return fire(Point{}, Point{Due: now, Origin: 1<<63 - 1})
}

// dueTimers lists timers that are due and leaves them pending.
func dueTimers(s *State, now int64, most int) ([]Timer, error) {
	l, err := s.Look(now, most, nil)
	if err == nil {
		l.Done(false)
	}
	return l.Due, err
}
