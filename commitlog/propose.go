package commitlog

import (
	"context"
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
)

// Propose queues p. It never blocks: ErrBusy (pending bound), ErrDiskFull (read-only until space is back), ErrFailed
// (fail-stop, wraps the cause), ErrClosed, ErrTooLarge. After nil, p is the log's until Done is called.
func (l *Log) Propose(p *Proposal) error {
	size := 0
	for i := range p.Records {
		size += RecordSize(len(p.Records[i].Payload))
	}
	if int64(size) > min(l.opts.MaxPending, MaxProposal) {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, size)
	}
	p.size = size

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.phase != phaseStarted {
		return ErrClosed
	}
	if err := l.refusalLocked(); err != nil {
		if l.mu.full && l.now()-l.mu.probed >= probeGap.Milliseconds() {
			l.wakePreparer()
		}
		return err
	}
	if l.mu.pending+int64(size) > l.opts.MaxPending {
		return ErrBusy
	}
	l.mu.pending += int64(size)
	l.mu.queue.push(p)
	if l.worthWritingLocked() {
		l.mu.toWrite.Signal()
	}
	return nil
}

// Append proposes recs as one proposal and waits for them to be applied; its error is the proposal's. When ctx ends
// first, the records may still be applied later, and belong to the log until then.
func (l *Log) Append(ctx context.Context, recs []record.Record) (*Proposal, error) {
	done := make(chan struct{})
	p := &Proposal{Records: recs, Done: func(*Proposal) { close(done) }}
	if err := l.Propose(p); err != nil {
		return nil, err
	}
	select {
	case <-done:
		return p, p.Err
	case <-ctx.Done():
		return nil, fmt.Errorf("commitlog: append: %w", ctx.Err())
	}
}

// queue holds proposals in the order in which they came.
type queue struct {
	items []*Proposal
	head  int
	bytes int
}

func (q *queue) len() int { return len(q.items) - q.head }

func (q *queue) push(p *Proposal) {
	if q.head > 0 && len(q.items) == cap(q.items) {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, p)
	q.bytes += p.size
}

// take appends to dst the proposals at the front that have one time and take at most limit bytes together, at least one, and says
// how many bytes they take.
func (q *queue) take(limit int, dst []*Proposal) (_ []*Proposal, bytes int) {
	n := q.head
	for n < len(q.items) && (n == q.head || bytes+q.items[n].size <= limit && q.items[n].At == q.items[q.head].At) {
		bytes += q.items[n].size
		n++
	}
	dst = append(dst, q.items[q.head:n]...)
	clear(q.items[q.head:n])
	q.head = n
	q.bytes -= bytes
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return dst, bytes
}

// giveUp tells proposals that they failed. Not to be called with the lock held.
func (l *Log) giveUp(proposals []*Proposal, err error) {
	bytes := 0
	for _, p := range proposals {
		bytes += p.size
		p.Err = err
		p.Positions, p.Outcomes, p.Timestamp = nil, nil, 0
		p.Done(p)
	}
	l.mu.Lock()
	l.mu.pending -= int64(bytes)
	l.mu.Unlock()
}
