package store

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/tiered"
)

// Retention of the tier works by the part. What a part has of a queue goes at once, when the last of it is past the retention of its
// topic; the part's list of queues says when that is. So a part is looked at when the first of its queues is due, and what expiring
// costs follows what was stored, not how many topics there are:
//
//  1. Queues of which all that a part has is past retention are trimmed to behind it (trim records).
//  2. A part of which less than half is wanted is made anew with the rest cleared (Compact).
//  3. The oldest parts leave the manifest when nothing of them is wanted and the broker's own retention is over. Timers whose bodies are
//     there get a copy of it at the tail of the log, half messages are given up, as they are when a segment goes without a tier.
//
// When nothing of a part is due it is looked at once a day, for topics that were deleted and queues that were trimmed otherwise. What
// was seen is remembered in memory only: after a start all parts are looked at once, some at a time.

const (
	// surveyEvery is how long a part is left alone at most.
	surveyEvery = 24 * time.Hour
	// looksPerPass bounds the parts that one pass looks at; each costs a read of the end of its table, 256 KiB at most.
	looksPerPass = 64
)

// tierState is what memory has of the tier's retention.
type tierState struct {
	mu       sync.Mutex
	looks    map[record.Position]look // by the part's start
	from     record.Position          // where the next pass begins to look
	reserves int64                    // catalog.Reserves of the last pass
}

// look is what was seen of a part.
type look struct {
	generation uint64
	due        int64 // ms: when to look again
	live       bool  // a queue begins in it or before it
	compact    bool  // less than half of it is wanted
}

// tierTopics says which topics the tier is to have; an answer stays, so that all of a part goes by the same one.
type tierTopics struct {
	s     *Store
	known map[kvindex.ID]bool
}

func (t *tierTopics) keeps(topic kvindex.ID) (bool, error) {
	if known, ok := t.known[topic]; ok {
		return known, nil
	}
	keep, exists, err := t.s.tierRetention(topic)
	if err != nil {
		return false, err
	}
	if t.known == nil {
		t.known = map[kvindex.ID]bool{}
	}
	t.known[topic] = exists && keep > 0
	return t.known[topic], nil
}

// tierRetention is how long the tier keeps a topic's messages; exists is false when the topic was deleted.
func (s *Store) tierRetention(topic kvindex.ID) (keep time.Duration, exists bool, err error) {
	t, err := s.Catalog.TopicByID(topic)
	if errors.Is(err, catalog.ErrTopicNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	return t.TierRetention(s.opts.TierRetention), true, nil
}

// settled says that a message which came with a batch of this time (ms) waited for nothing.
func (m *stored) settled(timestamp int64) bool {
	switch m.kind {
	case record.KindDelayed:
		return m.timer.Due <= timestamp
	case record.KindCopy:
		return m.fired
	case record.KindHalf:
		return false
	}
	return true
}

func (m *stored) queue() queueKey { return queueKey{m.topic, message.QueueIDOf(m.layout)} }

// expireTier trims what is past retention in the tier, and lets go of parts that nobody needs.
func (s *Store) expireTier(ctx context.Context, now time.Time) error {
	view := s.opts.Tier.Manifests().View()
	if !s.opts.Tier.Manifests().Owned() {
		return nil
	}
	done, err := s.offloaded()
	if err != nil {
		return err
	}
	parts := view.Parts[:partsUntil(view.Parts, done.end)]
	if err := s.lookAtParts(ctx, parts, now.UnixMilli()); err != nil {
		return err
	}
	return s.dropParts(ctx, view, parts, done, now)
}

// partsUntil is how many parts end at or before a position.
func partsUntil(parts []tiered.Part, end record.Position) int {
	i := slices.IndexFunc(parts, func(p tiered.Part) bool { return p.End > end })
	if i < 0 {
		return len(parts)
	}
	return i
}

// lookAtParts looks at the parts that are due, beginning where the pass before ended.
func (s *Store) lookAtParts(ctx context.Context, parts []tiered.Part, now int64) error {
	t := &s.tier
	reserves := s.Catalog.Reserves()
	t.mu.Lock()
	if t.looks == nil || t.reserves != reserves {
		t.looks, t.reserves = map[record.Position]look{}, reserves
	}
	for start := range t.looks {
		if _, there := slices.BinarySearchFunc(parts, start, byStart); !there {
			delete(t.looks, start)
		}
	}
	begin, _ := slices.BinarySearchFunc(parts, t.from, byStart)
	t.mu.Unlock()
	left := looksPerPass
	for i := range parts {
		p := &parts[(begin+i)%len(parts)]
		t.mu.Lock()
		seen, ok := t.looks[p.Start]
		t.from = p.Start
		t.mu.Unlock()
		if ok && seen.generation == p.Generation && now < seen.due {
			continue
		}
		if left == 0 {
			return nil
		}
		left--
		seen, err := s.lookAt(ctx, p, now)
		if err != nil {
			return fmt.Errorf("look at the part of the tier at %d: %w", p.Start, err)
		}
		t.mu.Lock()
		t.looks[p.Start] = seen
		t.mu.Unlock()
	}
	return nil
}

func byStart(p tiered.Part, start record.Position) int {
	switch {
	case p.Start < start:
		return -1
	case p.Start > start:
		return 1
	}
	return 0
}

// lookAt trims the queues of which all that a part has is past retention at a time (ms), and sees what of it is wanted.
func (s *Store) lookAt(ctx context.Context, p *tiered.Part, now int64) (seen look, err error) {
	seen = look{generation: p.Generation, due: now + surveyEvery.Milliseconds()}
	var trims []trim
	dead := int64(0)
	queues := s.opts.Tier.Queues(ctx, p)
	defer func() { err = errors.Join(err, queues.Close()) }()
	for queues.Next() {
		topic, queue, r := queues.Row()
		keep, exists, err := s.tierRetention(topic)
		if err != nil {
			return look{}, err
		}
		q, err := s.boundsOf(queueKey{topic, queue})
		if err != nil {
			return look{}, err
		}
		expires := r.LastTime + min(keep.Milliseconds(), math.MaxInt64/2)
		if exists && expires <= now && q.min <= r.Last {
			q.min = min(r.Last+1, q.local)
			trims = append(trims, trim{topic, queue, q.min})
		}
		if !exists || q.min > r.Last {
			dead += r.Bytes
			continue
		}
		dead += int64(float64(r.Bytes) * float64(max(q.min-r.First, 0)) / float64(r.Last-r.First+1))
		seen.live = true
		seen.due = min(seen.due, max(expires, now+1))
	}
	if err := queues.Close(); err != nil {
		return look{}, err
	}
	seen.compact = 2*dead > p.LiveBytes
	return seen, s.trimAll(ctx, trims)
}

// dropParts lets the parts go that come before all that is wanted and are past the broker's retention. parts are those of the view which
// are offloaded.
func (s *Store) dropParts(ctx context.Context, view *tiered.Manifest, parts []tiered.Part, done offloadedTo, now time.Time) error {
	dead := 0
	for s.partIsDead(parts, dead) {
		dead++
	}
	if dead == 0 {
		return nil
	}
	wanted := done.until // when the first became visible that is wanted
	if dead < len(parts) {
		wanted = parts[dead].From
	}
	before, err := s.settledBefore(wanted)
	if err != nil {
		return err
	}
	expired := now.Add(-s.opts.TierRetention).UnixMilli()
	gone := 0
	for gone < dead && parts[gone].Until < before && parts[gone].Until <= expired && restorable(view, parts[gone].End) {
		gone++
	}
	if gone == 0 {
		return nil
	}
	last := &parts[gone-1]
	if err := s.carryTimers(ctx, kvindex.HourOf(last.Until)+1); err != nil {
		return fmt.Errorf("carry timers forward: %w", err)
	}
	if err := s.giveUpHalves(ctx, last.End); err != nil {
		return err
	}
	if err := s.opts.Tier.Remove(ctx, last.End); err != nil {
		return err
	}
	s.opts.Logger.Info().Int("parts", gone).Int64("until", int64(last.End)).Msg("parts of the tier are past retention")
	return nil
}

// restorable says whether the snapshots of a view need nothing before a position.
func restorable(view *tiered.Manifest, end record.Position) bool {
	return !slices.ContainsFunc(view.Snapshots, func(s tiered.Snapshot) bool { return s.Position < end })
}

// partIsDead says whether a part has been looked at, and no queue was seen to begin in it or before it.
func (s *Store) partIsDead(parts []tiered.Part, i int) bool {
	if i == len(parts) {
		return false
	}
	s.tier.mu.Lock()
	defer s.tier.mu.Unlock()
	seen, ok := s.tier.looks[parts[i].Start]
	return ok && seen.generation == parts[i].Generation && !seen.live
}

// settledBefore is a time (ms) before which nothing was stored that an entry needs which became visible at or after a time (ms), or that
// a timer needs which is not listed as a long one.
func (s *Store) settledBefore(visible int64) (int64, error) {
	t, ok, err := s.Delay.Next()
	if err != nil {
		return 0, err
	}
	if ok {
		visible = min(visible, t.Due)
	}
	return visible - s.opts.horizon.Milliseconds(), nil
}
