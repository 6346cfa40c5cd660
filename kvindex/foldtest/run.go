package foldtest

import (
	"fmt"
	"slices"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Run is a machine that a property test drives. Steps are gathered for one log batch, so that they meet what earlier ones of
// the same batch did; each comes with what a model says of it.
type Run[F Fold] struct {
	*Machine[F]
	Now    int64 // ms, of the batch that is gathered
	steps  []Step[F]
	expect []Result
}

// Propose adds a step to the batch.
func (r *Run[F]) Propose(s Step[F], expect Result) {
	r.steps, r.expect = append(r.steps, s), append(r.expect, expect)
}

// Changed is the result of a step that changed so many rows; none is a refusal.
func Changed(n int, released ...kvindex.Release) Result {
	return Result{Outcome: record.Outcome{Offset: int64(n), Refused: n == 0}, Released: released}
}

// Commit applies the batch; an error says which step came to something else than was expected.
func (r *Run[F]) Commit() error {
	got := r.Apply(r.Now, r.steps...)
	expect := r.expect
	r.steps, r.expect = nil, nil
	return compare(got, expect)
}

// CommitInParts does on another machine what Commit will do here, but in several batches: size says how many of the steps
// that are left the next one has.
func (r *Run[F]) CommitInParts(m *Machine[F], size func(left int) int) error {
	var got []Result
	for left := r.steps; len(left) > 0; {
		n := size(len(left))
		got = append(got, m.Apply(r.Now, left[:n]...)...)
		left = left[n:]
	}
	return compare(got, r.expect)
}

func compare(got, expect []Result) error {
	for i := range expect {
		if got[i].Outcome != expect[i].Outcome || !slices.Equal(got[i].Released, expect[i].Released) {
			return fmt.Errorf("step %d of the batch: got %+v, want %+v", i, got[i], expect[i])
		}
	}
	return nil
}
