package kvindex

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// spaceInfo is what tools know of a key space. Each Space declared in keys.go has one; a test sees to it.
type spaceInfo struct {
	space Space
	name  string
	// printKey prints the key without its first byte.
	printKey func(p *keyPrinter)
}

var spaceInfos = []spaceInfo{
	{SpaceApplied, "applied", func(*keyPrinter) {}},
	{SpaceMeta, "meta", func(p *keyPrinter) { p.rest("name") }},
	{SpaceTopicName, "topic-name", func(p *keyPrinter) { p.rest("name") }},
	{SpaceTopicID, "topic-id", func(p *keyPrinter) { p.id("topic") }},
	{SpaceGroupName, "group-name", func(p *keyPrinter) { p.rest("name") }},
	{SpaceGroupID, "group-id", func(p *keyPrinter) { p.id("group") }},
	{SpaceKVConfig, "kv-config", func(p *keyPrinter) { p.short("namespace"); p.rest("key") }},
	{SpaceQueue, "queue", func(p *keyPrinter) { p.id("topic"); p.queue() }},
	{SpaceConsumeQueue, "consume-queue", func(p *keyPrinter) { p.id("topic"); p.queue(); p.offset("last") }},
	{SpaceKeyIndex, "key-index", func(p *keyPrinter) {
		p.hour()
		p.id("topic")
		p.kind()
		p.hash()
		p.time("stored")
		p.offset("position")
	}},
	{SpaceBucket, "bucket", func(p *keyPrinter) { p.hour(); p.id("topic"); p.queue() }},
	{SpaceTierQueue, "tier-queue", func(p *keyPrinter) { p.id("topic"); p.queue(); p.offset("last") }},
	{SpaceTier, "tier", func(*keyPrinter) {}},
	{SpaceCursor, "cursor", func(p *keyPrinter) { p.id("group"); p.id("topic"); p.queue() }},
	{SpaceCheckpoint, "checkpoint", func(p *keyPrinter) {
		p.id("group")
		p.id("topic")
		p.time("visible")
		p.queue()
		p.offset("offset")
	}},
	{SpaceCounter, "counter", func(p *keyPrinter) { p.id("group"); p.id("topic") }},
	{SpaceOrder, "order", func(p *keyPrinter) { p.id("group"); p.id("topic"); p.order() }},
	{SpaceTimer, "timer", func(p *keyPrinter) { p.time("due"); p.offset("origin") }},
	{SpaceLongTimer, "long-timer", func(p *keyPrinter) { p.hour(); p.time("due"); p.offset("origin") }},
	{SpaceTimerCounter, "timer-counter", func(p *keyPrinter) { p.id("topic") }},
	{SpaceDelayLevel, "delay-level", func(p *keyPrinter) { p.put("level", strconv.FormatUint(uint64(p.uint32()), 10)) }},
	{SpaceEnded, "ended", func(p *keyPrinter) { p.hour(); p.offset("position") }},
	{SpaceHalf, "half", func(p *keyPrinter) { p.offset("position") }},
	{SpaceHalfCheck, "half-check", func(p *keyPrinter) { p.time("check"); p.offset("position") }},
	{SpaceParked, "parked", func(p *keyPrinter) { p.offset("position") }},
	{SpaceHalfCounter, "half-counter", func(p *keyPrinter) { p.id("topic") }},
}

// spaceByByte finds a space by the first byte of a key.
var spaceByByte = func() (t [256]*spaceInfo) {
	for i := range spaceInfos {
		t[spaceInfos[i].space] = &spaceInfos[i]
	}
	return t
}()

// String is the name of the space as tools print and take it.
func (s Space) String() string {
	if info := spaceByByte[s]; info != nil {
		return info.name
	}
	return fmt.Sprintf("space-%02x", byte(s))
}

// Spaces lists the declared spaces in key order.
func Spaces() []Space {
	out := make([]Space, len(spaceInfos))
	for i := range spaceInfos {
		out[i] = spaceInfos[i].space
	}
	return out
}

// ParseSpace is the space of a name that String gives; ok is false when there is none.
func ParseSpace(name string) (s Space, ok bool) {
	for i := range spaceInfos {
		if spaceInfos[i].name == name {
			return spaceInfos[i].space, true
		}
	}
	return 0, false
}

// keyPrinter takes a key apart from the front. What is too short or too long is printed as it is, in hex.
type keyPrinter struct {
	key []byte // what is left
	out strings.Builder
	bad bool
}

func printKey(info *spaceInfo, key []byte) string {
	p := &keyPrinter{key: key}
	info.printKey(p)
	if p.bad || len(p.key) > 0 {
		return fmt.Sprintf("malformed key 0x%x", key)
	}
	return p.out.String()
}

func (p *keyPrinter) put(name, text string) {
	if p.out.Len() > 0 {
		p.out.WriteByte(' ')
	}
	p.out.WriteString(name)
	p.out.WriteByte('=')
	p.out.WriteString(text)
}

// take returns the next n bytes, zeroes when they are not there.
func (p *keyPrinter) take(n int) []byte {
	if len(p.key) < n {
		p.bad, p.key = true, nil
		return make([]byte, n)
	}
	b := p.key[:n]
	p.key = p.key[n:]
	return b
}

func (p *keyPrinter) uint64() uint64 { return binary.BigEndian.Uint64(p.take(8)) }
func (p *keyPrinter) uint32() uint32 { return binary.BigEndian.Uint32(p.take(4)) }

func (p *keyPrinter) id(name string)     { p.put(name, strconv.FormatUint(p.uint64(), 10)) }
func (p *keyPrinter) offset(name string) { p.put(name, strconv.FormatInt(int64(p.uint64()), 10)) }
func (p *keyPrinter) queue()             { p.put("queue", strconv.FormatInt(int64(int32(p.uint32())), 10)) }
func (p *keyPrinter) hash()              { p.put("hash", fmt.Sprintf("%016x", p.uint64())) }
func (p *keyPrinter) time(name string)   { p.put(name, FormatTime(int64(p.uint64()))) }

func (p *keyPrinter) hour() {
	h := p.uint32()
	p.put("hour", fmt.Sprintf("%d(%s)", h, time.UnixMilli(int64(h)*3_600_000).UTC().Format("2006-01-02T15Z")))
}

func (p *keyPrinter) kind() {
	switch k := IndexKind(p.take(1)[0]); k {
	case IndexUniqueID:
		p.put("kind", "unique-id")
	case IndexKey:
		p.put("kind", "key")
	default:
		p.put("kind", fmt.Sprintf("%02x", byte(k)))
	}
}

func (p *keyPrinter) order() {
	switch k := OrderKind(p.take(1)[0]); k {
	case OrderLine:
		p.put("kind", "line")
		p.line()
	case OrderParked:
		p.put("kind", "parked")
		p.line()
		p.offset("offset")
	case OrderReady:
		p.put("kind", "ready")
		p.offset("since")
		p.line()
	case OrderTurn:
		p.put("kind", "turn")
		p.time("visible")
		p.line()
	default:
		p.bad = true
	}
}

func (p *keyPrinter) line() {
	p.queue()
	p.put("line", fmt.Sprintf("%016x", p.uint64()))
}

func (p *keyPrinter) short(name string) {
	n := int(binary.BigEndian.Uint16(p.take(2)))
	p.put(name, FormatText(p.take(n)))
}

func (p *keyPrinter) rest(name string) { p.put(name, FormatText(p.take(len(p.key)))) }

// FormatTime prints a time in ms exactly, in UTC; what lies outside the years 1970 to 9999 as a number.
func FormatTime(ms int64) string {
	const year10000 = 253_402_300_800_000
	if ms < 0 || ms >= year10000 {
		return strconv.FormatInt(ms, 10) + "ms"
	}
	return time.UnixMilli(ms).UTC().Format("2006-01-02T15:04:05.000Z")
}

// FormatText prints a name as it is when it has only letters, digits and a few signs, else quoted.
func FormatText(b []byte) string {
	for _, c := range b {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '=' || c == '\\' {
			return strconv.Quote(string(b))
		}
	}
	if len(b) == 0 {
		return `""`
	}
	return string(b)
}
