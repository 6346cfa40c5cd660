package javaimport

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/message"
)

// Tags of the messages in the revive topic: what was popped, and what of it was acknowledged.
const (
	checkpointTag = "ck"
	ackTag        = "ack"
	batchAckTag   = "bAck"
)

// receive is one pop of a group on a queue. Its checkpoint and its acknowledgements name it by the same values.
type receive struct {
	group, topic string
	queue        int32
	start        int64 // offset of the first message
	popped       int64 // ms
}

// popBody is the JSON of all three kinds; names as in RocketMQ's PopCheckPoint, AckMsg and BatchAckMsg.
type popBody struct {
	Start     int64   `json:"so"`
	Popped    int64   `json:"pt"`
	Invisible int64   `json:"it"`
	Bits      uint32  `json:"bm"` // of the messages that were acknowledged before the checkpoint was stored
	Count     int     `json:"n"`
	Queue     int32   `json:"q"`
	Topic     string  `json:"t"`
	Group     string  `json:"c"`
	Distances []int64 `json:"d"` // of each message's offset from Start; absent in old ones: 0, 1, 2 …
	Acked     int64   `json:"ao"`
	AckedMany []int64 `json:"aol"`
}

// maxReceive bounds the messages of one receive: there is a bit for each.
const maxReceive = 32

// checkpoint is what is known of a receive.
type checkpoint struct {
	visibleAt int64 // ms
	offsets   []int64
	acked     []int64 // may come before offsets
}

// pops gathers checkpoints and acknowledgements. The broker stores both as delayed messages for the revive topic, and they appear a
// second time when they get there; what it has read there (before revived) is settled.
type pops struct {
	receives map[receive]*checkpoint
	revived  map[place]int64 // offset in a queue of the revive topic up to which it was read
}

func newPops() *pops { return &pops{receives: map[receive]*checkpoint{}, revived: map[place]int64{}} }

func (p *pops) setRevived(offsets []javastore.Offset) {
	for _, o := range offsets {
		if o.Group == reviveGroup {
			p.revived[place{o.Topic, o.Queue}] = o.Offset
		}
	}
}

// see notes a message for the revive topic; arrived says that it is there already.
func (p *pops) see(m *javastore.Message, arrived bool) error {
	tag, _ := message.Property(m.Properties, message.PropTags)
	var b popBody
	if err := json.Unmarshal(m.Body, &b); err != nil {
		return fmt.Errorf("%w: the message at %d of %s is no checkpoint: %w", javastore.ErrDamaged, m.Position, m.Topic, err)
	}
	if b.Topic == "" || b.Group == "" {
		return nil
	}
	at := receive{b.Group, b.Topic, b.Queue, b.Start, b.Popped}
	if arrived && string(tag) == checkpointTag && m.QueueOffset < p.revived[place{m.Topic, m.QueueID}] {
		delete(p.receives, at)
		return nil
	}
	c := p.receives[at]
	if c == nil {
		c = &checkpoint{}
		p.receives[at] = c
	}
	switch string(tag) {
	case checkpointTag:
		c.visibleAt = b.Popped + b.Invisible
		c.offsets = c.offsets[:0]
		for i := range min(max(b.Count, 0), maxReceive) {
			offset := b.Start + int64(i)
			if len(b.Distances) == b.Count {
				offset = b.Start + b.Distances[i]
			}
			if bits.RotateLeft32(b.Bits, -i)&1 == 0 {
				c.offsets = append(c.offsets, offset)
			}
		}
	case ackTag:
		c.acked = append(c.acked, b.Acked)
	case batchAckTag:
		c.acked = append(c.acked, b.AckedMany...)
	}
	return nil
}

// flight is a message that a group has popped and not acknowledged.
type flight struct {
	group     string
	at        place
	offset    int64
	poppedAt  int64 // ms
	visibleAt int64 // ms
}

// inFlight lists what is in flight by group, queue and offset, each once: of several receives the last one counts.
func (p *pops) inFlight() []flight {
	var out []flight
	for at, c := range p.receives {
		for _, offset := range c.offsets {
			if !slices.Contains(c.acked, offset) {
				out = append(out, flight{at.group, place{at.topic, at.queue}, offset, at.popped, c.visibleAt})
			}
		}
	}
	sortFlights(out)
	return slices.CompactFunc(out, sameMessage)
}

// sortFlights puts flights in the order of groups, queues and offsets, of one message the one first that lasts longest.
func sortFlights(flights []flight) {
	slices.SortFunc(flights, func(a, b flight) int {
		return cmp.Or(cmp.Compare(a.group, b.group), cmp.Compare(a.at.topic, b.at.topic), cmp.Compare(a.at.queue, b.at.queue),
			cmp.Compare(a.offset, b.offset), cmp.Compare(b.visibleAt, a.visibleAt))
	})
}

func sameMessage(a, b flight) bool { return a.group == b.group && a.at == b.at && a.offset == b.offset }
