package broker

import (
	"errors"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// sifting is a look of a pull whose filter needs the properties of the messages: it reads them all, and keeps those that match.
//
//	queue, some entries at a time ─▶ read behind what is kept ─▶ those that match move up, the others are written over
type sifting struct {
	p      *pull
	res    *PullResult
	buf    *store.Buffer
	kept   int // bytes of buf
	ends   []int
	budget int
	full   bool // the next message that matches has no room any more
}

// sift answers what matches from the wanted offset on, and sets NextOffset behind what it looked at.
func (p *pull) sift(t *catalog.Topic, res *PullResult, s *pullScratch) error {
	f := &sifting{p: p, res: res, buf: store.NewBuffer(), budget: maxSift}
	err := f.all(t, s)
	f.buf.B = f.buf.B[:f.kept]
	if len(f.ends) > 0 { // what is wrong behind them is the next pull's
		res.Status, res.Buffer, res.Ends = PullFound, f.buf, f.ends
		return nil
	}
	f.buf.Release()
	if err != nil && res.NextOffset == p.req.Offset {
		return err
	}
	return p.noneMatched(t, res)
}

// all looks at entries until there is enough, as far as the bounds of one look allow. The fewer match, the more it reads at once.
func (f *sifting) all(t *catalog.Topic, s *pullScratch) (err error) {
	chunk := f.p.mostMessages()
	for scanned := 0; scanned < maxScan && f.res.NextOffset < f.res.Max && !f.over(); scanned += len(s.entries) {
		s.entries, err = f.p.b.reader(f.p.cold).Entries(t.ID, f.p.req.QueueID, f.res.NextOffset, chunk, s.entries[:0])
		if err != nil || len(s.entries) == 0 {
			return err
		}
		for rest := s.entries; len(rest) > 0 && !f.over(); {
			looked, err := f.some(rest)
			if err != nil {
				return err
			}
			rest = rest[looked:]
		}
		chunk = min(2*chunk, scanChunk)
	}
	f.res.Max = max(f.res.Max, f.res.NextOffset) // more may have come since the bounds were read
	return nil
}

func (f *sifting) over() bool {
	return f.full || f.budget <= 0 || len(f.ends) == f.p.mostMessages()
}

// some reads entries, as many as fit at once, and answers how many it has dealt with.
func (f *sifting) some(entries []store.Entry) (looked int, err error) {
	f.buf.B = f.buf.B[:f.kept]
	ends, err := f.p.b.reader(f.p.cold).ReadMessages(entries, maxPullBytes, f.buf)
	if errors.Is(err, commitlog.ErrGone) { // its segment was deleted: go on behind it
		f.res.NextOffset = entries[0].Offset + 1
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	begin := f.kept
	for i, end := range ends {
		if f.over() {
			return i, nil
		}
		layout := f.buf.B[begin:end]
		props := message.PropertiesOf(layout)
		f.budget -= len(layout) + f.p.req.Filter.Work(len(props))
		if f.p.req.Filter.Match(props) {
			if f.full = len(f.ends) > 0 && f.kept+len(layout) > f.p.mostBytes(); f.full {
				return i, nil
			}
			f.kept += copy(f.buf.B[f.kept:], layout)
			f.ends = append(f.ends, f.kept)
			f.res.LastStoreTime = entries[i].StoreTime
		}
		f.res.NextOffset = entries[i].Offset + 1
		begin = end
	}
	return len(ends), nil
}
