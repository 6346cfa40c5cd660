package kvindex

import (
	"encoding/binary"

	"github.com/cespare/xxhash/v2"
)

// ID is the interned form of a topic's or group's name. Ids start at 1 and are never reused, so that the rows of a deleted
// name can never come back to life under a new one of the same name.
type ID uint64

// Space is the first byte of every key: the family that a row belongs to.
type Space byte

// The key spaces. All numbers in keys are big-endian, so that byte order is numeric order; 64-bit offsets, positions and
// times are never negative. Values are drawn by the owner named here.
const (
	// SpaceApplied: one row, how far the log has been applied. Owner: kvindex. Since format 1.
	//	┌────┐
	//	│ 01 │
	//	└────┘
	SpaceApplied Space = 0x01
	// SpaceMeta: format version and id counters, by name. Owner: kvindex (format), catalog (counters). Since format 1.
	//	┌────┬────────┐
	//	│ 02 │ name…  │
	//	└────┴────────┘
	SpaceMeta Space = 0x02
	// SpaceTopicName: topic name → id and configuration. Owner: catalog. Since format 1.
	//	┌────┬────────┐
	//	│ 10 │ name…  │
	//	└────┴────────┘
	SpaceTopicName Space = 0x10
	// SpaceTopicID: topic id → name. Owner: catalog. Since format 1.
	//	┌────┬──────────┐
	//	│ 11 │ topic 8  │
	//	└────┴──────────┘
	SpaceTopicID Space = 0x11
	// SpaceGroupName: group name → id and configuration. Owner: catalog. Since format 1.
	//	┌────┬────────┐
	//	│ 12 │ name…  │
	//	└────┴────────┘
	SpaceGroupName Space = 0x12
	// SpaceGroupID: group id → name. Owner: catalog. Since format 1.
	//	┌────┬──────────┐
	//	│ 13 │ group 8  │
	//	└────┴──────────┘
	SpaceGroupID Space = 0x13
	// SpaceKVConfig: name server KV configuration. Owner: catalog. Since format 1.
	//	┌────┬───────────────┬─────────────┬───────┐
	//	│ 14 │ ns length 2   │ namespace…  │ key…  │
	//	└────┴───────────────┴─────────────┴───────┘
	SpaceKVConfig Space = 0x14
	// SpaceQueue: a queue's bounds. Owner: store. Since format 1.
	//	┌────┬──────────┬──────────┐
	//	│ 20 │ topic 8  │ queue 4  │
	//	└────┴──────────┴──────────┘
	SpaceQueue Space = 0x20
	// SpaceConsumeQueue: a run of queue entries, found by seeking to the first row whose last offset ≥ the wanted one.
	// Owner: store. Since format 1.
	//	┌────┬──────────┬──────────┬──────────────────────────┐
	//	│ 21 │ topic 8  │ queue 4  │ last offset of the run 8 │
	//	└────┴──────────┴──────────┴──────────────────────────┘
	SpaceConsumeQueue Space = 0x21
	// SpaceKeyIndex: message keys and unique ids. The hour is that of the store time, so that an hour goes with one
	// range-delete. Owner: store. Since format 1.
	//	┌────┬─────────┬──────────┬──────────────┬─────────┬──────────────────┬─────────────┐
	//	│ 22 │ hour 4  │ topic 8  │ kind 1 (U K) │ hash 8  │ store time ms 8  │ position 8  │
	//	└────┴─────────┴──────────┴──────────────┴─────────┴──────────────────┴─────────────┘
	SpaceKeyIndex Space = 0x22
	// SpaceBucket: the queues that got entries in an hour. Owner: store. Since format 1.
	//	┌────┬─────────┬──────────┬──────────┐
	//	│ 23 │ hour 4  │ topic 8  │ queue 4  │
	//	└────┴─────────┴──────────┴──────────┘
	SpaceBucket Space = 0x23
	// SpaceTierQueue: what a part of the tier has of a queue, found as a run is. Owner: store. Since format 1.
	//	┌────┬──────────┬──────────┬───────────────────────────┐
	//	│ 24 │ topic 8  │ queue 4  │ last offset in the part 8 │
	//	└────┴──────────┴──────────┴───────────────────────────┘
	SpaceTierQueue Space = 0x24
	// SpaceTier: one row, up to where queues and log are in the tier and not here. Owner: store. Since format 1.
	//	┌────┐
	//	│ 25 │
	//	└────┘
	SpaceTier Space = 0x25
	// SpaceCursor: where a group stands in a queue. Owner: pop. Since format 1.
	//	┌────┬──────────┬──────────┬──────────┐
	//	│ 30 │ group 8  │ topic 8  │ queue 4  │
	//	└────┴──────────┴──────────┴──────────┘
	SpaceCursor Space = 0x30
	// SpaceCheckpoint: a popped message until it is acknowledged or visible again. Owner: pop. Since format 1.
	//	┌────┬──────────┬──────────┬─────────────────┬──────────┬───────────┐
	//	│ 31 │ group 8  │ topic 8  │ visible at ms 8 │ queue 4  │ offset 8  │
	//	└────┴──────────┴──────────┴─────────────────┴──────────┴───────────┘
	SpaceCheckpoint Space = 0x31
	// SpaceCounter: exact counters of a group on a topic. Owner: pop. Since format 1.
	//	┌────┬──────────┬──────────┐
	//	│ 32 │ group 8  │ topic 8  │
	//	└────┴──────────┴──────────┘
	SpaceCounter Space = 0x32
	// SpaceOrder: what a group that is served in order has in flight of a topic, what waits behind that, and whose turn it is. What
	// is in order is a line: the messages of one message group in one queue, by a hash, or those of a queue that have none.
	// Owner: pop. Since format 1.
	//	┌────┬──────────┬──────────┬───┬──────────┬─────────┐
	//	│ 33 │ group 8  │ topic 8  │ L │ queue 4  │ line 8  │ a line that something is in flight of, or waits in
	//	├────┼──────────┼──────────┼───┼──────────┼─────────┼───────────┐
	//	│ 33 │ group 8  │ topic 8  │ P │ queue 4  │ line 8  │ offset 8  │ a message that waits in its line
	//	├────┼──────────┼──────────┼───┼──────────┴──────┬──┴───────┬───┴─────┐
	//	│ 33 │ group 8  │ topic 8  │ R │ log batch 8     │ queue 4  │ line 8  │ the first that waits may go, since when
	//	├────┼──────────┼──────────┼───┼─────────────────┼──────────┼─────────┤
	//	│ 33 │ group 8  │ topic 8  │ T │ visible at ms 8 │ queue 4  │ line 8  │ the first in flight may go then
	//	└────┴──────────┴──────────┴───┴─────────────────┴──────────┴─────────┘
	SpaceOrder Space = 0x33
	// SpaceTimer: a message that becomes visible later. The origin is the position where it first landed; its body may have
	// been copied since. Owner: delay. Since format 1.
	//	┌────┬───────────┬───────────┐
	//	│ 40 │ due ms 8  │ origin 8  │
	//	└────┴───────────┴───────────┘
	SpaceTimer Space = 0x40
	// SpaceLongTimer: the timers that outlive the segment of their body, by the hour in which it was stored. Owner: delay.
	// Since format 1.
	//	┌────┬─────────┬───────────┬───────────┐
	//	│ 41 │ hour 4  │ due ms 8  │ origin 8  │
	//	└────┴─────────┴───────────┴───────────┘
	SpaceLongTimer Space = 0x41
	// SpaceTimerCounter: pending timers of a topic. Owner: delay. Since format 1.
	//	┌────┬──────────┐
	//	│ 42 │ topic 8  │
	//	└────┴──────────┘
	SpaceTimerCounter Space = 0x42
	// SpaceDelayLevel: how many messages a delay level has got and let go. Owner: delay. Since format 1.
	//	┌────┬──────────┐
	//	│ 43 │ level 4  │
	//	└────┴──────────┘
	SpaceDelayLevel Space = 0x43
	// SpaceEnded: what became of a message that was recalled, or whose transaction has ended: by the hour of its due time, or
	// in which the half message was stored. Owner: delay (recalled), txn and store (transactions). Since format 1.
	//	┌────┬─────────┬─────────────┐
	//	│ 44 │ hour 4  │ position 8  │ the timer's origin, or of the half message
	//	└────┴─────────┴─────────────┘
	SpaceEnded Space = 0x44
	// SpaceHalf: a half message. Owner: txn. Since format 1.
	//	┌────┬─────────────┐
	//	│ 50 │ position 8  │
	//	└────┴─────────────┘
	SpaceHalf Space = 0x50
	// SpaceHalfCheck: when the producer of a half message is to be asked. Owner: txn. Since format 1.
	//	┌────┬────────────────┬─────────────┐
	//	│ 51 │ check at ms 8  │ position 8  │
	//	└────┴────────────────┴─────────────┘
	SpaceHalfCheck Space = 0x51
	// SpaceParked: a half message that is not asked for any more. Owner: txn. Since format 1.
	//	┌────┬─────────────┐
	//	│ 52 │ position 8  │
	//	└────┴─────────────┘
	SpaceParked Space = 0x52
	// SpaceHalfCounter: half and parked messages of a topic. Owner: txn. Since format 1.
	//	┌────┬──────────┐
	//	│ 53 │ topic 8  │
	//	└────┴──────────┘
	SpaceHalfCounter Space = 0x53
)

// IndexKind tells unique ids from keys in SpaceKeyIndex.
type IndexKind byte

// Index kinds.
const (
	IndexUniqueID IndexKind = 'U'
	IndexKey      IndexKind = 'K'
)

// OrderKind tells the four kinds of rows in SpaceOrder.
type OrderKind byte

// Order kinds.
const (
	OrderLine   OrderKind = 'L'
	OrderParked OrderKind = 'P'
	OrderReady  OrderKind = 'R'
	OrderTurn   OrderKind = 'T'
)

// The functions below append one key, or the prefix that a set of keys has in common, to dst and return it. The key that
// each makes is drawn at its Space; they allocate only when dst is too small.

// AppendMetaKey makes the key of a row of SpaceMeta.
func AppendMetaKey(dst []byte, name string) []byte {
	return append(append(dst, byte(SpaceMeta)), name...)
}

// AppendTopicNameKey makes the key of a topic's configuration.
func AppendTopicNameKey(dst []byte, name string) []byte {
	return append(append(dst, byte(SpaceTopicName)), name...)
}

// AppendTopicIDKey makes the key of a topic's name.
func AppendTopicIDKey(dst []byte, topic ID) []byte {
	return be64(append(dst, byte(SpaceTopicID)), uint64(topic))
}

// AppendGroupNameKey makes the key of a group's configuration.
func AppendGroupNameKey(dst []byte, name string) []byte {
	return append(append(dst, byte(SpaceGroupName)), name...)
}

// AppendGroupIDKey makes the key of a group's name.
func AppendGroupIDKey(dst []byte, group ID) []byte {
	return be64(append(dst, byte(SpaceGroupID)), uint64(group))
}

// AppendKVConfigKey makes the key of an entry of the name server's KV configuration; with an empty key it is the prefix of a
// namespace. The namespace has at most 65,535 bytes.
func AppendKVConfigKey(dst []byte, namespace, key string) []byte {
	dst = append(dst, byte(SpaceKVConfig))
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(namespace)))
	return append(append(dst, namespace...), key...)
}

// AppendQueuePrefix covers the bounds of all queues of a topic.
func AppendQueuePrefix(dst []byte, topic ID) []byte {
	return be64(append(dst, byte(SpaceQueue)), uint64(topic))
}

// AppendQueueKey makes the key of a queue's bounds.
func AppendQueueKey(dst []byte, topic ID, queue int32) []byte {
	return be32(AppendQueuePrefix(dst, topic), uint32(queue))
}

// AppendConsumeQueueTopicPrefix covers the runs of all queues of a topic.
func AppendConsumeQueueTopicPrefix(dst []byte, topic ID) []byte {
	return be64(append(dst, byte(SpaceConsumeQueue)), uint64(topic))
}

// AppendConsumeQueueKey makes the key of the run whose last offset is last; also the place to seek to for an offset.
func AppendConsumeQueueKey(dst []byte, topic ID, queue int32, last int64) []byte {
	return be64(be32(AppendConsumeQueueTopicPrefix(dst, topic), uint32(queue)), uint64(last))
}

// AppendTierQueueTopicPrefix covers what the tier has of all queues of a topic.
func AppendTierQueueTopicPrefix(dst []byte, topic ID) []byte {
	return be64(append(dst, byte(SpaceTierQueue)), uint64(topic))
}

// AppendTierQueueKey makes the key of what a part has of a queue up to the offset last; also the place to seek to for an offset.
func AppendTierQueueKey(dst []byte, topic ID, queue int32, last int64) []byte {
	return be64(be32(AppendTierQueueTopicPrefix(dst, topic), uint32(queue)), uint64(last))
}

// AppendTierKey makes the key of the row of SpaceTier.
func AppendTierKey(dst []byte) []byte { return append(dst, byte(SpaceTier)) }

// AppendKeyIndexHourPrefix covers one hour of the key index.
func AppendKeyIndexHourPrefix(dst []byte, hour uint32) []byte {
	return be32(append(dst, byte(SpaceKeyIndex)), hour)
}

// AppendKeyIndexPrefix covers the messages of a topic that have a key or unique id of this hash in one hour.
func AppendKeyIndexPrefix(dst []byte, hour uint32, topic ID, kind IndexKind, hash uint64) []byte {
	dst = be64(AppendKeyIndexHourPrefix(dst, hour), uint64(topic))
	return be64(append(dst, byte(kind)), hash)
}

// AppendKeyIndexKey makes the key of one entry of the key index; the timestamp is in ms.
func AppendKeyIndexKey(dst []byte, hour uint32, topic ID, kind IndexKind, hash uint64, timestamp, position int64) []byte {
	return be64(be64(AppendKeyIndexPrefix(dst, hour, topic, kind, hash), uint64(timestamp)), uint64(position))
}

// AppendBucketHourPrefix covers the queues that got entries in one hour.
func AppendBucketHourPrefix(dst []byte, hour uint32) []byte {
	return be32(append(dst, byte(SpaceBucket)), hour)
}

// AppendBucketKey makes the key that lists a queue under an hour.
func AppendBucketKey(dst []byte, hour uint32, topic ID, queue int32) []byte {
	return be32(be64(AppendBucketHourPrefix(dst, hour), uint64(topic)), uint32(queue))
}

// AppendCursorGroupPrefix covers all cursors of a group.
func AppendCursorGroupPrefix(dst []byte, group ID) []byte {
	return be64(append(dst, byte(SpaceCursor)), uint64(group))
}

// AppendCursorTopicPrefix covers a group's cursors on a topic.
func AppendCursorTopicPrefix(dst []byte, group, topic ID) []byte {
	return be64(AppendCursorGroupPrefix(dst, group), uint64(topic))
}

// AppendCursorKey makes the key of a group's cursor in a queue.
func AppendCursorKey(dst []byte, group, topic ID, queue int32) []byte {
	return be32(AppendCursorTopicPrefix(dst, group, topic), uint32(queue))
}

// AppendCheckpointGroupPrefix covers all checkpoints of a group.
func AppendCheckpointGroupPrefix(dst []byte, group ID) []byte {
	return be64(append(dst, byte(SpaceCheckpoint)), uint64(group))
}

// AppendCheckpointTopicPrefix covers a group's checkpoints on a topic.
func AppendCheckpointTopicPrefix(dst []byte, group, topic ID) []byte {
	return be64(AppendCheckpointGroupPrefix(dst, group), uint64(topic))
}

// AppendCheckpointTimeKey is the smallest key of the checkpoints that become visible at or after visibleAt (ms).
func AppendCheckpointTimeKey(dst []byte, group, topic ID, visibleAt int64) []byte {
	return be64(AppendCheckpointTopicPrefix(dst, group, topic), uint64(visibleAt))
}

// AppendCheckpointKey makes the key of one checkpoint.
func AppendCheckpointKey(dst []byte, group, topic ID, visibleAt int64, queue int32, offset int64) []byte {
	return be64(be32(AppendCheckpointTimeKey(dst, group, topic, visibleAt), uint32(queue)), uint64(offset))
}

// AppendCounterGroupPrefix covers all counters of a group.
func AppendCounterGroupPrefix(dst []byte, group ID) []byte {
	return be64(append(dst, byte(SpaceCounter)), uint64(group))
}

// AppendCounterKey makes the key of a group's counters on a topic.
func AppendCounterKey(dst []byte, group, topic ID) []byte {
	return be64(AppendCounterGroupPrefix(dst, group), uint64(topic))
}

// AppendOrderGroupPrefix covers the order of a group on all topics.
func AppendOrderGroupPrefix(dst []byte, group ID) []byte {
	return be64(append(dst, byte(SpaceOrder)), uint64(group))
}

// AppendOrderTopicPrefix covers the order of a group on a topic.
func AppendOrderTopicPrefix(dst []byte, group, topic ID) []byte {
	return be64(AppendOrderGroupPrefix(dst, group), uint64(topic))
}

// AppendOrderKindPrefix covers the rows of one kind of a group on a topic.
func AppendOrderKindPrefix(dst []byte, group, topic ID, kind OrderKind) []byte {
	return append(AppendOrderTopicPrefix(dst, group, topic), byte(kind))
}

// AppendOrderQueuePrefix covers the rows of one queue, of the kinds OrderLine and OrderParked.
func AppendOrderQueuePrefix(dst []byte, group, topic ID, kind OrderKind, queue int32) []byte {
	return be32(AppendOrderKindPrefix(dst, group, topic, kind), uint32(queue))
}

// AppendOrderLineKey makes the key of a line; with OrderParked it is the prefix of what waits in the line.
func AppendOrderLineKey(dst []byte, group, topic ID, kind OrderKind, queue int32, line uint64) []byte {
	return be64(AppendOrderQueuePrefix(dst, group, topic, kind, queue), line)
}

// AppendOrderParkedKey makes the key of a message that waits in its line.
func AppendOrderParkedKey(dst []byte, group, topic ID, queue int32, line uint64, offset int64) []byte {
	return be64(AppendOrderLineKey(dst, group, topic, OrderParked, queue, line), uint64(offset))
}

// AppendOrderSinceKey is the smallest key of what has its turn at or after since: for OrderReady a log batch's index, for
// OrderTurn a time in ms.
func AppendOrderSinceKey(dst []byte, group, topic ID, kind OrderKind, since int64) []byte {
	return be64(AppendOrderKindPrefix(dst, group, topic, kind), uint64(since))
}

// AppendOrderPlaceKey makes the key of a line's place among those of the kinds OrderReady and OrderTurn.
func AppendOrderPlaceKey(dst []byte, group, topic ID, kind OrderKind, since int64, queue int32, line uint64) []byte {
	return be64(be32(AppendOrderSinceKey(dst, group, topic, kind, since), uint32(queue)), line)
}

// AppendTimerKey makes the key of a timer; the due time is in ms. With origin 0 it is the smallest key of those due then.
func AppendTimerKey(dst []byte, due, origin int64) []byte {
	return be64(be64(append(dst, byte(SpaceTimer)), uint64(due)), uint64(origin))
}

// AppendLongTimerHourPrefix covers the long timers whose body was stored in an hour.
func AppendLongTimerHourPrefix(dst []byte, hour uint32) []byte {
	return be32(append(dst, byte(SpaceLongTimer)), hour)
}

// AppendLongTimerKey makes the key that lists a timer under the hour of its body.
func AppendLongTimerKey(dst []byte, hour uint32, due, origin int64) []byte {
	return be64(be64(AppendLongTimerHourPrefix(dst, hour), uint64(due)), uint64(origin))
}

// AppendTimerCounterKey makes the key of a topic's pending timers.
func AppendTimerCounterKey(dst []byte, topic ID) []byte {
	return be64(append(dst, byte(SpaceTimerCounter)), uint64(topic))
}

// AppendDelayLevelKey makes the key of a delay level's counters.
func AppendDelayLevelKey(dst []byte, level int32) []byte {
	return be32(append(dst, byte(SpaceDelayLevel)), uint32(level))
}

// AppendEndedHourPrefix covers what is remembered of one hour's messages.
func AppendEndedHourPrefix(dst []byte, hour uint32) []byte {
	return be32(append(dst, byte(SpaceEnded)), hour)
}

// AppendEndedKey makes the key of what became of a message.
func AppendEndedKey(dst []byte, hour uint32, position int64) []byte {
	return be64(AppendEndedHourPrefix(dst, hour), uint64(position))
}

// AppendHalfKey makes the key of a half message.
func AppendHalfKey(dst []byte, position int64) []byte {
	return be64(append(dst, byte(SpaceHalf)), uint64(position))
}

// AppendHalfCheckKey makes the key of a half message's next check, in ms.
func AppendHalfCheckKey(dst []byte, checkAt, position int64) []byte {
	return be64(be64(append(dst, byte(SpaceHalfCheck)), uint64(checkAt)), uint64(position))
}

// AppendParkedKey makes the key of a parked half message.
func AppendParkedKey(dst []byte, position int64) []byte {
	return be64(append(dst, byte(SpaceParked)), uint64(position))
}

// AppendHalfCounterKey makes the key of a topic's half and parked messages.
func AppendHalfCounterKey(dst []byte, topic ID) []byte {
	return be64(append(dst, byte(SpaceHalfCounter)), uint64(topic))
}

// PrefixEnd is the smallest key after all keys that begin with prefix; nil when there is none. It allocates.
func PrefixEnd(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

// HourOf is the bucket of a time in milliseconds since 1970.
func HourOf(ms int64) uint32 { return uint32(ms / 3_600_000) }

// HashKey is the stored hash of a message key: xxHash64 with seed 0. It does not allocate.
func HashKey(key string) uint64 { return xxhash.Sum64String(key) }

// idTail is how many digits at the end of a unique id count up: the sequence number of a gRPC id, the last bits of time and
// counter of the others.
const idTail = 8

// HashID is the stored hash of a unique id: 32 bits of the xxHash64 of all but its last eight characters, then what those
// are as hexadecimal digits. Ids that one producer makes one after the other so become neighbours in the index, which costs
// a fraction of rows in random order. An id of another form has the hash of a key. It does not allocate.
func HashID(id string) uint64 {
	if len(id) < 2*idTail {
		return HashKey(id)
	}
	var tail uint32
	for _, c := range []byte(id[len(id)-idTail:]) {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		default:
			return HashKey(id)
		}
		tail = tail<<4 | uint32(c)
	}
	return xxhash.Sum64String(id[:len(id)-idTail])&^(1<<32-1) | uint64(tail)
}

// Hash is the stored hash of a key or unique id.
func (k IndexKind) Hash(key string) uint64 {
	if k == IndexUniqueID {
		return HashID(key)
	}
	return HashKey(key)
}

func be32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }
func be64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }
