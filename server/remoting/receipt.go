package remoting

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
)

// Receipts of the Remoting protocol. The broker does not write them: the client puts one together for every message that it has
// popped, from what the answer says of all of them, and sends it back as the field extraInfo of an acknowledgement or of a
// change of the invisible time (property POP_CK; ExtraInfoUtil of the Java client):
//
//	┌──────────────┬──────────┬──────────────┬──────────────┬─────────┬─────────────┬──────────┬──────────────┐
//	│ start offset │ pop time │ invisible ms │ revive queue │ retry 0 │ broker name │ queue id │ queue offset │  blanks between
//	└──────────────┴──────────┴──────────────┴──────────────┴─────────┴─────────────┴──────────┴──────────────┘
//
// That has to name a checkpoint here: group and topic are fields of the request, queue and offset too, the time at which the
// message is visible again is pop time + invisible time; the nonce travels as the revive queue, which means nothing here. It is
// the one number that survives all ways of a receipt: an acknowledgement of many in one body (BatchAck) counts offsets from the
// start offset, and after a change of the invisible time the client puts the message's own offset in place of the start offset.
// To Java the revive queue is an int, so the nonce has 31 bits (broker.PopRequest.ShortNonce).
//
// A receipt of another group or topic names no checkpoint, unless all of these numbers agree; one that is spent or late names
// none any more.
type receipt struct {
	poppedAt  int64 // ms
	invisible int64 // ms
	nonce     int64 // below 1<<31
}

// retryNormal is the kind of topic of all receipts: a message is handed out again where it is, there are no retry topics of POP.
const retryNormal = "0"

const (
	maxNonce      = math.MaxInt32
	receiptFields = 8
)

// receiptOf is what the client has to be told of a handle.
func receiptOf(h *pop.Handle) receipt {
	return receipt{poppedAt: h.PoppedAt, invisible: h.VisibleAt - h.PoppedAt, nonce: int64(h.Nonce)}
}

// addTo adds the fields that a client makes receipts of.
func (r receipt) addTo(f *wire.Fields) {
	f.AddInt("popTime", r.poppedAt)
	f.AddInt("invisibleTime", r.invisible)
	f.AddInt("reviveQid", r.nonce)
}

// handle is the broker's handle of the message at a place, if there can be one.
func (r receipt) handle(group, topic kvindex.ID, queue int32, offset int64) (h pop.Handle, ok bool) {
	if queue < 0 || offset < 0 || r.poppedAt < 0 || r.invisible < 0 || r.invisible > math.MaxInt64-r.poppedAt ||
		r.nonce < 0 || r.nonce > maxNonce {
		return h, false
	}
	return pop.Handle{
		Group: group, Topic: topic, Queue: queue, Offset: offset,
		PoppedAt: r.poppedAt, VisibleAt: r.poppedAt + r.invisible, Nonce: uint64(r.nonce),
	}, true
}

// parseReceipt reads the field extraInfo of a request. Queue and offset come as fields of their own.
func parseReceipt(extraInfo string) (r receipt, err error) {
	if n := strings.Count(extraInfo, " ") + 1; n != receiptFields {
		return receipt{}, &unreadable{fmt.Sprintf("extraInfo has %d fields: %q", n, extraInfo)}
	}
	_, rest, _ := strings.Cut(extraInfo, " ")
	for _, to := range []*int64{&r.poppedAt, &r.invisible, &r.nonce} {
		var field string
		field, rest, _ = strings.Cut(rest, " ")
		if *to, err = strconv.ParseInt(field, 10, 64); err != nil {
			return receipt{}, &unreadable{fmt.Sprintf("extraInfo: %q is no number in %q", field, extraInfo)}
		}
	}
	return r, nil
}

// popped is what of an answer makes receipts.
type popped struct {
	receipt
	places []popPlace // of the messages, by queue and offset
}

type popPlace struct {
	queue  int32
	offset int64
}

// poppedOf takes the handles of an answer apart. They differ in queue and offset only, since one record has handed them out.
func poppedOf(res *broker.PopResult) (p popped, err error) {
	p.places = make([]popPlace, 0, len(res.Handles))
	for i := range res.Handles {
		h := &res.Handles[i]
		if i == 0 {
			p.receipt = receiptOf(h)
		}
		if receiptOf(h) != p.receipt || p.nonce > maxNonce {
			return p, refuse(wire.SystemError, "the handles of one answer cannot share a receipt")
		}
		p.places = append(p.places, popPlace{h.Queue, h.Offset})
	}
	slices.SortFunc(p.places, func(a, b popPlace) int {
		return cmp.Or(cmp.Compare(a.queue, b.queue), cmp.Compare(a.offset, b.offset))
	})
	return p, nil
}

// offsets makes the two fields that tell the offsets by queue: startOffsetInfo, the first one of each, and msgOffsetInfo, all:
//
//	0 2 17;0 3 5          0 2 17,18,21;0 3 5
func (p *popped) offsets() (start, all string) {
	var s, a []byte
	queue := int32(-1)
	for _, at := range p.places {
		if at.queue == queue {
			a = strconv.AppendInt(append(a, ','), at.offset, 10)
			continue
		}
		queue = at.queue
		s, a = appendPlace(s, at), appendPlace(a, at)
	}
	return string(s), string(a)
}

func appendPlace(dst []byte, at popPlace) []byte {
	if len(dst) > 0 {
		dst = append(dst, ';')
	}
	dst = append(append(dst, retryNormal...), ' ')
	dst = append(strconv.AppendInt(dst, int64(at.queue), 10), ' ')
	return strconv.AppendInt(dst, at.offset, 10)
}
