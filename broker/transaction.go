package broker

import (
	"context"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/txn"
)

// Resolution is what a producer says of its transaction.
type Resolution int

// Resolutions.
const (
	TransactionUnknown Resolution = iota
	TransactionCommit
	TransactionRollback
)

// EndTransactionRequest ends the transaction of a half message. What is empty in it is not compared with the half message.
type EndTransactionRequest struct {
	Topic, Group, UniqueID string
	Position               record.Position
	Resolution             Resolution
	FromCheck              bool // it answers a check
}

// EndTransactionAsync commits or rolls back; done is called exactly once, from the folder goroutine or before it returns: it
// must not block. Unknown changes nothing: the producer is asked again. To end a transaction twice in the same way is no
// error. The delay of a delayed message begins now.
//
// Refusals: CodeNotFound (no half message there), CodeParameter (the half message is of another topic, group or id),
// CodeConflict (it was ended otherwise: rolled back, committed or expired before), CodeBusy, CodeReadOnly, CodeClosing.
func (b *Broker) EndTransactionAsync(req *EndTransactionRequest, done func(error)) { panic("not yet") }

// EndTransaction waits. When ctx ends before, the transaction may still end.
func (b *Broker) EndTransaction(ctx context.Context, req *EndTransactionRequest) error {
	panic("not yet")
}

// TransactionCheck asks a producer for the end of a transaction.
type TransactionCheck struct {
	Group, Topic, UniqueID string
	Half                   txn.Half
	Layout                 []byte // the stored layout in the form in which producers get it; not to be kept
}

// HalfInfo is a half message, open or parked.
type HalfInfo struct {
	txn.Half
	Topic          string
	UniqueID, Keys string
	BodySize       int
}

// HalfQuery asks for half messages, oldest first.
type HalfQuery struct {
	Parked bool   // parked ones, else open ones
	Topic  string // "": of all topics
	Group  string // "": of all producer groups
	From   record.Position
	Most   int // at most 1000; 0: 100
}

// HalfMessages lists half messages; next is the position to go on from, −1 at the end.
func (b *Broker) HalfMessages(q HalfQuery) (found []HalfInfo, next record.Position, err error) {
	panic("not yet")
}
