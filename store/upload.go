package store

import (
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
// Of topics that the tier is not to have it gets neither: their messages are cleared in the first (message.Clear), so that it is the log
// still, and left out of the second. Those that wait are in the first until nothing needs them, since they may wait for longer than
// the log has them.
//
// The table takes runs by their time: from that of the segment's first batch until that of the first batch behind it, which is when
// all before it has been applied. A run that shares that millisecond with the batch belongs to the next part.
var uploadFiles = partFiles{logFile: "upload.log" + newSuffix, tableFile: "upload.table" + newSuffix}

// uploadChunk is how many bytes of a segment are read at once.
const uploadChunk = 1 << 20

// Upload puts the oldest sealed segment that the tier does not have into it; done is true when there is none. One call at a time.
func (s *Store) Upload(ctx context.Context) (part tiered.Part, done bool, err error) {
	seg, next, ok, err := s.nextUpload()
	if err != nil || !ok {
		return tiered.Part{}, !ok, err
	}
	u := &upload{
		partFiles: uploadFiles.of(s), from: seg.Follows, topics: tierTopics{s: s}, bytes: map[queueKey]int64{},
		part: tiered.Part{Start: seg.Start, End: next.Follows, From: seg.Oldest, Until: next.Oldest},
	}
	defer func() { err = errors.Join(err, u.remove()) }()
	if err = u.scan(ctx); err == nil {
		err = u.write(ctx, u.logFile, u.bodies)
	}
	if err == nil {
		err = u.write(ctx, u.tableFile, u.table)
	}
	if err == nil {
		part, err = u.put(ctx, func(log, table io.ReadSeeker) (tiered.Part, error) {
			return s.opts.Tier.Add(ctx, u.part, log, table)
		})
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
	done, err := s.offloaded()
	if err != nil {
		return seg, next, false, err
	}
	from := done.end // what the tier had, and retention took
	if b, some := s.opts.Tier.Bounds(); some {
		from = max(from, b.End)
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
	partFiles
	from   record.Position // where the batch before the segment ends
	part   tiered.Part
	topics tierTopics
	keys   *tiered.KeyRows
	bytes  map[queueKey]int64 // of records, of queues that the tier is to have
	clears int64              // bytes of records that it is not to have
}

// partFiles are the two files of a part that is being made, by name.
type partFiles struct {
	s                  *Store
	logFile, tableFile string
}

func (f partFiles) of(s *Store) partFiles {
	f.s = s
	return f
}

func (f *partFiles) path(name string) string { return f.s.opts.path(name) }

func (f *partFiles) remove() error {
	return errors.Join(f.s.opts.FS.RemoveAll(f.path(f.logFile)), f.s.opts.FS.RemoveAll(f.path(f.tableFile)))
}

// write makes one of the files.
func (f *partFiles) write(ctx context.Context, name string, content func(context.Context, io.Writer) error) error {
	file, err := f.s.opts.FS.Create(f.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	return errors.Join(content(ctx, file), file.Close())
}

// put hands the files to the tier.
func (f *partFiles) put(ctx context.Context, to func(log, table io.ReadSeeker) (tiered.Part, error)) (p tiered.Part, err error) {
	log, err := f.open(f.logFile)
	if err != nil {
		return p, err
	}
	defer log.Close()
	table, err := f.open(f.tableFile)
	if err != nil {
		return p, err
	}
	defer table.Close()
	return to(log, table)
}

// section reads a file from its start.
type section struct {
	*io.SectionReader
	io.Closer
}

func (f *partFiles) open(name string) (section, error) {
	file, err := f.s.opts.FS.Open(f.path(name))
	if err != nil {
		return section{}, err
	}
	info, err := file.Stat()
	if err != nil {
		return section{}, errors.Join(err, file.Close())
	}
	return section{io.NewSectionReader(file, 0, info.Size()), file}, nil
}

// bodies writes the bodies object.
func (u *upload) bodies(ctx context.Context, w io.Writer) error {
	out, err := tiered.NewBodiesWriter(w, u.part.Start)
	if err != nil {
		return err
	}
	raw := &logReader{s: u.s, ctx: ctx, at: u.part.Start, end: u.part.End}
	if u.clears == 0 {
		_, err = io.CopyBuffer(struct{ io.Writer }{out}, raw, make([]byte, uploadChunk))
	} else {
		err = commitlog.Edit(raw, out, u.part.Start, u.part.End, u.clear)
	}
	sum, cerr := out.Close()
	u.part.LogBytes, u.part.LogCRC, u.part.LiveBytes = sum.Bytes, sum.CRC, u.part.RawBytes()-u.clears
	return errors.Join(err, cerr)
}

// logReader reads the log's bytes in order.
type logReader struct {
	s       *Store
	ctx     context.Context
	at, end record.Position
}

// Read implements io.Reader.
func (r *logReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if r.at == r.end {
		return 0, io.EOF
	}
	raw, err := r.s.log.ReadRaw(r.at, min(len(p), int(r.end-r.at)), p[:0])
	if err != nil {
		return 0, err
	}
	r.at += record.Position(len(raw))
	return copy(p, raw), nil
}

// clear clears the messages of a batch that the tier is not to have.
func (u *upload) clear(b *commitlog.Batch) (changed bool, err error) {
	err = eachMessage(b, func(at record.Position, size int32, m *stored) error {
		keep, err := u.keeps(b, m)
		if err == nil && !keep && !message.Cleared(m.layout) {
			message.Clear(m.layout)
			changed = true
		}
		return err
	})
	return changed, err
}

// keeps says whether the tier is to have a message: its topic, one that waits, or one that stays here longer than its segment, as it
// came with the time at which the part ends.
func (u *upload) keeps(b *commitlog.Batch, m *stored) (bool, error) {
	if !m.settled(b.Timestamp) || b.Timestamp >= u.part.Until {
		return true, nil
	}
	return u.topics.keeps(m.topic)
}

// eachMessage calls f for the records of a batch that carry a message, with their positions and sizes.
func eachMessage(b *commitlog.Batch, f func(at record.Position, size int32, m *stored) error) error {
	for i := range b.Records {
		r := &b.Records[i]
		if _, carries := headOf(r.Kind); !carries {
			continue
		}
		m, err := split(*r)
		if err == nil {
			err = f(b.Positions[i], int32(commitlog.RecordSize(len(r.Payload))), &m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// table writes the table object.
func (u *upload) table(ctx context.Context, w io.Writer) error {
	return writeTable(w, &u.part, func(out *tiered.TableWriter) error { return u.rows(ctx, out) })
}

// writeTable writes a table with the rows, and notes its size and checksum in part.
func writeTable(w io.Writer, part *tiered.Part, rows func(*tiered.TableWriter) error) error {
	out := tiered.NewTableWriter(w)
	err := rows(out)
	sum, cerr := out.Close()
	part.TableBytes, part.TableCRC = sum.Bytes, sum.CRC
	return errors.Join(err, cerr)
}

func (u *upload) rows(ctx context.Context, out *tiered.TableWriter) error {
	if err := out.AddKeys(u.keys); err != nil {
		return err
	}
	queues, err := u.s.queuesBetween(u.part.From, u.part.Until)
	if err != nil {
		return err
	}
	queues = slices.DeleteFunc(queues, func(k queueKey) bool {
		keep, kerr := u.topics.keeps(k.topic)
		err = errors.Join(err, kerr)
		return !keep
	})
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

// scan reads the segment for the keys and unique ids of its messages, and for whose they are.
func (u *upload) scan(ctx context.Context) error {
	u.keys = tiered.NewKeyRows(u.part.Start)
	var props properties
	props.each = props.visit
	err := commitlog.Scan(u.s.opts.FS, u.s.opts.path(logFolder), u.from, func(b *commitlog.Batch) error {
		if b.Position >= u.part.End {
			return errReached
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		return eachMessage(b, func(at record.Position, size int32, m *stored) error {
			keep, err := u.keeps(b, m)
			if err != nil || !keep {
				u.clears += int64(size)
				return err
			}
			u.bytes[m.queue()] += int64(size)
			if keep, err = u.topics.keeps(m.topic); err != nil || !keep {
				return err
			}
			return addKeys(u.keys, &props, b.Timestamp, at, size, m)
		})
	})
	if errors.Is(err, errReached) {
		err = nil
	}
	return err
}

// addKeys adds the rows of a message's keys and unique id.
func addKeys(rows *tiered.KeyRows, props *properties, timestamp int64, at record.Position, size int32, m *stored) (err error) {
	props.scan(message.PropertiesOf(m.layout))
	props.eachKey(func(kind kvindex.IndexKind, hash uint64) {
		err = errors.Join(err, rows.Add(m.topic, kind, hash, timestamp, at, size))
	})
	return err
}

// queuesBetween lists the queues that got messages in the hours from one time to another (ms), in order.
func (s *Store) queuesBetween(from, until int64) ([]queueKey, error) {
	var all []queueKey
	for hour := kvindex.HourOf(from); hour <= kvindex.HourOf(until); hour++ {
		for next := kvindex.AppendBucketKey(nil, hour, 0, 1); next != nil; {
			var some []queueKey
			var err error
			if some, next, err = s.bucketQueues(next, hour); err != nil {
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
	r.Last, r.Bytes = -1, u.bytes[k]
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
