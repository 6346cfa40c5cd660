package store

import (
	"context"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// ErrViewDiffers says that the view is not what the log says.
var ErrViewDiffers = errors.New("the index differs from what the log says")

// Verify makes the view anew in memory, from the log where it still reaches back to its beginning, else from the newest
// checkpoint and the log behind it, and compares it with the live one row by row: ErrViewDiffers names the first
// difference. Traffic may go on; what counts is the moment of the call. It needs as much memory as the index has rows.
func (s *Store) Verify(ctx context.Context) error {
	s.expiring.Lock() // no segment or checkpoint goes while it is read
	defer s.expiring.Unlock()
	live := s.engine.NewSnapshot()
	defer live.Close()
	at, err := kvindex.ReadApplied(live)
	if err != nil {
		return fmt.Errorf("store: verify: %w", err)
	}
	anew, err := kvindex.Open(kvindex.Options{FS: vfs.NewMem(), Dir: "view", Logger: s.opts.Logger})
	if err != nil {
		return fmt.Errorf("store: verify: %w", err)
	}
	defer anew.Close()
	r := rebuild{opts: &s.opts, more: s.more, into: anew, first: s.log.First(), until: at.End}
	if err := r.run(ctx); err != nil {
		return fmt.Errorf("store: verify: %w", err)
	}
	diff, err := kvindex.Diff(anew, live)
	if err != nil {
		return fmt.Errorf("store: verify: %w", err)
	}
	if diff != "" {
		return fmt.Errorf("store: %w (the first is the log's): %s", ErrViewDiffers, diff)
	}
	return nil
}

// Rebuild makes the view of the store in opts.Dir anew in the folder dir, which must not exist, and returns the log
// position that it reaches. It changes nothing in opts.Dir; the store must be closed.
func Rebuild(ctx context.Context, opts Options, dir string) (record.Position, error) {
	return rebuildInto(ctx, opts, dir, popFold)
}

func rebuildInto(ctx context.Context, opts Options, dir string, more moreFolds) (at record.Position, err error) {
	opts, err = opts.withDefaults()
	if err != nil {
		return 0, err
	}
	if _, err := opts.FS.Stat(dir); err == nil {
		return 0, fmt.Errorf("store: rebuild: %s exists", dir)
	}
	first, err := logBeginning(&opts)
	if err != nil {
		return 0, fmt.Errorf("store: rebuild: %w", err)
	}
	into, err := kvindex.Open(kvindex.Options{
		FS: opts.FS, Dir: dir, MemoryBytes: opts.CacheBytes, Logger: opts.Logger, Kind: opts.Engine,
	})
	if err != nil {
		return 0, fmt.Errorf("store: rebuild: %w", err)
	}
	defer func() {
		if cerr := into.Close(); err == nil {
			err = cerr
		}
	}()
	r := rebuild{opts: &opts, more: more, into: into, first: first, until: -1}
	if err := r.run(ctx); err != nil {
		return 0, fmt.Errorf("store: rebuild: %w", err)
	}
	if err := into.Flush(); err != nil {
		return 0, fmt.Errorf("store: rebuild: %w", err)
	}
	reached, err := kvindex.ReadApplied(into)
	return reached.End, err
}

// logBeginning is where the log of a closed store begins.
func logBeginning(o *Options) (record.Position, error) {
	if _, err := o.FS.Stat(o.path(logFolder)); err != nil {
		return 0, err
	}
	l, err := commitlog.Open(commitlog.Options{FS: o.FS, Dir: o.path(logFolder), Logger: o.Logger})
	if err != nil {
		return 0, err
	}
	return l.First(), l.Close()
}

// rebuild makes a view anew without touching the live one.
type rebuild struct {
	opts  *Options
	more  moreFolds
	into  kvindex.Engine
	first record.Position // where the log begins
	until record.Position // where a batch ends, which is the last one to apply; -1 for all
}

// errReached ends a scan.
var errReached = errors.New("reached")

func (r *rebuild) run(ctx context.Context) error {
	if r.first > 0 {
		if err := r.copyCheckpoint(ctx); err != nil {
			return err
		}
	}
	from, err := kvindex.ReadApplied(r.into)
	if err != nil {
		return err
	}
	if from.End < r.first {
		return fmt.Errorf("%w: the checkpoint reaches position %d, the log begins at %d", ErrViewLost, from.End, r.first)
	}
	if r.until >= 0 && from.End > r.until {
		return fmt.Errorf("the checkpoint reaches position %d, beyond %d", from.End, r.until)
	}
	reached := from.End
	if reached == r.until {
		return nil
	}
	f := newFolder(r.into, r.more)
	defer f.batch.Close()
	err = commitlog.Scan(r.opts.FS, r.opts.path(logFolder), from.End, func(b *commitlog.Batch) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.apply(b); err != nil {
			return err
		}
		f.reset()
		if reached = b.End; reached == r.until {
			return errReached // and no look at what is being written behind it
		}
		return nil
	})
	if err != nil && !errors.Is(err, errReached) {
		return err
	}
	if r.until >= 0 && reached != r.until {
		return fmt.Errorf("the log could be read up to %d, the index reaches %d", reached, r.until)
	}
	return nil
}

// copyCheckpoint copies the rows of the newest checkpoint.
func (r *rebuild) copyCheckpoint(ctx context.Context) (err error) {
	name, ok, err := newestCheckpoint(r.opts)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: the log begins at %d and there is no checkpoint", ErrViewLost, r.first)
	}
	from, err := kvindex.Open(kvindex.Options{
		FS: r.opts.FS, Dir: r.opts.path(name), Kind: r.opts.Engine, Logger: r.opts.Logger, ReadOnly: true,
	})
	if err != nil {
		return fmt.Errorf("open %s: %w", name, err)
	}
	defer func() {
		if cerr := from.Close(); err == nil {
			err = cerr
		}
	}()
	it, err := from.NewIter(nil, nil)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	w := r.into.NewWriter()
	defer w.Close()
	const chunk = 1 << 20
	for ok := it.First(); ok; ok = it.Next() {
		w.Set(it.Key(), it.Value())
		if w.Len() < chunk {
			continue
		}
		if err := errors.Join(ctx.Err(), w.Commit()); err != nil {
			return err
		}
		w.Reset()
	}
	return errors.Join(it.Error(), w.Commit())
}
