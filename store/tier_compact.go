package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/txn"
)

var compactFiles = partFiles{logFile: "compact.log" + newSuffix, tableFile: "compact.table" + newSuffix}

// Compact makes one part of the tier anew of which less than half is wanted; done is true when there is none. The messages that nobody
// wants are cleared in it and left out of its table. The old objects stay until they are collected as orphans, for who reads them. One
// call at a time. It costs a read and an upload of what the part has.
func (s *Store) Compact(ctx context.Context) (part tiered.Part, done bool, err error) {
	old, ok, err := s.nextCompaction()
	if err != nil || !ok {
		return tiered.Part{}, !ok, err
	}
	c := &compaction{
		partFiles: compactFiles.of(s), old: old, part: old,
		live: map[queueKey]*liveQueue{}, late: map[queueKey]bool{}, pinned: map[record.Position]bool{},
	}
	defer func() { err = errors.Join(err, c.remove()) }()
	err = c.survey(ctx)
	if err == nil {
		err = c.pin()
	}
	if err == nil {
		err = c.write(ctx, c.logFile, c.bodies)
	}
	if err == nil {
		err = c.write(ctx, c.tableFile, c.table)
	}
	if err == nil {
		part, err = c.put(ctx, func(log, table io.ReadSeeker) (tiered.Part, error) {
			return s.opts.Tier.Replace(ctx, old, c.part, log, table)
		})
	}
	var damage *tiered.DamageError
	if errors.As(err, &damage) {
		s.opts.Logger.Error().Err(err).Msg("a part of the tier cannot be compacted, and stays as it is")
		s.tier.leave(old.Start)
		return old, false, nil
	}
	if err != nil {
		return part, false, fmt.Errorf("store: compact the part of the tier at %d: %w", old.Start, err)
	}
	s.opts.Logger.Info().Int64("position", int64(old.Start)).Int64("bytes", part.LogBytes+part.TableBytes).
		Int64("before", old.LogBytes+old.TableBytes).Msg("a part of the tier was compacted")
	return part, false, nil
}

// leave forgets that a part is to be compacted, until it is looked at again.
func (t *tierState) leave(start record.Position) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := t.looks[start]
	seen.compact = false
	t.looks[start] = seen
}

// nextCompaction finds the first part of which less than half was wanted when it was looked at. One that is so new that timers which are
// not listed may need it waits.
func (s *Store) nextCompaction() (p tiered.Part, ok bool, err error) {
	view := s.opts.Tier.Manifests().View()
	if !s.opts.Tier.Manifests().Owned() {
		return p, false, nil
	}
	before, err := s.settledBefore(s.opts.Clock.Now().UnixMilli())
	if err != nil {
		return p, false, err
	}
	s.tier.mu.Lock()
	defer s.tier.mu.Unlock()
	for _, p := range view.Parts {
		seen := s.tier.looks[p.Start]
		if seen.compact && seen.generation == p.Generation && p.Until < before && restorable(view, p.End) {
			return p, true, nil
		}
	}
	return p, false, nil
}

// compaction is one part that is made anew.
type compaction struct {
	partFiles
	old, part tiered.Part
	live      map[queueKey]*liveQueue  // those of which the table has something that is there
	order     []queueKey               // of these, in the table's order
	late      map[queueKey]bool        // whether entries are there that may need a message which waited
	pinned    map[record.Position]bool // needed by timers and half messages
	keys      *tiered.KeyRows
	clears    int64 // bytes of records that are cleared
}

// liveQueue is what the table has of a queue, as far as it is there.
type liveQueue struct {
	tiered.QueueRange
	from record.Position // the messages before it that did not wait are gone
}

// survey finds the queues of which something is there.
func (c *compaction) survey(ctx context.Context) (err error) {
	queues := c.s.opts.Tier.Queues(ctx, &c.old)
	defer func() { err = errors.Join(err, queues.Close()) }()
	for queues.Next() {
		topic, queue, r := queues.Row()
		k := queueKey{topic, queue}
		q, there, err := c.s.boundsThere(k)
		if err != nil {
			return err
		}
		if !there || q.min > r.Last {
			continue
		}
		l := &liveQueue{QueueRange: r}
		l.Bytes = 0
		if q.min > r.First {
			l.First = q.min
			if err := c.cut(ctx, k, l); err != nil {
				return err
			}
		}
		c.live[k] = l
		c.order = append(c.order, k)
	}
	return queues.Close()
}

// boundsThere are the bounds of a queue; there is false when its topic was deleted.
func (s *Store) boundsThere(k queueKey) (q bounds, there bool, err error) {
	if _, there, err = s.tierRetention(k.topic); err != nil || !there {
		return bounds{}, false, err
	}
	q, err = s.boundsOf(k)
	return q, true, err
}

// cut finds from where on in the part, and from which time on, the rest of a queue is whose front was trimmed.
func (c *compaction) cut(ctx context.Context, k queueKey, l *liveQueue) error {
	l.from, l.FirstTime = math.MaxInt64, math.MaxInt64
	return c.eachRun(ctx, k, l, func(last int64, row []byte) error {
		entries, err := appendEntries(nil, last, row, l.First, runEntries)
		for _, e := range entries {
			if e.Position >= c.old.Start {
				l.from = min(l.from, e.Position)
			}
			l.FirstTime = min(l.FirstTime, e.StoreTime)
		}
		return err
	})
}

// eachRun calls f for the runs of a queue that the table has, as far as they are there.
func (c *compaction) eachRun(ctx context.Context, k queueKey, l *liveQueue, f func(last int64, row []byte) error) (err error) {
	runs := c.s.opts.Tier.RunsFrom(ctx, c.old.Start, k.topic, k.queue, l.First)
	defer func() { err = errors.Join(err, runs.Close()) }()
	for runs.Next() && runs.Last() <= l.Last {
		if err := f(runs.Last(), runs.Value()); err != nil {
			return err
		}
		if runs.Last() == l.Last {
			break
		}
	}
	return nil
}

// pin finds the messages that timers and half messages need.
func (c *compaction) pin() error {
	var points []record.Position
	first := kvindex.HourOf(c.old.From)
	err := c.s.eachLongTimer(first, kvindex.HourOf(c.old.Until)+1, func(at record.Position) {
		points = append(points, at)
	})
	if err != nil {
		return err
	}
	for _, parked := range []bool{false, true} {
		err := c.s.Txn.Each(parked, c.old.Start, func(h *txn.Half) bool {
			points = append(points, h.Position)
			return h.Position < c.old.End
		})
		if err != nil {
			return err
		}
	}
	for _, at := range points {
		if at >= c.old.Start && at < c.old.End {
			c.pinned[at] = true
		}
	}
	return nil
}

// bodies writes the bodies object.
func (c *compaction) bodies(ctx context.Context, w io.Writer) error {
	out, err := tiered.NewBodiesWriter(w, c.old.Start)
	if err != nil {
		return err
	}
	c.keys = tiered.NewKeyRows(c.old.Start)
	var props properties
	props.each = props.visit
	err = commitlog.Edit(c.s.opts.Tier.Bodies(ctx, &c.old), out, c.old.Start, c.old.End, func(b *commitlog.Batch) (bool, error) {
		changed := false
		err := eachMessage(b, func(at record.Position, size int32, m *stored) error {
			cleared := message.Cleared(m.layout)
			wanted, err := c.wants(b, at, m)
			switch {
			case err != nil:
				return err
			case cleared, !wanted:
				c.clears += int64(size)
				if !cleared {
					message.Clear(m.layout)
					changed = true
				}
				return nil
			}
			if l := c.live[m.queue()]; l != nil {
				l.Bytes += int64(size)
			}
			return addKeys(c.keys, &props, b.Timestamp, at, size, m)
		})
		return changed, err
	})
	sum, cerr := out.Close()
	c.part.LogBytes, c.part.LogCRC, c.part.LiveBytes = sum.Bytes, sum.CRC, c.old.RawBytes()-c.clears
	return errors.Join(err, cerr)
}

// wants says whether a message is to stay.
func (c *compaction) wants(b *commitlog.Batch, at record.Position, m *stored) (bool, error) {
	if c.pinned[at] {
		return true, nil
	}
	k := m.queue()
	if m.settled(b.Timestamp) && b.Timestamp < c.old.Until {
		l := c.live[k]
		return l != nil && at >= l.from, nil
	}
	// What waited has its entry elsewhere, and so may have what came with the time at which the part ends.
	late, known := c.late[k]
	if !known {
		var err error
		if late, err = c.s.beginsBefore(k, c.old.Until+c.s.opts.horizon.Milliseconds()); err != nil {
			return false, err
		}
		c.late[k] = late
	}
	return late, nil
}

// beginsBefore says whether a queue has, or may have, an entry that became visible at a time (ms) or before it.
func (s *Store) beginsBefore(k queueKey, ms int64) (bool, error) {
	q, there, err := s.boundsThere(k)
	if err != nil || !there || q.min == q.max {
		return false, err
	}
	if q.min < q.local {
		at, ok, err := s.tierQueueAt(k, q.min)
		return !ok || at.from <= ms, err
	}
	var room [1]Entry
	entries, err := s.Entries(k.topic, k.queue, q.min, 1, room[:0])
	return len(entries) > 0 && entries[0].StoreTime <= ms, err
}

// eachLongTimer calls f with the positions of the bodies of long timers that were stored in the hours from first to before another.
func (s *Store) eachLongTimer(first, before uint32, f func(at record.Position)) error {
	var failed error
	err := s.Delay.EachLong(before, func(hour uint32, point delay.Point) bool {
		if hour < first {
			return true
		}
		t, ok, err := s.Delay.Get(point)
		if ok {
			f(t.Position)
		}
		failed = err
		return err == nil
	})
	return errors.Join(err, failed)
}

// table writes the table object.
func (c *compaction) table(ctx context.Context, w io.Writer) error {
	return writeTable(w, &c.part, func(out *tiered.TableWriter) error { return c.rows(ctx, out) })
}

func (c *compaction) rows(ctx context.Context, out *tiered.TableWriter) error {
	if err := out.AddKeys(c.keys); err != nil {
		return err
	}
	for _, k := range c.order {
		err := c.eachRun(ctx, k, c.live[k], func(last int64, row []byte) error {
			return out.AddRun(k.topic, k.queue, last, row)
		})
		if err != nil {
			return err
		}
	}
	c.part.Messages = 0
	for _, k := range c.order {
		l := c.live[k]
		if err := out.AddQueue(k.topic, k.queue, l.QueueRange); err != nil {
			return err
		}
		c.part.Messages += l.Last - l.First + 1
	}
	return nil
}
