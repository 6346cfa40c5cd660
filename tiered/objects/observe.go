package objects

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Call is one call of a store that has ended.
type Call struct {
	Operation string // read, put, create, stat, list, delete or sweep
	Took      time.Duration
	Read      int64 // bytes of contents that came
	Written   int64 // bytes of contents that went, when it succeeded
	Err       error // nil also for answers that are none of the store's failures: the end of an object, no such object, it exists
}

// observed tells of each call.
type observed struct {
	Store
	tell func(Call)
}

// Observe returns the store, which tells of each call; tell must be safe for concurrent use.
func Observe(s Store, tell func(Call)) Store { return &observed{s, tell} }

// done tells of a call that began at a time.
func (o *observed) done(operation string, began time.Time, read, written int64, err error) {
	if err == io.EOF || errors.Is(err, ErrNotFound) || errors.Is(err, ErrExists) {
		err = nil
	}
	if err != nil {
		written = 0
	}
	o.tell(Call{operation, time.Since(began), read, written, err})
}

func (o *observed) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	began := time.Now()
	n, err := o.Store.ReadAt(ctx, name, p, off)
	o.done("read", began, int64(n), 0, err)
	return n, err
}

func (o *observed) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	began := time.Now()
	err := o.Store.Put(ctx, name, content, size)
	o.done("put", began, 0, size, err)
	return err
}

func (o *observed) Create(ctx context.Context, name string, content []byte) error {
	began := time.Now()
	err := o.Store.Create(ctx, name, content)
	o.done("create", began, 0, int64(len(content)), err)
	return err
}

func (o *observed) Stat(ctx context.Context, name string) (Info, error) {
	began := time.Now()
	info, err := o.Store.Stat(ctx, name)
	o.done("stat", began, 0, 0, err)
	return info, err
}

func (o *observed) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		began, failed := time.Now(), error(nil)
		defer func() { o.done("list", began, 0, 0, failed) }()
		for info, err := range o.Store.List(ctx, prefix, after) {
			failed = err
			if !yield(info, err) {
				return
			}
		}
	}
}

func (o *observed) Delete(ctx context.Context, name string) error {
	began := time.Now()
	err := o.Store.Delete(ctx, name)
	o.done("delete", began, 0, 0, err)
	return err
}

func (o *observed) Sweep(ctx context.Context, before time.Time) (int, error) {
	began := time.Now()
	n, err := o.Store.Sweep(ctx, before)
	o.done("sweep", began, 0, 0, err)
	return n, err
}
