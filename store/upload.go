package store

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/tiered"
)

// A sealed segment goes to the tier as two objects, which are made as files beside the index first:
//
//	upload.log.new    the segment's bytes
//	upload.table.new  what became visible while it was written: the runs of queues, and the keys of its messages
//
// The table takes runs by their time: from that of the segment's first batch until that of the first batch behind it, which is when
// all before it has been applied. A run that shares that millisecond with the batch belongs to the next part.
const (
	uploadLog   = "upload.log" + newSuffix
	uploadTable = "upload.table" + newSuffix
)

// uploadChunk is how many bytes of a segment are read at once.
const uploadChunk = 1 << 20

// Upload puts the oldest sealed segment that the tier does not have into it; done is true when there is none. One call at a time.
func (s *Store) Upload(ctx context.Context) (part tiered.Part, done bool, err error) {
	seg, next, ok, err := s.nextUpload()
	if err != nil || !ok {
		return tiered.Part{}, !ok, err
	}
	u := &upload{s: s, from: seg.Follows, part: tiered.Part{Start: seg.Start, End: next.Follows, From: seg.Oldest, Until: next.Oldest}}
	defer func() { err = errors.Join(err, u.remove()) }()
	if err = u.write(ctx, uploadLog, u.bodies); err == nil {
		err = u.write(ctx, uploadTable, u.table)
	}
	if err == nil {
		part, err = u.put(ctx)
	}
	if err != nil {
		return part, false, fmt.Errorf("store: upload segment %s: %w", seg.Name, err)
	}
	return part, false, nil
}

// nextUpload finds the oldest sealed segment behind what the tier has, and the one that follows it, whose first batch has been applied.
func (s *Store) nextUpload() (seg, next commitlog.SegmentInfo, ok bool, err error) {
	segments, err := s.log.Segments()
	if err != nil {
		return seg, next, false, err
	}
	from := record.Position(0)
	if b, some := s.opts.Tier.Bounds(); some {
		from = b.End
	}
	applied := s.applied.Load().End
	for i, seg := range segments {
		if seg.Start < from || seg.Active {
			continue
		}
		next = segments[i+1]
		return seg, next, next.Oldest > 0 && applied > next.Start, nil
	}
	return seg, next, false, nil
}

// upload is one segment on its way to the tier.
type upload struct {
	s    *Store
	from record.Position // where the batch before the segment ends
	part tiered.Part
}

func (u *upload) path(name string) string { return u.s.opts.path(name) }

func (u *upload) remove() error {
	return errors.Join(u.s.opts.FS.RemoveAll(u.path(uploadLog)), u.s.opts.FS.RemoveAll(u.path(uploadTable)))
}

// write makes one of the files.
func (u *upload) write(ctx context.Context, name string, content func(context.Context, io.Writer) error) error {
	f, err := u.s.opts.FS.Create(u.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	return errors.Join(content(ctx, f), f.Close())
}

// bodies writes the bodies object.
func (u *upload) bodies(ctx context.Context, w io.Writer) error {
	out, err := tiered.NewBodiesWriter(w, u.part.Start)
	if err != nil {
		return err
	}
	var buf []byte
	for at := u.part.Start; at < u.part.End && err == nil; at += record.Position(len(buf)) {
		if err = ctx.Err(); err != nil {
			break
		}
		if buf, err = u.s.log.ReadRaw(at, int(min(uploadChunk, u.part.End-at)), buf[:0]); err == nil {
			_, err = out.Write(buf)
		}
	}
	sum, cerr := out.Close()
	u.part.LogBytes, u.part.LogCRC, u.part.LiveBytes = sum.Bytes, sum.CRC, u.part.RawBytes()
	return errors.Join(err, cerr)
}

// table writes the table object.
func (u *upload) table(ctx context.Context, w io.Writer) error {
	out := tiered.NewTableWriter(w)
	err := u.rows(ctx, out)
	sum, cerr := out.Close()
	u.part.TableBytes, u.part.TableCRC = sum.Bytes, sum.CRC
	return errors.Join(err, cerr)
}

func (u *upload) rows(ctx context.Context, out *tiered.TableWriter) error {
	keys, err := u.keys(ctx)
	if err != nil {
		return err
	}
	if err := out.AddKeys(keys); err != nil {
		return err
	}
	queues, err := u.queues()
	if err != nil {
		return err
	}
	ranges := make([]tiered.QueueRange, len(queues))
	for i, k := range queues {
		if err := ctx.Err(); err != nil {
			return err
		}
		if ranges[i], err = u.runs(out, k); err != nil {
			return err
		}
	}
	for i, k := range queues {
		if r := ranges[i]; r.Last >= r.First {
			if err := out.AddQueue(k.topic, k.queue, r); err != nil {
				return err
			}
			u.part.Messages += r.Last - r.First + 1
		}
	}
	return nil
}

// keys reads the segment once more, for the keys and unique ids of its messages.
func (u *upload) keys(ctx context.Context) (*tiered.KeyRows, error) {
	rows := tiered.NewKeyRows(u.part.Start)
	var props properties
	props.each = props.visit
	err := commitlog.Scan(u.s.opts.FS, u.s.opts.path(logFolder), u.from, func(b *commitlog.Batch) error {
		if b.Position >= u.part.End {
			return errReached
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		for i := range b.Records {
			r := &b.Records[i]
			if _, carries := headOf(r.Kind); !carries {
				continue
			}
			m, err := split(*r)
			if err != nil {
				return err
			}
			props.scan(message.PropertiesOf(m.layout))
			size := int32(commitlog.RecordSize(len(r.Payload)))
			props.eachKey(func(kind kvindex.IndexKind, hash uint64) {
				err = errors.Join(err, rows.Add(m.topic, kind, hash, b.Timestamp, b.Positions[i], size))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if errors.Is(err, errReached) {
		err = nil
	}
	return rows, err
}

// queues lists those that got messages in the hours of the part, in order.
func (u *upload) queues() ([]queueKey, error) {
	var all []queueKey
	for hour := kvindex.HourOf(u.part.From); hour <= kvindex.HourOf(u.part.Until); hour++ {
		for next := kvindex.AppendBucketKey(nil, hour, 0, 1); next != nil; {
			var some []queueKey
			var err error
			if some, next, err = u.s.bucketQueues(next, hour); err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
	}
	slices.SortFunc(all, func(a, b queueKey) int {
		return cmp.Or(cmp.Compare(a.topic, b.topic), cmp.Compare(a.queue, b.queue))
	})
	return slices.Compact(all), nil
}

// runs adds the runs of a queue that the part has, and returns what they are; Last is less than First when there are none.
func (u *upload) runs(out *tiered.TableWriter, k queueKey) (r tiered.QueueRange, err error) {
	r.Last = -1
	from, first, end, err := u.s.searchRuns(k.topic, k.queue, func(r run) bool { return r.timestamp >= u.part.From })
	if err != nil || first == end || from == end {
		return r, err
	}
	it, err := u.s.runsOf(k.topic, k.queue, from)
	if err != nil {
		return r, err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		last := lastOffset(it.Key())
		row, err := openRun(last, it.Value())
		if err != nil || row.timestamp >= u.part.Until {
			return r, err
		}
		if r.Last < r.First {
			r.First, r.FirstTime = row.first, row.timestamp
		}
		r.Last, r.LastTime = last, row.timestamp
		if err := out.AddRun(k.topic, k.queue, last, it.Value()); err != nil {
			return r, err
		}
	}
	return r, it.Error()
}

// put hands the files to the tier.
func (u *upload) put(ctx context.Context) (tiered.Part, error) {
	log, err := u.reader(uploadLog, u.part.LogBytes)
	if err != nil {
		return u.part, err
	}
	defer log.Close()
	table, err := u.reader(uploadTable, u.part.TableBytes)
	if err != nil {
		return u.part, err
	}
	defer table.Close()
	return u.s.opts.Tier.Add(ctx, u.part, log, table)
}

// section reads a file from its start.
type section struct {
	*io.SectionReader
	io.Closer
}

func (u *upload) reader(name string, size int64) (section, error) {
	f, err := u.s.opts.FS.Open(u.path(name))
	if err != nil {
		return section{}, err
	}
	return section{io.NewSectionReader(f, 0, size), f}, nil
}

// Offload notes that what became visible before a time (ms) is read from the tier from now on, as far as the tier has it, so that index
// and log need not have it.
func (s *Store) Offload(ctx context.Context, before int64) error {
	done, err := s.offloaded()
	if err != nil {
		return err
	}
	for _, p := range s.opts.Tier.Manifests().View().Parts {
		if p.Until > before {
			break
		}
		if p.End <= done.end {
			continue
		}
		if err := s.offload(ctx, &p); err != nil {
			return fmt.Errorf("store: offload the part at %d: %w", p.Start, err)
		}
	}
	return nil
}

// offloaded is the row of SpaceTier.
func (s *Store) offloaded() (offloadedTo, error) {
	val, ok, err := s.engine.Get(kvindex.AppendTierKey(nil), nil)
	if err != nil || !ok {
		return offloadedTo{}, err
	}
	return decodeOffloaded(bytes.Clone(val))
}

// offload proposes the records of one part.
func (s *Store) offload(ctx context.Context, p *tiered.Part) (err error) {
	o := &offload{part: p.Start}
	propose := func() error {
		_, err := s.Append(ctx, record.Record{Kind: record.KindOffload, Payload: encodeOffload(o)})
		o.queues = o.queues[:0]
		return err
	}
	queues := s.opts.Tier.Queues(ctx, p)
	defer func() { err = errors.Join(err, queues.Close()) }()
	for queues.Next() {
		topic, queue, r := queues.Row()
		o.queues = append(o.queues, offloaded{queueKey{topic, queue}, r.First, r.Last + 1, r.FirstTime, r.LastTime})
		if len(o.queues) == offloadChunk {
			if err := propose(); err != nil {
				return err
			}
		}
	}
	if err := queues.Close(); err != nil {
		return err
	}
	o.done = &offloadedTo{p.End, p.Until}
	return propose()
}
