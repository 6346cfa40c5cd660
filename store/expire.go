package store

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Retention works by the hour. The bucket of an hour lists the queues that got messages then, so what expiring costs
// follows what was stored, not how many queues there are:
//
//  1. The queues of an hour that is past retention are trimmed to their first message of a later hour (trim records).
//  2. The hour itself is dropped: its bucket and its part of the key index (a drop-hour record).
//  3. Segments of the log that end before the first message of the oldest hour left hold no message that a queue still
//     lists. Before they are deleted, the view is made durable and a checkpoint of it is kept beside it, for from then on
//     the log alone can no longer tell it.
//
// The first two go through the log like everything else, so a replay trims what live traffic trimmed.

// Expire trims what is past retention, drops old index hours and deletes covered segments. The broker's due loop calls it.
// What it has done when an error or the end of ctx stops it stays done; the next call goes on.
func (s *Store) Expire(ctx context.Context, now time.Time) error {
	s.expiring.Lock()
	defer s.expiring.Unlock()
	cutoff := now.Add(-s.opts.Retention).UnixMilli()
	left := kvindex.HourOf(max(cutoff, 0)) // the oldest hour that may have something to keep
	for hour := uint32(0); hour < left; hour++ {
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
	if err := s.deleteSegments(cutoff); err != nil {
		return fmt.Errorf("store: delete old segments: %w", err)
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

// deleteSegments deletes the segments that are older than cutoff (ms) as a whole and end before the first message of the
// oldest hour left.
func (s *Store) deleteSegments(cutoff int64) error {
	keep := s.applied.Load().End
	b, ok, err := s.firstBucket(0)
	if err != nil {
		return err
	}
	if ok {
		keep = min(keep, b.position)
	}
	segments, err := s.log.Segments()
	if err != nil {
		return err
	}
	until := record.Position(-1) // end of the last segment to go
	for _, seg := range segments {
		if seg.Active || seg.End > keep || seg.Newest > cutoff {
			break
		}
		until = seg.End
	}
	if until < 0 {
		return nil
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
