package store

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// What lies beside index/ in the data folder:
//
//	checkpoint-<20 digits>  a copy of the view (hard links) that holds at least all batches up to that log position
//	*.new                   being made: worthless after a crash
//	index.damaged           the last view that was put aside because it could not be used, for those who want to know why
//
// A view is set up anew when it is damaged or does not reach what is left of the log. While the log still has its
// beginning, that is an empty view and the whole log; later, the newest checkpoint and the log behind it.
const (
	checkpointPrefix = "checkpoint-"
	newSuffix        = ".new"
	damagedFolder    = "index.damaged"
)

// ErrViewLost says that the view is damaged and neither log nor checkpoints reach back far enough to make it anew.
var ErrViewLost = errors.New("the index is lost")

func checkpointName(at record.Position) string {
	return fmt.Sprintf("%s%020d", checkpointPrefix, int64(at))
}

func parseCheckpointName(name string) (record.Position, bool) {
	digits, ok := strings.CutPrefix(name, checkpointPrefix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	var at int64
	if _, err := fmt.Sscanf(digits, "%020d", &at); err != nil || at < 0 {
		return 0, false
	}
	return record.Position(at), true
}

// openView opens the index, and sets it up anew when that is called for.
func (s *Store) openView() error {
	engine, err := s.openIndex()
	why := ""
	if err == nil {
		if why, err = s.viewShortfall(engine); err == nil && why == "" {
			s.engine = engine
			return nil
		}
		if cerr := engine.Close(); err == nil {
			err = cerr
		}
	}
	if err != nil {
		if !damaged(err) {
			return fmt.Errorf("store: open index: %w", err)
		}
		why = err.Error()
	}
	from, err := s.restoreView()
	if err != nil {
		return fmt.Errorf("store: set the index up anew (%s): %w", why, err)
	}
	s.recovery.Restored = why + "; made anew from " + from
	s.opts.Logger.Warn().Str("why", why).Str("from", from).Msg("the index could not be used and is made anew")
	if s.engine, err = s.openIndex(); err != nil {
		return fmt.Errorf("store: open index: %w", err)
	}
	if why, err = s.viewShortfall(s.engine); err == nil && why != "" {
		err = fmt.Errorf("%w: %s", ErrViewLost, why)
	}
	return err
}

func (s *Store) openIndex() (kvindex.Engine, error) {
	return kvindex.Open(kvindex.Options{
		FS: s.opts.FS, Dir: s.opts.path(indexFolder), MemoryBytes: s.opts.CacheBytes, Logger: s.opts.Logger,
		Kind: s.opts.Engine, BeforeFlush: s.log.Sync,
	})
}

// viewShortfall says why a view that can be opened is of no use: the log no longer holds what comes next for it.
func (s *Store) viewShortfall(engine kvindex.Engine) (string, error) {
	at, err := kvindex.ReadApplied(engine)
	if err != nil {
		return "", err
	}
	if first := s.log.First(); at.End < first {
		return fmt.Sprintf("the index reaches position %d, the log begins at %d", at.End, first), nil
	}
	return "", nil
}

// damaged tells a view that is broken from one that only cannot be opened now or by this program.
func damaged(err error) bool {
	var format *kvindex.FormatError
	var row *kvindex.RowError
	switch {
	case errors.As(err, &format):
		return format.Found == 0
	case errors.As(err, &row):
		return true
	}
	return pebble.IsCorruptionError(err) || errors.Is(err, fs.ErrNotExist) ||
		strings.Contains(err.Error(), "Corruption: ") // RocksDB says it in words only
}

// restoreView puts the present index aside and sets up the state that the log can go on from. It says which that was.
func (s *Store) restoreView() (from string, err error) {
	o := &s.opts
	target := o.path(indexFolder)
	temp := target + newSuffix
	if err := o.FS.RemoveAll(temp); err != nil {
		return "", err
	}
	first := s.log.First()
	from = "the whole log"
	if first > 0 {
		name, ok, err := newestCheckpoint(o)
		if err != nil {
			return "", err
		}
		if !ok {
			return "", fmt.Errorf("%w: the log begins at %d and there is no checkpoint", ErrViewLost, first)
		}
		from = name + " and the log"
		if _, err := vfs.Clone(o.FS, o.FS, o.path(name), temp, vfs.CloneSync); err != nil {
			return "", fmt.Errorf("copy %s: %w", name, err)
		}
	}
	aside := o.path(damagedFolder)
	if err := o.FS.RemoveAll(aside); err != nil {
		return "", err
	}
	if err := o.FS.Rename(target, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if first > 0 {
		if err := o.FS.Rename(temp, target); err != nil {
			return "", err
		}
	}
	return from, syncDir(o.FS, o.Dir)
}

// checkpoints lists the complete ones by name, oldest first.
func checkpoints(o *Options) ([]string, error) {
	all, err := o.FS.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	names := slices.DeleteFunc(all, func(name string) bool {
		_, ok := parseCheckpointName(name)
		return !ok
	})
	slices.Sort(names)
	return names, nil
}

func newestCheckpoint(o *Options) (name string, ok bool, err error) {
	names, err := checkpoints(o)
	if err != nil || len(names) == 0 {
		return "", false, err
	}
	return names[len(names)-1], true, nil
}

// writeCheckpoint keeps a copy of the view as it is on disk, which holds at least all batches up to at, and removes the
// copies before it.
func (s *Store) writeCheckpoint(at record.Position) error {
	o := &s.opts
	name := checkpointName(at)
	older, err := checkpoints(o)
	if err != nil {
		return err
	}
	if !slices.Contains(older, name) {
		temp := o.path(name + newSuffix)
		if err := o.FS.RemoveAll(temp); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := s.engine.Checkpoint(temp); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := o.FS.Rename(temp, o.path(name)); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := syncDir(o.FS, o.Dir); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	for _, old := range older {
		if old != name {
			if err := o.FS.RemoveAll(o.path(old)); err != nil {
				return fmt.Errorf("remove %s: %w", old, err)
			}
		}
	}
	return nil
}

// removeLeftovers clears what a crash left half-made.
func (s *Store) removeLeftovers() error {
	all, err := s.opts.FS.List(s.opts.Dir)
	if err != nil {
		return fmt.Errorf("store: list data folder: %w", err)
	}
	for _, name := range all {
		if base, ok := strings.CutSuffix(name, newSuffix); ok {
			if _, isCheckpoint := parseCheckpointName(base); isCheckpoint || base == indexFolder {
				if err := s.opts.FS.RemoveAll(s.opts.path(name)); err != nil {
					return fmt.Errorf("store: remove %s: %w", name, err)
				}
			}
		}
	}
	return nil
}

// makeDir makes dir and what is missing above it, durably.
func makeDir(fsys vfs.FS, dir string) error {
	_, err := fsys.Stat(dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := fsys.PathDir(dir)
	if parent != dir {
		if err := makeDir(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return syncDir(fsys, parent)
}

func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
