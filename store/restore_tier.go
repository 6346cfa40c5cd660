package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// Restore makes a data folder out of the tier alone, for Open to go on from as after a crash:
//
//	index/, checkpoint-…/  the rows of the newest snapshot that can be used and read
//	log/                   what the parts have behind the snapshot's position, which Open applies; in front of it a batch without
//	                       records that stands for all that came before, and behind it a new segment with another one, so that no
//	                       segment is partly in the tier, and so that what comes now is not of a time that the parts have
//	tier.json              whose the tier is
//
// Everything else is read from the tier when somebody wants it. As long as the folder is not complete it has a mark: Open refuses it, and
// Restore begins anew.
const restoreMark = "restoring"

// Errors of Restore, and of an Open after one.
var (
	// ErrNotEmpty says that there is a store already in the folder that was to be restored.
	ErrNotEmpty = errors.New("the data folder is not empty")
	// ErrNoSnapshot says that the tier has nothing that a restore could go on from.
	ErrNoSnapshot = errors.New("the tier has no snapshot of the index that can be used, and not the whole log either")
	// ErrRestoring says that a restore of the folder was broken off.
	ErrRestoring = errors.New("the data folder is half restored from a tier")
)

// Restored tells what a restore found.
type Restored struct {
	Snapshot record.Position // 0 when the whole log is applied again
	End      record.Position // of what the tier has of the log
	// Until is the time (ms since 1970) since which nothing was restored: all that came before it is there.
	Until    int64
	Rows     uint64
	LogBytes int64 // that are to be applied again
	Took     time.Duration
}

// checkRestored refuses a folder of which a restore was not finished.
func checkRestored(o *Options) error {
	_, err := o.FS.Stat(o.path(restoreMark))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = ErrRestoring
	}
	return fmt.Errorf("store: %s: %w", o.Dir, err)
}

// Restore makes the data folder opts.Dir from opts.Tier, which it claims: whoever wrote the tier before writes no more. Errors to decide on:
// ErrNotEmpty, ErrLocked, ErrNoSnapshot, tiered.ErrNoManifest, *kvindex.FormatError. After an error, or when it was broken off, it
// may be called again.
func Restore(ctx context.Context, opts Options) (_ Restored, err error) {
	if opts, err = opts.withDefaults(); err != nil {
		return Restored{}, err
	}
	if opts.Tier == nil {
		return Restored{}, fmt.Errorf("store: restore: %w", ErrNoTier)
	}
	if err := makeDir(opts.FS, opts.Dir); err != nil {
		return Restored{}, fmt.Errorf("store: make data folder: %w", err)
	}
	lock, err := opts.FS.Lock(opts.path(lockFile))
	if err != nil {
		return Restored{}, fmt.Errorf("store: %w: %s: %w", ErrLocked, opts.Dir, err)
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	r := &restore{opts: &opts}
	began := opts.Clock.Now()
	if err := r.run(ctx); err != nil {
		return Restored{}, fmt.Errorf("store: restore from the tier: %w", err)
	}
	r.Took = opts.Clock.Now().Sub(began)
	opts.Logger.Info().Int64("snapshot", int64(r.Snapshot)).Uint64("rows", r.Rows).Int64("log_bytes", r.LogBytes).Dur("took", r.Took).
		Msg("the data folder is restored from the tier; messages are fetched as they are read")
	opts.Logger.Warn().Str("since", kvindex.FormatTime(r.Until)).Int64("position", int64(r.End)).
		Msg("what the lost machine acknowledged since then was not in the tier and is lost")
	return r.Restored, nil
}

// restore is one under way.
type restore struct {
	opts *Options
	man  *tiered.Manifest
	Restored
}

func (r *restore) run(ctx context.Context) error {
	if err := r.begin(); err != nil {
		return err
	}
	err := r.patiently(ctx, func() (err error) {
		r.man, err = r.opts.Tier.TakeOver(ctx)
		return err
	})
	if err != nil {
		return err
	}
	parts := r.man.Parts
	if len(parts) == 0 {
		return ErrNoSnapshot
	}
	r.End, r.Until = parts[len(parts)-1].End, parts[len(parts)-1].Until
	from, err := r.view(ctx)
	if err != nil {
		return err
	}
	if err := r.log(ctx, from); err != nil {
		return err
	}
	return r.finish()
}

// ours says whether a name in the data folder is one of a store.
func ours(name string) bool {
	return name == logFolder || name == indexFolder || name == damagedFolder || strings.HasPrefix(name, checkpointPrefix)
}

// begin makes sure that there is nothing in the folder but what a restore left there, and clears that.
func (r *restore) begin() error {
	o := r.opts
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return err
	}
	if !errors.Is(checkRestored(o), ErrRestoring) {
		for _, name := range names {
			if ours(name) {
				return fmt.Errorf("%w: %s has %s", ErrNotEmpty, o.Dir, name)
			}
		}
		if err := r.mark(); err != nil {
			return err
		}
	}
	return r.clear()
}

// clear removes what is there of a store.
func (r *restore) clear() error {
	o := r.opts
	names, err := o.FS.List(o.Dir)
	for _, name := range names {
		if ours(name) {
			err = errors.Join(err, o.FS.RemoveAll(o.path(name)))
		}
	}
	return err
}

// mark says that the folder is not complete.
func (r *restore) mark() error {
	f, err := r.opts.FS.Create(r.opts.path(restoreMark), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close(), syncDir(r.opts.FS, r.opts.Dir))
}

// finish says whose the folder is, and that it is complete.
func (r *restore) finish() error {
	o := r.opts
	id := tiered.Identity{Store: r.man.Store, Generation: r.man.Generation}
	if err := errors.Join(syncDir(o.FS, o.path(logFolder)), id.Write(o.FS, o.Dir), syncDir(o.FS, o.Dir)); err != nil {
		return err
	}
	return errors.Join(o.FS.Remove(o.path(restoreMark)), syncDir(o.FS, o.Dir))
}

// view makes the index, and returns what the log goes on from; nil for its beginning.
func (r *restore) view(ctx context.Context) (*tiered.SnapshotHead, error) {
	for _, snapshot := range r.man.Usable() {
		head, err := r.load(ctx, &snapshot)
		if unusable(err) { // it may have been what was read that is damaged, not what is there
			head, err = r.load(ctx, &snapshot)
		}
		if unusable(err) {
			r.opts.Logger.Warn().Err(err).Int64("position", int64(snapshot.Position)).Msg("a snapshot of the tier cannot be used; trying the one before")
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load the snapshot at %d: %w", snapshot.Position, err)
		}
		return head, nil
	}
	if r.man.Parts[0].Start > 0 {
		return nil, ErrNoSnapshot
	}
	r.Snapshot, r.Rows = 0, 0
	return nil, r.clear()
}

// unusable says whether a snapshot is damaged or gone.
func unusable(err error) bool {
	var damage *tiered.DamageError
	return errors.As(err, &damage) || errors.Is(err, objects.ErrNotFound)
}

// load makes an index of the rows of a snapshot.
func (r *restore) load(ctx context.Context, snapshot *tiered.Snapshot) (head *tiered.SnapshotHead, err error) {
	var here error // of what is no fault of the tier's
	err = r.patiently(ctx, func() error {
		if here = r.clear(); here != nil {
			return nil
		}
		rows, err := r.opts.Tier.SnapshotRows(ctx, snapshot)
		if err != nil {
			return err
		}
		head, r.Snapshot = &rows.Head, snapshot.Position
		var engine kvindex.Engine
		if engine, here = r.openIndex(head); here == nil {
			here = r.fill(ctx, engine, rows)
		}
		if err = rows.Close(); err == nil && here == nil {
			here = r.checkpoint(engine, snapshot, head)
		}
		if engine != nil {
			here = errors.Join(here, engine.Close())
		}
		return err
	})
	return head, errors.Join(err, here)
}

// loadChunk is how many bytes of rows go to the index together.
const loadChunk = 1 << 20

// fill sets the rows of a snapshot.
func (r *restore) fill(ctx context.Context, engine kvindex.Engine, rows *tiered.SnapshotReader) (err error) {
	w := engine.NewWriter()
	defer func() { err = errors.Join(err, w.Close()) }()
	r.Rows = 0
	for rows.Next() {
		w.Set(rows.Row())
		r.Rows++
		if w.Len() < loadChunk {
			continue
		}
		if err := errors.Join(ctx.Err(), w.Commit()); err != nil {
			return err
		}
		w.Reset()
		if engine.FlushDue() {
			if err := engine.Flush(); err != nil {
				return err
			}
		}
	}
	return w.Commit()
}

func (r *restore) openIndex(head *tiered.SnapshotHead) (kvindex.Engine, error) {
	if known := uint32(kvindex.FormatVersion); head.RowFormat > known {
		return nil, &kvindex.FormatError{Found: head.RowFormat, Known: known}
	}
	o := r.opts
	return kvindex.Open(kvindex.Options{
		FS: o.FS, Dir: o.path(indexFolder), MemoryBytes: o.CacheBytes, Logger: o.Logger, Kind: o.Engine,
	})
}

// checkpoint makes the view durable, and keeps a copy of it, for the log does not reach back to what made it. The view must say that it is
// as of where the log goes on from.
func (r *restore) checkpoint(engine kvindex.Engine, snapshot *tiered.Snapshot, head *tiered.SnapshotHead) error {
	at, err := kvindex.ReadApplied(engine)
	if err != nil {
		return err
	}
	if want := (kvindex.Applied{End: head.End, Index: head.Index, Timestamp: head.Timestamp}); at != want {
		return &tiered.DamageError{Object: snapshot.Name(), Reason: fmt.Sprintf("it is of %+v, and its rows of %+v", want, at)}
	}
	if err := engine.Flush(); err != nil {
		return err
	}
	return engine.Checkpoint(r.opts.path(checkpointName(at.End)))
}

// log makes the segments that the log goes on from.
func (r *restore) log(ctx context.Context, from *tiered.SnapshotHead) error {
	o := r.opts
	dir := o.path(logFolder)
	if err := makeDir(o.FS, dir); err != nil {
		return err
	}
	at := record.Position(0)
	fetched := func(p *tiered.Part) func(vfs.File) error {
		return func(f vfs.File) error { return r.fetch(ctx, f, max(at, p.Start), p.End) }
	}
	parts := r.man.Parts
	if from != nil {
		at = from.End
		resumed := commitlog.Resumption{Number: from.Log, Term: from.Term, Index: from.Index, Timestamp: from.Timestamp, End: at}
		rest := func(vfs.File) error { return nil }
		for len(parts) > 0 && parts[0].Start < at {
			if parts[0].End > at {
				rest = fetched(&parts[0])
			}
			parts = parts[1:]
		}
		if err := commitlog.Resume(o.FS, dir, resumed, rest); err != nil {
			return err
		}
	}
	for i := range parts {
		if err := commitlog.MakeSegment(o.FS, dir, parts[i].Start, fetched(&parts[i])); err != nil {
			return err
		}
	}
	// What became visible in the millisecond at which the last part ends is in no part yet: the next one must begin with it.
	return commitlog.Continue(o.FS, dir, at, r.End, r.Until)
}

// fetch writes bytes of the log.
func (r *restore) fetch(ctx context.Context, f vfs.File, at, end record.Position) error {
	var buf []byte
	for at < end {
		err := r.patiently(ctx, func() (err error) {
			buf, err = r.opts.Tier.ReadRaw(ctx, at, int(min(uploadChunk, end-at)), buf[:0])
			return err
		})
		if err != nil {
			return err
		}
		if _, err := f.Write(buf); err != nil {
			return err
		}
		at += record.Position(len(buf))
		r.LogBytes += int64(len(buf))
	}
	return nil
}

// A restore asks again when the store fails for the time being: so often, after pauses that double.
const (
	restoreTries = 8
	restorePause = 100 * time.Millisecond
)

// patiently calls f until it goes well, or fails with something that does not pass.
func (r *restore) patiently(ctx context.Context, f func() error) error {
	pause := restorePause
	for try := 1; ; try++ {
		err := f()
		if err == nil || ctx.Err() != nil || try == restoreTries || !tiered.Temporary(err) {
			return err
		}
		r.opts.Logger.Debug().Err(err).Int("try", try).Msg("the tier did not answer; trying again")
		timer := r.opts.Clock.NewTimer(pause)
		select {
		case <-timer.C():
		case <-ctx.Done():
		}
		timer.Stop()
		pause *= 2
	}
}
