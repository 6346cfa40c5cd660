package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"time"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/txn"
)

// Retention works by the hour. The bucket of an hour lists the queues that got messages then, so what expiring costs
// follows what was stored, not how many queues there are:
//
//  1. The queues of an hour that is past retention are trimmed to their first message of a later hour (trim records).
//  2. The hour itself is dropped: its bucket and its part of the key index (a drop-hour record).
//  3. Timers whose body is as old as that get a copy of it at the tail of the log.
//  4. A queue entry points at bytes that are at most delay.Horizon older than itself, and so does a timer that has no copy
//     made for it. Segments whose newest record is so much older than all of that hold nothing that is wanted; half messages
//     in them, which nobody decided in all that time, are given up. Before they are deleted, the view is made durable and a checkpoint of it is kept beside it, for from then on
//     the log alone can no longer tell it.
//
// The first two go through the log like everything else, so a replay trims what live traffic trimmed.

// Retention is how long messages stay in the local log.
func (s *Store) Retention() time.Duration { return s.opts.Retention }

// Expire trims what is past retention, drops old index hours and deletes covered segments. The broker's due loop calls it.
// What it has done when an error or the end of ctx stops it stays done; the next call goes on.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	s.expiring.Lock()
	defer s.expiring.Unlock()
	cutoff := now.Add(-s.opts.Retention).UnixMilli()
	left := kvindex.HourOf(max(cutoff, 0)) // the oldest hour that may have something to keep
	if s.opts.Tier != nil {
		if err := s.Offload(ctx, cutoff); err != nil {
			return err
		}
		done, err := s.offloaded()
		if err != nil {
			return fmt.Errorf("store: expire: %w", err)
		}
		left = min(left, kvindex.HourOf(done.until))
	}
	for hour := uint32(0); hour < left; hour++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("store: expire: %w", err)
		}
		b, ok, err := s.firstBucket(hour)
		if err != nil {
			return fmt.Errorf("store: expire: %w", err)
		}
		if !ok || b.hour >= left {
			break
		}
		if err := s.expireHour(ctx, b.hour); err != nil {
			return fmt.Errorf("store: expire hour %d: %w", b.hour, err)
		}
		hour = b.hour
	}
	if err := s.carryTimers(ctx, left); err != nil {
		return fmt.Errorf("store: carry timers forward: %w", err)
	}
	if err := s.deleteSegments(ctx, cutoff); err != nil {
		return fmt.Errorf("store: delete old segments: %w", err)
	}
	if s.opts.Tier != nil {
		if err := s.expireTier(ctx, now); err != nil {
			return fmt.Errorf("store: expire the tier: %w", err)
		}
	}
	return nil
}

// bucket is the row that lists an hour.
type bucket struct {
	hour      uint32
	position  record.Position // of the hour's first message
	timestamp int64           // ms, of that message
}

// firstBucket finds the first hour from hour on that has messages.
func (s *Store) firstBucket(hour uint32) (b bucket, ok bool, err error) {
	lower := kvindex.AppendBucketHourPrefix(nil, hour)
	it, err := s.engine.NewIter(lower, kvindex.PrefixEnd(lower[:1]))
	if err != nil {
		return bucket{}, false, err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	if !it.First() {
		return bucket{}, false, it.Error()
	}
	key, val := it.Key(), it.Value()
	if k := bucketQueue(key); k.topic != 0 {
		return bucket{}, false, fmt.Errorf("a bucket begins with the row of a queue: %w", errMalformed)
	}
	if b, err = decodeHour(val); err != nil {
		return bucket{}, false, err
	}
	b.hour = binary.BigEndian.Uint32(key[1:])
	return b, true, nil
}

// decodeHour reads the row of an hour; noteHour draws it.
func decodeHour(val []byte) (bucket, error) {
	if len(val) != 16 {
		return bucket{}, fmt.Errorf("hour row of %d bytes: %w", len(val), errMalformed)
	}
	return bucket{
		position:  record.Position(binary.BigEndian.Uint64(val)),
		timestamp: int64(binary.BigEndian.Uint64(val[8:])),
	}, nil
}

// bucketQueue reads the queue from a key in SpaceBucket.
func bucketQueue(key []byte) queueKey {
	return queueKey{
		topic: kvindex.ID(binary.BigEndian.Uint64(key[5:])), queue: int32(binary.BigEndian.Uint32(key[13:])),
	}
}

// expireHour trims the queues of an hour and drops it.
func (s *Store) expireHour(ctx context.Context, hour uint32) error {
	ends := (int64(hour) + 1) * int64(time.Hour/time.Millisecond)
	next := kvindex.AppendBucketKey(nil, hour, 0, 1) // past the hour's own row
	for next != nil {
		var queues []queueKey
		var err error
		if queues, next, err = s.bucketQueues(next, hour); err != nil {
			return err
		}
		var trims []trim
		for _, k := range queues {
			later, first, end, err := s.searchRuns(k.topic, k.queue, func(r run) bool { return r.timestamp >= ends })
			if err != nil {
				return err
			}
			if first < end && later > first {
				trims = append(trims, trim{k.topic, k.queue, later})
			}
		}
		if len(trims) == 0 {
			continue
		}
		if _, err := s.Append(ctx, record.Record{Kind: record.KindTrim, Payload: encodeTrim(trims)}); err != nil {
			return err
		}
	}
	_, err := s.Append(ctx, record.Record{Kind: record.KindDropHour, Payload: encodeDropHour(hour)})
	return err
}

// bucketQueues lists up to trimChunk queues of an hour from the key from on, and the key to go on from, nil at the end.
func (s *Store) bucketQueues(from []byte, hour uint32) (queues []queueKey, next []byte, err error) {
	it, err := s.engine.NewIter(from, kvindex.PrefixEnd(kvindex.AppendBucketHourPrefix(nil, hour)))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		if len(queues) == trimChunk {
			return queues, append([]byte(nil), it.Key()...), nil
		}
		queues = append(queues, bucketQueue(it.Key()))
	}
	return queues, nil, it.Error()
}

// carryChunk bounds the copies of one proposal.
const (
	carryChunk = 256
	carryBytes = 4 << 20
)

// carryTimers copies the bodies of the timers that were stored before an hour to the tail of the log.
func (s *Store) carryTimers(ctx context.Context, before uint32) error {
	for {
		var points []delay.Point
		err := s.Delay.EachLong(before, func(_ uint32, at delay.Point) bool {
			points = append(points, at)
			return len(points) < carryChunk
		})
		if err != nil || len(points) == 0 {
			return err
		}
		if err := s.carry(ctx, points); err != nil {
			return err
		}
	}
}

// carry copies the bodies of some timers, or of the first few when they are large.
func (s *Store) carry(ctx context.Context, points []delay.Point) error {
	buf := NewBuffer()
	defer buf.Release()
	var recs []record.Record
	for _, at := range points {
		t, ok, err := s.Delay.Get(at)
		if err != nil {
			return err
		}
		if !ok {
			continue // it has fired meanwhile
		}
		layout, err := s.ReadStored(t.Position, t.Size, buf)
		if err != nil {
			return err
		}
		recs = append(recs, CopyRecord(at, false, t.Topic, layout))
		if len(buf.B) >= carryBytes {
			break
		}
	}
	if len(recs) == 0 {
		return nil
	}
	_, err := s.Append(ctx, recs...)
	return err
}

// deletable is the newest time (ms) of segments that hold nothing which is wanted: what queues list from cutoff on reaches back
// no further than the horizon, and neither do timers that were not carried forward.
func (s *Store) deletable(cutoff int64) (int64, error) {
	newest := cutoff
	b, ok, err := s.firstBucket(0)
	if err != nil {
		return 0, err
	}
	if ok {
		newest = min(newest, int64(b.hour)*hourMs)
	}
	return s.withoutTimers(newest - s.opts.horizon.Milliseconds())
}

const hourMs = int64(time.Hour / time.Millisecond)

// withoutTimers is the newest time (ms), up to the one given, of segments that hold no body of a timer.
func (s *Store) withoutTimers(newest int64) (int64, error) {
	t, ok, err := s.Delay.Next()
	if err != nil {
		return 0, err
	}
	if ok {
		newest = min(newest, t.Due-s.opts.horizon.Milliseconds())
	}
	err = s.Delay.EachLong(math.MaxUint32, func(stored uint32, _ delay.Point) bool {
		newest = min(newest, int64(stored)*hourMs)
		return false
	})
	return newest - 1, err
}

// mayGo says which segments hold nothing that is wanted here: with a tier, what it has but for the bodies of timers, which are not
// to wait for an object store when they are due.
func (s *Store) mayGo(cutoff int64) (func(*commitlog.SegmentInfo) bool, error) {
	if s.opts.Tier != nil {
		done, err := s.offloaded()
		if err != nil {
			return nil, err
		}
		newest, err := s.withoutTimers(cutoff)
		return func(seg *commitlog.SegmentInfo) bool { return seg.Start < done.end && seg.Newest <= newest }, err
	}
	newest, err := s.deletable(cutoff)
	return func(seg *commitlog.SegmentInfo) bool { return seg.Newest <= newest }, err
}

// giveUpHalves ends the transactions of half messages before a position: their bodies leave the log.
func (s *Store) giveUpHalves(ctx context.Context, before record.Position) error {
	for _, parked := range []bool{false, true} {
		for {
			var recs []record.Record
			err := s.Txn.Each(parked, 0, func(h *txn.Half) bool {
				if h.Position >= before || len(recs) == carryChunk {
					return false
				}
				recs = append(recs, txn.End{Position: h.Position, Action: txn.Expire}.Record())
				return true
			})
			if err != nil {
				return err
			}
			if len(recs) == 0 {
				break
			}
			s.opts.Logger.Warn().Int("messages", len(recs)).Msg("half messages that nobody decided leave the log with their segment")
			if _, err := s.Append(ctx, recs...); err != nil {
				return err
			}
		}
	}
	return nil
}

// deleteSegments deletes the segments that hold nothing which is wanted by what is not older than cutoff (ms), or which the tier has.
func (s *Store) deleteSegments(ctx context.Context, cutoff int64) error {
	may, err := s.mayGo(cutoff)
	if err != nil {
		return err
	}
	segments, err := s.log.Segments()
	if err != nil {
		return err
	}
	keep := s.applied.Load().End
	until := record.Position(-1) // end of the last segment to go
	for i := range segments {
		seg := &segments[i]
		if seg.Active || seg.End > keep || !may(seg) {
			break
		}
		until = seg.End
	}
	if until < 0 {
		return nil
	}
	if s.opts.Tier == nil {
		if err := s.giveUpHalves(ctx, until); err != nil {
			return err
		}
	}
	at, err := s.flushView()
	if err != nil {
		return err
	}
	if err := s.writeCheckpoint(at); err != nil {
		return err
	}
	bytes, err := s.log.DeleteBefore(min(until, at))
	if bytes > 0 {
		s.opts.Logger.Info().Int64("bytes", bytes).Int64("first", int64(s.log.First())).Msg("old segments deleted")
	}
	return err
}
