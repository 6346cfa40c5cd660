package pop

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// All record payloads of this package begin with a form number, and are made of unsigned varints (uv) apart from nonces,
// which are 8 bytes, big-endian.
const recordForm = 1

// orderForm is that of a pop record of a group that is served in order.
const orderForm = 2

// MaxItems bounds what one pop, ack or extend record names, so that a Mask can say of each what became of it.
const MaxItems = 63

// Mask is the outcome of a pop, ack or extend record: bit i says that item i of the record was done.
type Mask int64

// MaskOf reads the mask of an outcome.
func MaskOf(o record.Outcome) Mask { return Mask(o.Offset) }

// Has says whether item i was done.
func (m Mask) Has(i int) bool { return m>>i&1 == 1 }

// Count is the number of items that were done.
func (m Mask) Count() int { return bits.OnesCount64(uint64(m)) }

func checkItems(n int) {
	if n > MaxItems {
		panic(fmt.Sprintf("pop: a record of %d items", n))
	}
}

// Pop is what one receive handed out to a group on a topic. The items of its outcome's Mask are Again, then Unparked, then Entries.
type Pop struct {
	Group, Topic kvindex.ID
	PoppedAt     int64 // ms
	VisibleAt    int64 // ms, of everything that was handed out
	Nonce        uint64
	// Again are expired checkpoints that are handed out again; they move to VisibleAt.
	Again []Ref
	// Dropped are expired checkpoints that are passed over for good: their message is gone, or not wanted any more.
	Dropped []Ref
	// Ranges are the offsets that the cursors move past, at most one range a queue; Entries are those of them that are
	// handed out, in the order of Ranges. What is not among the entries is passed over for good.
	Ranges  []Range
	Entries []Entry

	// Ordered: what is handed out is in order. Again are then the first of what is in flight of their lines; an entry whose line is
	// not free when the record is applied is parked instead, and is not done. Only so there is what follows.
	Ordered bool
	// Unparked are messages that waited and are handed out; of each line the first ones, in order.
	Unparked []Head
	// Discarded are messages that waited and are passed over for good.
	Discarded []Head
	// Parked are those of Ranges that have to wait in their lines, in the order of Ranges. Offsets rise within a range.
	Parked []Entry
}

// Range of offsets in a queue: it must begin where the group's cursor stands, or where the group has none yet.
type Range struct {
	Queue      int32
	Start, End int64
	Count      int // of Entries in this range
	Parked     int // of Pop.Parked in this range
}

// Entry is a message that is handed out for the first time. Offsets rise within a range.
type Entry struct {
	Offset   int64
	Position record.Position
	Size     int32  // of the log record, header included
	Line     uint64 // the ID of its line; 0 when the pop is not in order
}

// Reset empties p and keeps its memory.
func (p *Pop) Reset() {
	*p = Pop{
		Again: p.Again[:0], Dropped: p.Dropped[:0], Ranges: p.Ranges[:0], Entries: p.Entries[:0],
		Unparked: p.Unparked[:0], Discarded: p.Discarded[:0], Parked: p.Parked[:0],
	}
}

// Items is the number of messages that are handed out.
func (p *Pop) Items() int { return len(p.Again) + len(p.Unparked) + len(p.Entries) }

// Empty says that the record would change nothing.
func (p *Pop) Empty() bool {
	return len(p.Again) == 0 && len(p.Dropped) == 0 && len(p.Ranges) == 0 && len(p.Unparked) == 0 && len(p.Discarded) == 0
}

// Record makes the record. At most MaxItems messages are handed out, and times are not negative and in order: anything else
// is a broken invariant, and panics before it gets into the log.
func (p *Pop) Record() record.Record {
	size := 64 + 32*(len(p.Again)+len(p.Dropped)+len(p.Unparked)+len(p.Discarded)) + 24*len(p.Ranges) +
		16*len(p.Entries) + 24*len(p.Parked)
	return record.Record{Kind: record.KindPop, Payload: p.AppendTo(make([]byte, 0, size))}
}

// AppendTo appends the payload of the record. A ref is drawn at appendRef, a head at appendHeads; gap is the distance of an entry's
// offset from the offset after the entry before, or from the range's start.
//
//	┌─────────┬──────────┬──────────┬──────────────────┬─────────────────┬──────────┐
//	│ form 1  │ group uv │ topic uv │ popped at ms uv  │ invisible ms uv │ nonce 8  │
//	├─────────┴──┬───────┴─────────┬┴─────────────┬────┴────────────┬────┴──────────┤
//	│ again uv   │ ref × again     │ dropped uv   │ ref × dropped   │ ranges uv     │
//	├────────────┴┬───────────┬────┴──────┬───────┴───┬─────────────┴───────────────┤
//	│ queue uv    │ start uv  │ length uv │ count uv  │ (gap, position, size uv) ×  │ × ranges
//	└─────────────┴───────────┴───────────┴───────────┴─────────────────────────────┘
//
// Form 2 is of an ordered pop. Before the ranges it has heads, and the entries have lines and are followed by those that wait:
//
//	┌─────────────────┬────────────────┐
//	│ unparked: heads │ discarded: heads │
//	├─────────────────┴──┬─────────────┴───────────────┬───────────┬────────────────────────────────────┐
//	│ queue … count uv   │ (gap, position, size uv, line 8) × │ parked uv │ (gap, position, size uv, line 8) × │ × ranges
//	└────────────────────┴─────────────────────────────┴───────────┴────────────────────────────────────┘
func (p *Pop) AppendTo(dst []byte) []byte {
	checkItems(p.Items())
	if p.PoppedAt < 0 || p.VisibleAt < p.PoppedAt {
		panic(fmt.Sprintf("pop: a record popped at %d and visible at %d", p.PoppedAt, p.VisibleAt))
	}
	form := len(dst)
	dst = appendHead(dst, p.Group, p.Topic)
	dst = binary.AppendUvarint(dst, uint64(p.PoppedAt))
	dst = binary.AppendUvarint(dst, uint64(p.VisibleAt-p.PoppedAt))
	dst = binary.BigEndian.AppendUint64(dst, p.Nonce)
	dst = appendRefs(dst, p.Again)
	dst = appendRefs(dst, p.Dropped)
	if p.Ordered {
		dst[form] = orderForm
		dst = appendHeads(dst, p.Unparked)
		dst = appendHeads(dst, p.Discarded)
	}
	dst = binary.AppendUvarint(dst, uint64(len(p.Ranges)))
	entries, parked := p.Entries, p.Parked
	for i := range p.Ranges {
		r := &p.Ranges[i]
		dst = binary.AppendUvarint(dst, uint64(r.Queue))
		dst = binary.AppendUvarint(dst, uint64(r.Start))
		dst = binary.AppendUvarint(dst, uint64(r.End-r.Start))
		dst = appendEntries(dst, r.Start, entries[:r.Count], p.Ordered)
		entries = entries[r.Count:]
		if p.Ordered {
			dst = appendEntries(dst, r.Start, parked[:r.Parked], true)
			parked = parked[r.Parked:]
		}
	}
	return dst
}

func appendEntries(dst []byte, next int64, entries []Entry, ordered bool) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(entries)))
	for i := range entries {
		e := &entries[i]
		dst = binary.AppendUvarint(dst, uint64(e.Offset-next))
		dst = binary.AppendUvarint(dst, uint64(e.Position))
		dst = binary.AppendUvarint(dst, uint64(e.Size))
		if ordered {
			dst = binary.BigEndian.AppendUint64(dst, e.Line)
		}
		next = e.Offset + 1
	}
	return dst
}

func (p *Pop) decode(payload []byte) error {
	p.Reset()
	d := decode(payload)
	if p.Ordered = len(payload) > 0 && payload[0] == orderForm; p.Ordered {
		d.Byte()
		p.Group, p.Topic = d.ids()
	} else {
		p.Group, p.Topic = d.head()
	}
	p.PoppedAt = d.Number()
	p.VisibleAt = d.Number() + p.PoppedAt
	p.Nonce = d.Fixed()
	p.Again = d.refs(p.Again)
	p.Dropped = d.refs(p.Dropped)
	if p.Ordered {
		p.Unparked = d.heads(p.Unparked)
		p.Discarded = d.heads(p.Discarded)
	}
	for range d.Count(4) {
		r := Range{Queue: d.Number32(), Start: d.Number()}
		if r.End = r.Start + d.Number(); r.End < r.Start {
			d.Fail()
		}
		before := len(p.Entries)
		p.Entries = d.entries(p.Entries, &r, p.Ordered)
		r.Count = len(p.Entries) - before
		if p.Ordered {
			before = len(p.Parked)
			p.Parked = d.entries(p.Parked, &r, true)
			r.Parked = len(p.Parked) - before
		}
		p.Ranges = append(p.Ranges, r)
	}
	if p.VisibleAt < 0 || p.Items() > MaxItems {
		d.Fail()
	}
	return d.End()
}

// entries reads what appendEntries has written of a range.
func (d *decoder) entries(dst []Entry, r *Range, ordered bool) []Entry {
	least := 3
	if ordered {
		least += 8
	}
	next := r.Start
	for range d.Count(least) {
		e := Entry{Offset: next + d.Number(), Position: record.Position(d.Number()), Size: d.Number32()}
		if ordered {
			e.Line = d.Fixed()
		}
		if e.Offset < next || e.Offset >= r.End || ordered && e.Line == 0 {
			d.Fail()
		}
		next = e.Offset + 1
		dst = append(dst, e)
	}
	return dst
}

// Ack names checkpoints to be removed, at most MaxItems. They are the items of the outcome's Mask.
type Ack struct {
	Group, Topic kvindex.ID
	Refs         []Ref
}

// AckRecord makes the record of an acknowledgement.
//
//	┌─────────┬──────────┬──────────┬──────────┬────────────┐
//	│ form 1  │ group uv │ topic uv │ count uv │ ref × count│
//	└─────────┴──────────┴──────────┴──────────┴────────────┘
func AckRecord(a *Ack) record.Record {
	checkItems(len(a.Refs))
	dst := appendHead(make([]byte, 0, 24+32*len(a.Refs)), a.Group, a.Topic)
	return record.Record{Kind: record.KindAck, Payload: appendRefs(dst, a.Refs)}
}

func (a *Ack) decode(payload []byte) error {
	d := decode(payload)
	a.Group, a.Topic = d.head()
	a.Refs = d.refs(a.Refs[:0])
	if len(a.Refs) > MaxItems {
		d.Fail()
	}
	return d.End()
}

// Move is one checkpoint that becomes visible at another time.
type Move struct {
	Ref
	To int64 // ms
	// Free says that the delivery that ends with this does not count as an attempt.
	Free bool
	// Postponed says that the delivery ends with this: nobody has the message until it is visible again. Otherwise whoever has it
	// keeps it for longer.
	Postponed bool
}

// The flags of a move.
const (
	moveFree byte = 1 << iota
	movePostponed
	moveFlags // all are below
)

// Extend names checkpoints to be moved, at most MaxItems. They are the items of the outcome's Mask.
type Extend struct {
	Group, Topic kvindex.ID
	Moves        []Move
}

// ExtendRecord makes the record of a change of invisible time. Flags: 1 free, 2 postponed.
//
//	┌─────────┬──────────┬──────────┬──────────┬─────┬──────────┬──────────┐
//	│ form 1  │ group uv │ topic uv │ count uv │ ref │ to ms uv │ flags 1  │ ref, to and flags × count
//	└─────────┴──────────┴──────────┴──────────┴─────┴──────────┴──────────┘
func ExtendRecord(e *Extend) record.Record {
	checkItems(len(e.Moves))
	dst := appendHead(make([]byte, 0, 24+40*len(e.Moves)), e.Group, e.Topic)
	dst = binary.AppendUvarint(dst, uint64(len(e.Moves)))
	for i := range e.Moves {
		m := &e.Moves[i]
		dst = appendRef(dst, &m.Ref)
		dst = binary.AppendUvarint(dst, uint64(m.To))
		flags := byte(0)
		if m.Free {
			flags |= moveFree
		}
		if m.Postponed {
			flags |= movePostponed
		}
		dst = append(dst, flags)
	}
	return record.Record{Kind: record.KindExtend, Payload: dst}
}

func (e *Extend) decode(payload []byte) error {
	d := decode(payload)
	e.Group, e.Topic = d.head()
	e.Moves = e.Moves[:0]
	for range d.Count(leastRef + 2) {
		m := Move{Ref: d.ref(), To: d.Number()}
		flags := d.Byte()
		if flags >= moveFlags {
			d.Fail()
		}
		m.Free, m.Postponed = flags&moveFree != 0, flags&movePostponed != 0
		e.Moves = append(e.Moves, m)
	}
	if len(e.Moves) > MaxItems {
		d.Fail()
	}
	return d.End()
}

// Commit is one committed offset. A negative queue or offset is refused when it is applied.
type Commit struct {
	Group, Topic kvindex.ID
	Queue        int32
	Offset       int64
}

// CommitRecord sets committed offsets, and Next with them. Where that moves a cursor back, checkpoints at and above the
// offset are forgotten, because their messages are to be handed out anew.
//
//	┌─────────┬──────────┬──────────┬──────────┬──────────┬───────────┐
//	│ form 1  │ count uv │ group uv │ topic uv │ queue uv │ offset uv │ the last four × count
//	└─────────┴──────────┴──────────┴──────────┴──────────┴───────────┘
func CommitRecord(c []Commit) record.Record {
	return record.Record{Kind: record.KindCommit, Payload: appendCommits(c)}
}

// ResetRecord sets cursors like CommitRecord and forgets everything that is in flight in those queues. Its payload is the
// same.
func ResetRecord(c []Commit) record.Record {
	return record.Record{Kind: record.KindReset, Payload: appendCommits(c)}
}

// ForgetRecord takes the place of a group in a topic away: its cursors there, and all that it has in flight.
//
//	┌────────┬──────────┬──────────┐
//	│ form 1 │ group uv │ topic uv │
//	└────────┴──────────┴──────────┘
func ForgetRecord(group, topic kvindex.ID) record.Record {
	return record.Record{Kind: record.KindForget, Payload: appendHead(nil, group, topic)}
}

func decodeForget(payload []byte) (place, error) {
	d := decode(payload)
	group, topic := d.head()
	return place{group, topic}, d.End()
}

func appendCommits(commits []Commit) []byte {
	dst := append(make([]byte, 0, 8+16*len(commits)), recordForm)
	dst = binary.AppendUvarint(dst, uint64(len(commits)))
	for i := range commits {
		c := &commits[i]
		dst = binary.AppendUvarint(dst, uint64(c.Group))
		dst = binary.AppendUvarint(dst, uint64(c.Topic))
		dst = binary.AppendUvarint(dst, uint64(uint32(c.Queue)))
		dst = binary.AppendUvarint(dst, uint64(c.Offset))
	}
	return dst
}

func decodeCommits(payload []byte, dst []Commit) ([]Commit, error) {
	d := decode(payload)
	d.form()
	for range d.Count(4) {
		c := Commit{Group: kvindex.ID(d.Uvarint()), Topic: kvindex.ID(d.Uvarint())}
		queue := d.Uvarint()
		if queue > 1<<32-1 {
			d.Fail()
		}
		c.Queue, c.Offset = int32(uint32(queue)), int64(d.Uvarint())
		dst = append(dst, c)
	}
	return dst, d.End()
}

// ---- parts ----

func appendHead(dst []byte, group, topic kvindex.ID) []byte {
	dst = append(dst, recordForm)
	dst = binary.AppendUvarint(dst, uint64(group))
	return binary.AppendUvarint(dst, uint64(topic))
}

func (d *decoder) form() {
	if d.Byte() != recordForm {
		d.Fail()
	}
}

func (d *decoder) head() (group, topic kvindex.ID) {
	d.form()
	return d.ids()
}

func (d *decoder) ids() (group, topic kvindex.ID) {
	return kvindex.ID(d.Uvarint()), kvindex.ID(d.Uvarint())
}

const leastRef = 11

// appendRef names a checkpoint.
//
//	┌──────────────────┬──────────┬───────────┬──────────┐
//	│ visible at ms uv │ queue uv │ offset uv │ nonce 8  │
//	└──────────────────┴──────────┴───────────┴──────────┘
func appendRef(dst []byte, r *Ref) []byte {
	dst = binary.AppendUvarint(dst, uint64(r.VisibleAt))
	dst = binary.AppendUvarint(dst, uint64(r.Queue))
	dst = binary.AppendUvarint(dst, uint64(r.Offset))
	return binary.BigEndian.AppendUint64(dst, r.Nonce)
}

func (d *decoder) ref() Ref {
	return Ref{VisibleAt: d.Number(), Queue: d.Number32(), Offset: d.Number(), Nonce: d.Fixed()}
}

func appendRefs(dst []byte, refs []Ref) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(refs)))
	for i := range refs {
		dst = appendRef(dst, &refs[i])
	}
	return dst
}

func (d *decoder) refs(dst []Ref) []Ref {
	for range d.Count(leastRef) {
		dst = append(dst, d.ref())
	}
	return dst
}

const leastHead = 11

// appendHeads names messages that wait in their lines.
//
//	┌──────────┬──────────┬─────────┬──────────┬───────────┐
//	│ heads uv │ queue uv │ line 8  │ since uv │ offset uv │ the last four × heads
//	└──────────┴──────────┴─────────┴──────────┴───────────┘
func appendHeads(dst []byte, heads []Head) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(heads)))
	for i := range heads {
		h := &heads[i]
		dst = binary.AppendUvarint(dst, uint64(h.Queue))
		dst = binary.BigEndian.AppendUint64(dst, h.ID)
		dst = binary.AppendUvarint(dst, uint64(h.Since))
		dst = binary.AppendUvarint(dst, uint64(h.Offset))
	}
	return dst
}

func (d *decoder) heads(dst []Head) []Head {
	for range d.Count(leastHead) {
		h := Head{Line: Line{Queue: d.Number32(), ID: d.Fixed()}, Since: d.Number(), Offset: d.Number()}
		if h.ID == 0 {
			d.Fail()
		}
		dst = append(dst, h)
	}
	return dst
}
