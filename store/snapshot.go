package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/tiered"
)

// A snapshot in the tier is the view as of a position of the log, without what the parts before that position have: it says what a view
// says in which all of those parts are offloaded. So a machine that has nothing starts from it, and reads the rest where it is.
//
// The best position is the end of a part: then nothing of the log has to be applied to get from one to the other. So the folder sets the
// view aside as the log goes on to its next segment, and it is written once that segment is in the tier.

const (
	snapshotFile = "snapshot" + newSuffix
	// Snapshots are made as parts are, but so that they are no more than an eighth of what is uploaded, or that a restore has less than
	// this to apply again.
	snapshotShare = 8
	snapshotEvery = 10 * time.Minute
	// staleSnapshot is how many parts come behind the newest snapshot before one is made of the view as it is, at a position that no
	// part has reached yet. Only who was stopped at every end of a segment comes to that.
	staleSnapshot = 2
	// snapshotQueues bounds the queues that are looked at together, 100 bytes each: each such bunch costs a look at the lists of queues of
	// all parts that are not offloaded.
	snapshotQueues = 256 << 10
)

// sealed is the view as of the end of the newest sealed segment.
type sealed struct {
	mu   sync.Mutex
	view kvindex.Snapshot // nil when there is none
}

// take returns the view and forgets it; it is the caller's to close.
func (d *sealed) take() kvindex.Snapshot {
	d.mu.Lock()
	defer d.mu.Unlock()
	view := d.view
	d.view = nil
	return view
}

func (d *sealed) drop() error {
	if view := d.take(); view != nil {
		return view.Close()
	}
	return nil
}

// setAside keeps the view if the batch, which is not applied yet, begins another segment: then it does not begin where the one before
// it ends, unless that filled its segment to the last byte.
func (s *Store) setAside(b *commitlog.Batch) {
	if at := s.applied.Load().End; s.opts.Tier == nil || at == 0 || b.Position == at {
		return
	}
	if err := s.sealed.drop(); err != nil {
		s.opts.Logger.Warn().Err(err).Msg("an old view of the index could not be closed")
	}
	s.sealed.mu.Lock()
	defer s.sealed.mu.Unlock()
	s.sealed.view = s.engine.NewSnapshot()
}

// Snapshot puts a snapshot of the view into the tier when one is due. It is called after uploads, by who makes them.
func (s *Store) Snapshot(ctx context.Context) (err error) {
	view := s.sealed.take()
	defer func() {
		if view != nil {
			err = errors.Join(err, view.Close())
		}
	}()
	man := s.opts.Tier.Manifests().View()
	if man == nil || len(man.Parts) == 0 {
		return nil
	}
	if view == nil {
		if !stale(man) {
			return nil
		}
		view = s.engine.NewSnapshot()
	}
	at, err := kvindex.ReadApplied(view)
	if err != nil || !snapshotDue(man, &at) {
		return err
	}
	if err := s.writeSnapshot(ctx, man, view, at); err != nil {
		return fmt.Errorf("store: put a snapshot at %d into the tier: %w", at.End, err)
	}
	return nil
}

// stale says whether the parts have left the newest snapshot behind.
func stale(man *tiered.Manifest) bool {
	newest, ok := man.Newest()
	n := len(man.Parts)
	return !ok || n >= staleSnapshot && newest.Position <= man.Parts[n-staleSnapshot].Start
}

// snapshotDue says whether it is time for a snapshot at a place of the log.
func snapshotDue(man *tiered.Manifest, at *kvindex.Applied) bool {
	newest, ok := man.Newest()
	switch {
	case at.End == 0:
		return false
	case !ok:
		return true
	case newest.Position > man.Parts[len(man.Parts)-1].End, newest.Position >= at.End:
		return false // it is there, and waits for the parts to reach it
	}
	grown := int64(at.End - newest.Position)
	return grown >= snapshotShare*newest.Bytes || at.Timestamp-newest.Time >= snapshotEvery.Milliseconds()
}

// snapshot is one that is being made.
type snapshot struct {
	s     *Store
	view  kvindex.Snapshot
	at    kvindex.Applied
	parts []tiered.Part // that end before the position and are not offloaded in the view
	done  offloadedTo   // what the snapshot says is offloaded
	out   *tiered.SnapshotWriter
}

// writeSnapshot makes a file of the view, and hands it to the tier.
func (s *Store) writeSnapshot(ctx context.Context, man *tiered.Manifest, view kvindex.Snapshot, at kvindex.Applied) (err error) {
	began := s.opts.Clock.Now()
	n := &snapshot{s: s, view: view, at: at}
	if err := n.choose(man.Parts); err != nil {
		return err
	}
	path := s.opts.path(snapshotFile)
	f, err := s.opts.FS.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.opts.FS.RemoveAll(path)) }()
	sum, err := n.write(ctx, f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if f, err = s.opts.FS.Open(path); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	made, err := s.opts.Tier.AddSnapshot(ctx, tiered.Snapshot{Position: at.End, Bytes: sum.Bytes, CRC: sum.CRC, Time: at.Timestamp},
		io.NewSectionReader(f, 0, sum.Bytes))
	if err != nil {
		return err
	}
	s.opts.Logger.Info().Int64("position", int64(made.Position)).Uint64("rows", n.out.Rows()).Int64("bytes", made.Bytes).
		Dur("took", s.opts.Clock.Now().Sub(began)).Msg("a snapshot of the index is in the tier")
	return nil
}

// choose finds the parts that the snapshot leaves things to.
func (n *snapshot) choose(parts []tiered.Part) error {
	val, ok, err := n.view.Get(kvindex.AppendTierKey(nil), nil)
	if err != nil {
		return err
	}
	if ok {
		if n.done, err = decodeOffloaded(val); err != nil {
			return err
		}
	}
	for _, p := range parts {
		if p.End > n.done.end && p.End <= n.at.End {
			n.parts = append(n.parts, p)
		}
	}
	if len(n.parts) > 0 {
		last := &n.parts[len(n.parts)-1]
		n.done = offloadedTo{last.End, last.Until}
	}
	return nil
}

// write writes the object.
func (n *snapshot) write(ctx context.Context, w io.Writer) (tiered.Sum, error) {
	out, err := tiered.NewSnapshotWriter(w, tiered.SnapshotHead{
		RowFormat: kvindex.FormatVersion, Log: n.s.log.Number(), Term: n.s.log.Term(),
		End: n.at.End, Index: n.at.Index, Timestamp: n.at.Timestamp,
	})
	if err != nil {
		return tiered.Sum{}, err
	}
	n.out = out
	err = n.rows(ctx)
	sum, cerr := out.Close()
	return sum, errors.Join(err, cerr)
}

// hours writes the keys of messages that no part has, and the lists of the hours from that on in which the parts end. The row of that
// hour says from where on there are keys.
func (n *snapshot) hours(ctx context.Context) error {
	hour := kvindex.HourOf(n.done.until)
	if n.done.end < n.at.End {
		lower := kvindex.AppendKeyIndexHourPrefix(nil, hour)
		err := kvindex.EachRow(n.view, lower, kvindex.PrefixEnd(lower[:1]), func(key, val []byte) (bool, error) {
			if record.Position(binary.BigEndian.Uint64(key[len(key)-8:])) < n.done.end {
				return true, ctx.Err()
			}
			return true, errors.Join(ctx.Err(), n.out.Add(key, val))
		})
		if err != nil {
			return err
		}
	}
	lower := kvindex.AppendBucketHourPrefix(nil, hour)
	return kvindex.EachRow(n.view, lower, kvindex.PrefixEnd(lower[:1]), func(key, val []byte) (bool, error) {
		if len(val) > 0 {
			b, err := decodeHour(val)
			if err != nil {
				return false, err
			}
			val = appendHour(nil, max(b.position, n.done.end), max(b.timestamp, n.done.until))
		}
		return true, errors.Join(ctx.Err(), n.out.Add(key, val))
	})
}

// rows writes all of them, those of queues last.
func (n *snapshot) rows(ctx context.Context) error {
	err := n.each(ctx, nil, nil, func(key []byte) (skip []byte) {
		switch kvindex.Space(key[0]) {
		case kvindex.SpaceQueue, kvindex.SpaceConsumeQueue, kvindex.SpaceTierQueue, kvindex.SpaceTier, kvindex.SpaceKeyIndex, kvindex.SpaceBucket:
			return kvindex.PrefixEnd(key[:1])
		}
		return nil
	})
	if err == nil {
		err = n.hours(ctx)
	}
	if err == nil && n.done != (offloadedTo{}) {
		err = n.out.Add(kvindex.AppendTierKey(nil), n.done.appendTo(nil))
	}
	for first := (queueKey{}); err == nil; {
		var b *bunch
		if b, err = n.gather(first); err != nil {
			return err
		}
		if err = n.bunch(ctx, b); err != nil || b.last {
			return err
		}
		first = b.end
	}
	return err
}

// each adds the rows with lower ≤ key < upper, except that from a key for which skip returns another one it goes on from that.
func (n *snapshot) each(ctx context.Context, lower, upper []byte, skip func(key []byte) []byte) (err error) {
	it, err := n.view.NewIter(lower, upper)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	for ok := it.First(); ok; {
		if to := skip(it.Key()); to != nil {
			ok = it.SeekGE(to)
			continue
		}
		if err := errors.Join(ctx.Err(), n.out.Add(it.Key(), it.Value())); err != nil {
			return err
		}
		ok = it.Next()
	}
	return it.Error()
}
