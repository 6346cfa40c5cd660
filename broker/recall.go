package broker

import (
	"context"

	"github.com/cairnmq/cairn/delay"
)

// RecallRequest asks for a delayed message back before it is delivered.
type RecallRequest struct {
	Topic  string // of the message
	Handle string // from its SendResult, or built like the reference's
}

// Recall takes a delayed message back and answers its unique id: it will never be delivered. To recall twice is no error. The
// race with its firing is decided by the log: either it is recalled, or it was delivered and the answer says so.
//
// Refusals: CodeInvalidHandle (not a handle, or of another topic or broker), CodeNotFound (no such delayed message),
// CodeDelivered, CodeTopicNotFound, CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) Recall(ctx context.Context, req *RecallRequest) (uniqueID string, err error) {
	panic("not yet")
}

// TimerQuery asks for pending timers in due order.
type TimerQuery struct {
	Topic    string      // "": of all topics
	From, To int64       // ms, both included; To 0: no end
	After    delay.Point // go on behind this one
	Most     int         // at most 1000; 0: 100
}

// TimerInfo is a pending timer.
type TimerInfo struct {
	delay.Point
	Topic          string
	Queue          int32
	Level          int32
	Stored         int64 // ms
	UniqueID, Keys string
	Handle         string // to recall it with
	BodySize       int
}

// Timers lists pending timers. more says that there are more behind the last one.
func (b *Broker) Timers(q TimerQuery) (found []TimerInfo, more bool, err error) { panic("not yet") }

// TimerBucket is how many timers are due from a time on, up to the next bucket's.
type TimerBucket struct {
	From  int64 // ms
	Count int64
}

// TimerHistogram counts pending timers of a topic ("": of all) in buckets of so many ms between two times (To 0: to the last
// timer), at most 1000 buckets; empty ones are left out. It reads every timer in between, and stops when ctx ends.
func (b *Broker) TimerHistogram(ctx context.Context, q TimerQuery, width int64) ([]TimerBucket, error) {
	panic("not yet")
}
