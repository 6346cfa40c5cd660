package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// ErrNoTier says that what is asked for is in the tier, and that the store was opened without one.
var ErrNoTier = errors.New("this is in the tier, and no tier is configured")

const (
	// coldTimeout bounds a read of the tier: who reads gets an error, and asks again, when the object store is out of reach.
	coldTimeout = 30 * time.Second
	// coldTurns is how many of the reads of the tier that no Reader has asked for are under way at a time, and turnTimeout how long one
	// waits for its turn. They run on workers that have other things to do as well, and must not hold all of them.
	coldTurns   = 8
	turnTimeout = 2 * time.Second
)

// errNoTurn says that others keep the tier busy.
var errNoTurn = fmt.Errorf("%d others read the tier, which is slow to answer", coldTurns)

// ErrCold says that what is asked for is in the tier, where a Reader that is to read here only does not look.
var ErrCold = errors.New("this is in the tier")

// TierError says that the tier cannot be read at the moment: the object store is out of reach or refuses, or it takes too long. What is
// damaged or gone has an error of its own.
type TierError struct{ Err error }

func (e *TierError) Error() string { return "the tier cannot be read at the moment: " + e.Err.Error() }

func (e *TierError) Unwrap() error { return e.Err }

// coldError makes a TierError of what may be over soon.
func coldError(err error) error {
	var damage *tiered.DamageError
	for _, lasting := range []error{commitlog.ErrGone, commitlog.ErrNotFound, objects.ErrNotFound} {
		if errors.Is(err, lasting) {
			return err
		}
	}
	if err == nil || errors.As(err, &damage) && !errors.Is(err, tiered.ErrNotLoaded) {
		return err
	}
	return &TierError{err}
}

// Reader reads queues and messages: here only, or in the tier as well. Who serves many others reads here first, and leaves what is
// cold to somebody whom nobody waits for.
type Reader struct {
	s     *Store
	cold  context.Context // of reads of the tier; nil: there are none
	turns bool            // it waits for its turn
}

// Here reads what the log and the index have. What is in the tier is ErrCold.
func (s *Store) Here() Reader { return Reader{s: s} }

// Anywhere reads the tier, too, until ctx ends, and for coldTimeout at a time. How many read at a time is for the caller to bound.
func (s *Store) Anywhere(ctx context.Context) Reader { return Reader{s: s, cold: ctx} }

// own is the Reader of the store's own verbs.
func (s *Store) own() Reader { return Reader{s: s, cold: s.open, turns: true} }

// reach is the context of one read of the tier, which done ends, or says why there is none.
func (r Reader) reach() (ctx context.Context, done func(), err error) {
	switch {
	case r.s.opts.Tier == nil:
		return nil, nil, ErrNoTier
	case r.cold == nil:
		return nil, nil, ErrCold
	}
	ctx, cancel := context.WithTimeout(r.cold, coldTimeout)
	if !r.turns {
		return ctx, cancel, nil
	}
	if err := r.s.coldTurn(ctx); err != nil {
		cancel()
		return nil, nil, err
	}
	return ctx, func() {
		cancel()
		<-r.s.turns
	}, nil
}

func (s *Store) coldTurn(ctx context.Context) error {
	timer := s.opts.Clock.NewTimer(turnTimeout)
	defer timer.Stop()
	select {
	case s.turns <- struct{}{}:
		return nil
	case <-timer.C():
		return &TierError{errNoTurn}
	case <-ctx.Done():
		return &TierError{ctx.Err()}
	}
}

// readRaw is ReadRaw of the log, or of the tier where the log has no more what is at pos.
func (r Reader) readRaw(pos record.Position, n int, buf []byte) ([]byte, error) {
	raw, err := r.s.log.ReadRaw(pos, n, buf)
	if r.s.opts.Tier == nil || !errors.Is(err, commitlog.ErrGone) {
		return raw, err
	}
	ctx, done, err := r.reach()
	if err != nil {
		return nil, err
	}
	defer done()
	raw, err = r.s.opts.Tier.ReadRaw(ctx, pos, n, buf)
	return raw, coldError(err)
}

// tierQueueAt finds what the tier has of a queue from an offset on; false when it has nothing.
func (s *Store) tierQueueAt(k queueKey, offset int64) (at tierQueue, ok bool, err error) {
	it, err := s.tierQueues(k)
	if err != nil {
		return tierQueue{}, false, err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	if !it.SeekGE(kvindex.AppendTierQueueKey(nil, k.topic, k.queue, offset)) {
		return tierQueue{}, false, it.Error()
	}
	at, err = decodeTierQueue(lastOffset(it.Key()), it.Value())
	return at, err == nil, err
}

// tierQueues iterates what the parts of the tier have of a queue.
func (s *Store) tierQueues(k queueKey) (kvindex.Iter, error) {
	it, err := s.engine.NewIter(kvindex.AppendTierQueueKey(nil, k.topic, k.queue, 0),
		kvindex.AppendTierQueueKey(nil, k.topic, k.queue, maxOffset))
	if err != nil {
		return nil, fmt.Errorf("store: read the tier's topic id %d queue %d: %w", k.topic, k.queue, err)
	}
	return it, nil
}

// coldEntries appends entries that are in the tier, from offset on, until dst has end of them or those begin that the index has.
func (r Reader) coldEntries(k queueKey, q bounds, offset int64, dst []Entry, end int) (_ []Entry, err error) {
	ctx, done, err := r.reach()
	if err != nil {
		return dst, fmt.Errorf("store: read topic id %d queue %d at offset %d: %w", k.topic, k.queue, offset, err)
	}
	defer done()
	at, ok, err := r.s.tierQueueAt(k, offset)
	if err != nil || !ok {
		return dst, err
	}
	runs := r.s.opts.Tier.RunsFrom(ctx, at.part, k.topic, k.queue, offset)
	defer func() {
		if cerr := runs.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("store: read topic id %d queue %d from the tier: %w", k.topic, k.queue, coldError(cerr))
		}
	}()
	for len(dst) < end && runs.Next() {
		if runs.Last() >= q.local { // uploaded, and still here
			break
		}
		if dst, err = appendEntries(dst, runs.Last(), runs.Value(), offset, end); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// searchTime finds the first offset of a queue that became visible at or after a time (ms). first and end are the queue's bounds,
// equal when it is empty; found is end when there is none.
func (s *Store) searchTime(topic kvindex.ID, queue int32, since int64) (found, first, end int64, err error) {
	k := queueKey{topic, queue}
	q, err := s.boundsOf(k)
	if err != nil {
		return 0, 0, 0, err
	}
	if q.min < q.local {
		found, ok, err := s.searchTier(k, q, since)
		if err != nil || ok {
			return found, q.min, q.max, err
		}
	}
	found, first, end, err = s.searchRuns(topic, queue, func(r run) bool { return r.timestamp >= since })
	switch {
	case err != nil:
		return 0, 0, 0, err
	case first == end: // all of it is in the tier, or there is nothing
		return q.max, q.min, q.max, nil
	}
	return found, min(first, q.min), end, nil
}

// searchTier finds the first offset of what the tier has of a queue that became visible at or after a time (ms); ok is false when
// all of it came before.
func (s *Store) searchTier(k queueKey, q bounds, since int64) (found int64, ok bool, err error) {
	at, ok, err := s.tierQueueSince(k, q, since)
	if err != nil || !ok {
		return 0, false, err
	}
	if at.from >= since {
		return max(at.first, q.min), true, nil
	}
	ctx, done, err := s.own().reach()
	if err != nil {
		return 0, false, fmt.Errorf("store: search topic id %d queue %d: %w", k.topic, k.queue, err)
	}
	defer done()
	runs := s.opts.Tier.RunsFrom(ctx, at.part, k.topic, k.queue, max(at.first, q.min))
	defer func() {
		if cerr := runs.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("store: search topic id %d queue %d in the tier: %w", k.topic, k.queue, coldError(cerr))
		}
	}()
	for runs.Next() {
		r, err := openRun(runs.Last(), runs.Value())
		if err != nil {
			return 0, false, err
		}
		if r.timestamp >= since {
			return max(r.first, q.min), true, nil
		}
	}
	return 0, false, nil
}

// tierQueueSince finds the first part whose entries of a queue do not all come before a time (ms), in as many seeks as the logarithm
// of the number of offsets says.
func (s *Store) tierQueueSince(k queueKey, q bounds, since int64) (at tierQueue, ok bool, err error) {
	it, err := s.tierQueues(k)
	if err != nil {
		return tierQueue{}, false, err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	low, high := q.min, q.local // the first offset of the answer is in [low, high]
	var key []byte
	for low < high {
		key = kvindex.AppendTierQueueKey(key[:0], k.topic, k.queue, low+(high-low)/2)
		if !it.SeekGE(key) {
			return tierQueue{}, false, errors.Join(it.Error(), fmt.Errorf("store: no part of the tier has %x: %w", key, errMalformed))
		}
		t, err := decodeTierQueue(lastOffset(it.Key()), it.Value())
		if err != nil {
			return tierQueue{}, false, err
		}
		if t.to >= since {
			at, ok, high = t, true, max(t.first, q.min)
		} else {
			low = t.last + 1
		}
	}
	return at, ok, nil
}

// firstKeys is where the keys begin that the index has: all of messages from a position on, none of which was stored before a time (ms).
// Those of before are in the tier.
func (s *Store) firstKeys() (from record.Position, since int64, err error) {
	b, ok, err := s.firstBucket(0)
	if err != nil || !ok {
		return math.MaxInt64, s.applied.Load().Timestamp, err
	}
	return b.position, b.timestamp, nil
}

// eachColdHit walks the tier's keys of messages of which the index has none any more, from end back to begin (ms).
func (s *Store) eachColdHit(topic kvindex.ID, kind kvindex.IndexKind, key string, begin, end int64,
	f func(hit) (more bool, err error),
) (err error) {
	if s.opts.Tier == nil {
		return nil
	}
	from, since, err := s.firstKeys()
	if err != nil {
		return err
	}
	if end = min(end, since); begin > end {
		return nil
	}
	ctx, done, err := s.own().reach()
	if err != nil {
		return err
	}
	defer done()
	rows := s.opts.Tier.Keys(ctx, topic, kind, kind.Hash(key), begin, end)
	defer func() {
		if cerr := rows.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("store: query the tier's keys: %w", coldError(cerr))
		}
	}()
	for rows.Next() {
		r := rows.Row()
		if r.Position >= from {
			continue // uploaded, and still here
		}
		if more, err := f(hit{position: r.Position, size: r.Size, offset: unknownOffset}); err != nil || !more {
			return err
		}
	}
	return nil
}
