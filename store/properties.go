package store

import (
	"unsafe"

	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// properties are those of a message that the index needs, found in one pass. The slices alias the message.
type properties struct {
	tags, uniqueID, keys []byte
	group, level         []byte                       // of the producer; of the delay
	delayed              bool                         // asks for a delay of any kind
	each                 func(key, value []byte) bool // visit, bound once so that a scan does not allocate
}

func (p *properties) scan(props []byte) {
	*p = properties{each: p.each}
	message.EachProperty(props, p.each)
}

func (p *properties) visit(key, value []byte) bool {
	switch string(key) {
	case message.PropTags:
		p.tags = value
	case message.PropUniqueKey:
		p.uniqueID = value
	case message.PropKeys:
		p.keys = value
	case message.PropProducerGroup:
		p.group = value
	case message.PropDelayLevel:
		p.level, p.delayed = value, true
	case message.PropTimerDeliver, message.PropTimerDelayMs, message.PropTimerDelaySec:
		p.delayed = true
	}
	return true
}

// tagHash is 0 without a tag. TagHash keeps nothing of the string, so it may share the message's bytes.
func (p *properties) tagHash() int64 {
	return message.TagHash(unsafe.String(unsafe.SliceData(p.tags), len(p.tags)))
}

// eachWord calls f for every word of a message's keys, which blanks separate, until f returns false.
func eachWord(keys []byte, f func(word []byte) bool) {
	for start := 0; start < len(keys); {
		end := start
		for end < len(keys) && keys[end] != ' ' {
			end++
		}
		if end > start && !f(keys[start:end]) {
			return
		}
		start = end + 1
	}
}

// hashBytes is kind.Hash of the same bytes, without an allocation: it keeps nothing of the string.
func hashBytes(kind kvindex.IndexKind, b []byte) uint64 {
	return kind.Hash(unsafe.String(unsafe.SliceData(b), len(b)))
}
