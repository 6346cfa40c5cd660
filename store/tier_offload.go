package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/tiered"
)

// Offload notes that what became visible before a time (ms) is read from the tier from now on, as far as the tier has it, so that index
// and log need not have it. What the tier was not to have is trimmed then. Nothing is done for a tier that this process has not claimed:
// it may be another broker's.
func (s *Store) Offload(ctx context.Context, before int64) error {
	view := s.opts.Tier.Manifests().View()
	if !s.opts.Tier.Manifests().Owned() {
		return nil
	}
	done, err := s.offloaded()
	if err != nil {
		return err
	}
	for _, p := range view.Parts {
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
	listed := map[queueKey]bool{}
	queues := s.opts.Tier.Queues(ctx, p)
	defer func() { err = errors.Join(err, queues.Close()) }()
	for queues.Next() {
		topic, queue, r := queues.Row()
		k := queueKey{topic, queue}
		listed[k] = true
		o.queues = append(o.queues, offloaded{k, r.First, r.Last + 1, r.FirstTime, r.LastTime})
		if len(o.queues) == offloadChunk {
			if err := propose(); err != nil {
				return err
			}
		}
	}
	if err := queues.Close(); err != nil {
		return err
	}
	if err := s.trimUnlisted(ctx, p, listed); err != nil {
		return err
	}
	o.done = &offloadedTo{p.End, p.Until}
	return propose()
}

// trimUnlisted trims the queues that got messages in the time of a part, and of which the part has nothing: their topic is not for the
// tier, or was not when the part was made. The bodies of these messages go with the segment.
func (s *Store) trimUnlisted(ctx context.Context, p *tiered.Part, listed map[queueKey]bool) error {
	queues, err := s.queuesBetween(p.From, p.Until)
	if err != nil {
		return err
	}
	var trims []trim
	for _, k := range queues {
		if listed[k] {
			continue
		}
		later, first, end, err := s.searchRuns(k.topic, k.queue, func(r run) bool { return r.timestamp >= p.Until })
		if err != nil {
			return err
		}
		if first < end && later > first {
			trims = append(trims, trim{k.topic, k.queue, later})
		}
	}
	return s.trimAll(ctx, trims)
}

// trimAll proposes trims, as many in a record as it takes.
func (s *Store) trimAll(ctx context.Context, trims []trim) error {
	for len(trims) > 0 {
		n := min(len(trims), trimChunk)
		if _, err := s.Append(ctx, record.Record{Kind: record.KindTrim, Payload: encodeTrim(trims[:n])}); err != nil {
			return err
		}
		trims = trims[n:]
	}
	return nil
}
