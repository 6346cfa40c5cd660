package faults

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/tiered/objects"
)

// Hang is how long a call waits on the store's clock before it fails with a time-out.
const Hang = 30 * time.Second

// Store breaks the calls to a store of this process as its plan says. What goes wrong on the way of a Put or Create that
// ends in WrongBytes is stored so: the store behind has no checksums, as a disk has none.
type Store struct {
	objects.Store
	plan  *Plan
	clock clock.Clock
	lists history[[]objects.Info]
}

// NewStore wraps a store; the clock tells when a time-out ends and how old a list is.
func NewStore(inner objects.Store, plan *Plan, c clock.Clock) *Store {
	return &Store{Store: inner, plan: plan, clock: c}
}

// before decides what befalls a call, and ends it here when it is not carried out.
func (s *Store) before(ctx context.Context, c call) (kind Kind, wrong bool, err error) {
	kind, wrong = s.plan.choose(c)
	if !wrong {
		return 0, false, nil
	}
	switch kind {
	case Timeout:
		s.plan.count(kind)
		timer := s.clock.NewTimer(Hang)
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return kind, true, ctx.Err()
		case <-timer.C():
		}
		return kind, true, injected(kind)
	case ServerError, SlowDown, Outage:
		s.plan.count(kind)
		return kind, true, injected(kind)
	case QuotaFull:
		s.plan.count(kind)
		return kind, true, fmt.Errorf("%w: %w", objects.ErrRefused, injected(kind))
	}
	return kind, true, nil
}

func injected(k Kind) error { return errors.New("injected: " + k.String()) }

// ReadAt reads, or half of it, or something else.
func (s *Store) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	kind, wrong, err := s.before(ctx, read)
	if err != nil {
		return 0, err
	}
	n, err := s.Store.ReadAt(ctx, name, p, off)
	if !wrong || n == 0 {
		return n, err
	}
	if kind == CutAnswer {
		s.plan.count(kind)
		return n / 2, fmt.Errorf("%w: %w", injected(kind), io.ErrUnexpectedEOF)
	}
	s.plan.countWrong("/" + name)
	p[s.plan.below(n)] ^= 0x20
	return n, err
}

// Put writes, or does not, or not what it was told to.
func (s *Store) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	return s.write(ctx, func(wrong bool) error {
		if !wrong {
			return s.Store.Put(ctx, name, content, size)
		}
		if _, err := content.Seek(0, io.SeekStart); err != nil {
			return err
		}
		damaged, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		return s.Store.Put(ctx, name, bytes.NewReader(s.damaged(damaged)), size)
	})
}

// Create writes, or does not, or not what it was told to.
func (s *Store) Create(ctx context.Context, name string, content []byte) error {
	return s.write(ctx, func(wrong bool) error {
		if wrong {
			content = s.damaged(bytes.Clone(content))
		}
		return s.Store.Create(ctx, name, content)
	})
}

func (s *Store) damaged(content []byte) []byte {
	if len(content) > 0 {
		content[s.plan.below(len(content))] ^= 0x20
	}
	return content
}

func (s *Store) write(ctx context.Context, carryOut func(wrong bool) error) error {
	kind, wrong, err := s.before(ctx, write)
	if err != nil {
		return err
	}
	if !wrong {
		return carryOut(false)
	}
	if kind == HalfUpload {
		s.plan.count(kind)
		return injected(kind)
	}
	if err := carryOut(kind == WrongBytes); err != nil {
		return err
	}
	s.plan.count(kind)
	if kind == LostAnswer {
		return injected(kind)
	}
	return nil
}

// Stat fails as any call.
func (s *Store) Stat(ctx context.Context, name string) (objects.Info, error) {
	if _, _, err := s.before(ctx, other); err != nil {
		return objects.Info{}, err
	}
	return s.Store.Stat(ctx, name)
}

// List gives the list, half of it, or an old one.
func (s *Store) List(ctx context.Context, prefix, after string) iter.Seq2[objects.Info, error] {
	return func(yield func(objects.Info, error) bool) {
		infos, err := s.list(ctx, prefix, after)
		for _, info := range infos {
			if !yield(info, nil) {
				return
			}
		}
		if err != nil {
			yield(objects.Info{}, err)
		}
	}
}

func (s *Store) list(ctx context.Context, prefix, after string) ([]objects.Info, error) {
	kind, _, err := s.before(ctx, list)
	if err != nil {
		return nil, err
	}
	query := prefix + "\x00" + after
	if kind == StaleList {
		if old, ok := s.lists.stale(query, s.clock.Now()); ok {
			s.plan.count(kind)
			return old, nil
		}
	}
	var infos []objects.Info
	for info, err := range s.Store.List(ctx, prefix, after) {
		if err != nil {
			return infos, err
		}
		infos = append(infos, info)
	}
	if kind == CutAnswer {
		s.plan.count(kind)
		return infos[:len(infos)/2], fmt.Errorf("%w: %w", injected(kind), io.ErrUnexpectedEOF)
	}
	s.lists.remember(query, infos, s.clock.Now())
	return infos, nil
}

// Delete removes, and may not say so.
func (s *Store) Delete(ctx context.Context, name string) error {
	kind, wrong, err := s.before(ctx, remove)
	if err != nil {
		return err
	}
	if err := s.Store.Delete(ctx, name); err != nil || !wrong {
		return err
	}
	s.plan.count(kind)
	return injected(kind)
}

// Sweep fails as any call.
func (s *Store) Sweep(ctx context.Context, before time.Time) (int, error) {
	if _, _, err := s.before(ctx, other); err != nil {
		return 0, err
	}
	return s.Store.Sweep(ctx, before)
}
