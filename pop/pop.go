// Package pop is where groups stand: cursors, popped messages (checkpoints) and their counters. Its record kinds, rows and
// fold, and the pure choices: they take the time and a snapshot, and return what to write.
package pop

import (
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// State is the Fold of the pop record kinds and the reads of its rows.
type State struct{}

func New(e kvindex.Engine) *State { panic("unbuilt") }

func (s *State) Kinds() []record.Kind { panic("unbuilt") }
func (s *State) Apply(b *kvindex.Batch, at record.Position, r record.Record) (record.Outcome, error) {
	panic("unbuilt")
}
func (s *State) Finish(b *kvindex.Batch) error { panic("unbuilt") }

// Cursor of a group in a queue.
type Cursor struct {
	Next      int64 // next offset that a pop hands out
	Committed int64 // what the group committed (pull) or popped up to (pop)
}

// Cursor reads it; ok is false when the group never had one there.
func (s *State) Cursor(group, topic kvindex.ID, queue int32) (c Cursor, ok bool, err error) {
	panic("unbuilt")
}

// EachCursor lists a group's cursors in key order (topic 0: of all topics).
func (s *State) EachCursor(group, topic kvindex.ID, f func(topic kvindex.ID, queue int32, c Cursor) bool) error {
	panic("unbuilt")
}

// InFlight is the number of checkpoints of a group on a topic.
func (s *State) InFlight(group, topic kvindex.ID) (int64, error) { panic("unbuilt") }

// Commit is one committed offset.
type Commit struct {
	Group, Topic kvindex.ID
	Queue        int32
	Offset       int64
}

// CommitRecord sets committed offsets (Next follows); ResetRecord also forgets what is in flight in those queues.
func CommitRecord(c []Commit) record.Record { panic("unbuilt") }
func ResetRecord(c []Commit) record.Record  { panic("unbuilt") }
