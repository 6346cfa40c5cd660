// Package record defines what the commitlog carries: positions, record kinds and the outcome that a fold gives to
// whoever proposed a record.
//
// Every change of state that a client was told of is a record. The kinds are numbered here, in one place, because the
// numbers are on disk; what a payload looks like is drawn by the package that owns the kind.
package record

import "fmt"

// Position is a byte offset in the whole commitlog. It never changes meaning: it is RocketMQ's physical offset. The
// position of a record is that of its record header.
type Position int64

// Kind says which fold applies a record. Numbers are stored: they are never reused or renumbered.
type Kind uint8

// Record kinds and their owners.
const (
	// KindMessage is a message in RocketMQ's stored layout, to be entered in its queue (package store).
	KindMessage Kind = 1
	// KindTopicPut creates or replaces a topic's configuration (package catalog).
	KindTopicPut Kind = 2
	// KindTopicDelete deletes a topic with its queues, index entries and cursors (package catalog).
	KindTopicDelete Kind = 3
	// KindGroupPut creates or replaces a consumer group's configuration (package catalog).
	KindGroupPut Kind = 4
	// KindGroupDelete deletes a consumer group and, when asked, its offsets (package catalog).
	KindGroupDelete Kind = 5
	// KindKVPut sets or removes a key of the name server's KV configuration (package catalog).
	KindKVPut Kind = 6
	// KindTrim raises the minimum offset of the queues that it lists (package store).
	KindTrim Kind = 7
	// KindDropHour removes one hour of the key index and of the expiry buckets (package store).
	KindDropHour Kind = 8
	// KindCommit sets committed offsets of a group (package pop).
	KindCommit Kind = 9
	// KindReset moves a group's cursor and forgets what it had in flight there (package pop).
	KindReset Kind = 10
	// KindPop lists what one pop handed out and until when (package pop).
	KindPop Kind = 11
	// KindAck removes checkpoints (package pop).
	KindAck Kind = 12
	// KindExtend moves checkpoints to another visible-at time (package pop).
	KindExtend Kind = 13
	// KindDelayed is a message that becomes visible at a time of its own: when it was due before a timer row points at it,
	// afterwards a queue entry (package store for the message, package delay for the timer).
	KindDelayed Kind = 14
	// KindFire makes the timers of a range of due times visible (package delay).
	KindFire Kind = 15
	// KindRecall takes a timer back before it fires (package delay).
	KindRecall Kind = 16
	// KindCopy is the message of a timer once more, at the tail of the log: to be visible now, or to go on waiting
	// (package store for the message, package delay for the timer).
	KindCopy Kind = 17
	// KindHalf is a message whose transaction is not decided (package store for the message, package txn for the half).
	KindHalf Kind = 18
	// KindEnd commits or rolls back a half message, or gives it up (package txn).
	KindEnd Kind = 19
	// KindCheck notes that producers were asked for the end of transactions (package txn).
	KindCheck Kind = 20
	// KindForward is the message of a checkpoint once more, in another topic and in place of the checkpoint: a dead letter, one
	// that is redriven, or what a group that pulls now had popped. It is a copy, since such messages are few, stay for a
	// retention of their own, and must not keep old segments (package store for the message, package pop for the checkpoint).
	KindForward Kind = 21
	// KindStart lets a queue that never had a message begin at an offset, when it is moved here from elsewhere (package store).
	KindStart Kind = 22
	// KindForget takes a group's place in a topic away, with what it has in flight there (package pop).
	KindForget Kind = 23
	// KindOffload says that a part of the tier has what queues list up to some offset, which the index then holds no more
	// (package store).
	KindOffload Kind = 24
)

var kindNames = map[Kind]string{
	KindMessage: "message", KindTopicPut: "topic-put", KindTopicDelete: "topic-delete", KindGroupPut: "group-put",
	KindGroupDelete: "group-delete", KindKVPut: "kv-put", KindTrim: "trim", KindDropHour: "drop-hour",
	KindCommit: "commit", KindReset: "reset", KindPop: "pop", KindAck: "ack", KindExtend: "extend",
	KindDelayed: "delayed", KindFire: "fire", KindRecall: "recall", KindCopy: "copy",
	KindHalf: "half", KindEnd: "end", KindCheck: "check", KindForward: "forward",
	KindStart: "start", KindForget: "forget", KindOffload: "offload",
}

// Kinds lists every kind that is defined.
func Kinds() []Kind {
	out := make([]Kind, 0, len(kindNames))
	for k := KindMessage; int(k) <= len(kindNames); k++ {
		out = append(out, k)
	}
	return out
}

func (k Kind) String() string {
	if n, ok := kindNames[k]; ok {
		return n
	}
	return fmt.Sprintf("kind-%d", uint8(k))
}

// Record is one entry of a batch. The payload belongs to whoever made the record; the log copies it when it writes.
type Record struct {
	Kind    Kind
	Payload []byte
}

// Outcome is what applying one record came to. It is a function of the log alone.
type Outcome struct {
	// Offset is the queue offset that a message got (0 as long as it is in no queue), the id that a topic or group got, the
	// mask of what a pop, ack or extend did, or the number of rows that another record changed.
	Offset int64
	// Refused is set when the record changed nothing because what it names was not there any more: a topic deleted
	// meanwhile, a checkpoint that had been acknowledged.
	Refused bool
}
