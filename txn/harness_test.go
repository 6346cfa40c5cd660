package txn

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

func newMachine(t testing.TB) *machine { return foldtest.New(t, New, CheckRows) }

func add(h Half) step {
	return func(s *State, b *kvindex.Batch, _ record.Position) (result, error) {
		fresh := h
		return result{Outcome: record.Outcome{Offset: 1}}, s.Add(b, &fresh)
	}
}

func end(at record.Position, action Action, due int64) step {
	return foldtest.Record[*State](End{at, action, due}.Record())
}

func note(checks ...Check) step { return foldtest.Record[*State](ChecksRecord(checks)) }

func putTopic(id kvindex.ID) step {
	return foldtest.Do[*State](func(b *kvindex.Batch) { b.Set(kvindex.AppendTopicIDKey(nil, id), []byte("t")) })
}

// deleteTopic does what package catalog does to rows that this package looks at.
func deleteTopic(id kvindex.ID) step {
	return foldtest.Do[*State](func(b *kvindex.Batch) {
		b.Delete(kvindex.AppendTopicIDKey(nil, id))
		b.Delete(kvindex.AppendHalfCounterKey(nil, id))
	})
}

func check(t testing.TB, m *machine) {
	t.Helper()
	if err := m.Check(); err != nil {
		t.Fatal(err)
	}
}
