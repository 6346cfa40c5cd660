// Package foldtest lets tests drive one fold as the store does, without the store: a log in memory, and the view of it.
package foldtest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// Fold is what is driven.
type Fold interface {
	kvindex.Fold
	kvindex.Releaser
	Publish()
}

// Step is what one record of a log batch does. It is done again on other folds, and must do the same there.
type Step[F Fold] func(f F, b *kvindex.Batch, at record.Position) (Result, error)

// Result is what became of a step.
type Result struct {
	record.Outcome
	Released []kvindex.Release
}

// Record is the step of a record that the fold applies.
func Record[F Fold](r record.Record) Step[F] {
	return func(f F, b *kvindex.Batch, at record.Position) (Result, error) {
		out, err := f.Apply(b, at, r)
		return Result{out, slices.Clone(f.Released())}, err
	}
}

// Do is the step of what another fold does to the rows.
func Do[F Fold](change func(b *kvindex.Batch)) Step[F] {
	return func(_ F, b *kvindex.Batch, _ record.Position) (Result, error) {
		change(b)
		return Result{}, nil
	}
}

// Machine is a fold with its rows and the log that they come from.
type Machine[F Fold] struct {
	Fold   F
	Engine kvindex.Engine

	t     testing.TB
	fold  func(kvindex.Engine) F
	rules func(kvindex.Reader) error
	disk  *vfs.MemFS // that the index lies on, unless the engine knows no other than the machine's
	dir   string
	batch *kvindex.Batch
	log   []logged[F]
}

type logged[F Fold] struct {
	timestamp int64
	steps     []Step[F]
}

// New makes a machine whose log is empty; rules says what must hold of the rows.
func New[F Fold](t testing.TB, fold func(kvindex.Engine) F, rules func(kvindex.Reader) error) *Machine[F] {
	m := empty(t, fold, rules)
	m.open()
	t.Cleanup(func() { m.close() })
	return m
}

func empty[F Fold](t testing.TB, fold func(kvindex.Engine) F, rules func(kvindex.Reader) error) *Machine[F] {
	m := &Machine[F]{t: t, fold: fold, rules: rules, dir: "index"}
	if engineKind == kvindex.KindPebble {
		m.disk = vfs.NewCrashableMem()
	} else {
		m.dir = t.TempDir()
	}
	return m
}

func (m *Machine[F]) open() {
	m.t.Helper()
	o := kvindex.Options{Dir: m.dir, Kind: engineKind, MemoryBytes: 4 << 20}
	if m.disk != nil {
		o.FS = m.disk
	}
	e, err := kvindex.Open(o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.Engine, m.batch, m.Fold = e, kvindex.NewBatch(e), m.fold(e)
}

func (m *Machine[F]) close() {
	m.t.Helper()
	if err := m.batch.Close(); err != nil {
		m.t.Error(err)
	}
	if err := m.Engine.Close(); err != nil { // which flushes nothing
		m.t.Error(err)
	}
}

// Apply appends one batch to the log and folds it.
func (m *Machine[F]) Apply(timestamp int64, steps ...Step[F]) []Result {
	m.t.Helper()
	m.log = append(m.log, logged[F]{timestamp, steps})
	out, err := m.apply(len(m.log) - 1)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *Machine[F]) apply(i int) (out []Result, err error) {
	m.batch.Begin(record.Position(i+1), uint64(i+1), m.log[i].timestamp)
	for j, step := range m.log[i].steps {
		r, err := step(m.Fold, m.batch, record.Position(1000*i+j))
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	if err := m.Fold.Finish(m.batch); err != nil {
		return nil, err
	}
	if err := m.batch.Commit(); err != nil {
		return nil, err
	}
	m.Fold.Publish()
	return out, nil
}

// Flush makes all rows durable.
func (m *Machine[F]) Flush() {
	m.t.Helper()
	if err := m.Engine.Flush(); err != nil {
		m.t.Fatal(err)
	}
}

// Crash loses what was not flushed, and applies the log from there.
func (m *Machine[F]) Crash() {
	m.t.Helper()
	left := m.disk
	if left != nil {
		left = left.CrashClone(vfs.CrashCloneCfg{})
	}
	m.close()
	m.disk = left
	m.open()
	m.replay()
}

func (m *Machine[F]) replay() {
	m.t.Helper()
	at, err := kvindex.ReadApplied(m.Engine)
	for i := int(at.Index); err == nil && i < len(m.log); i++ {
		_, err = m.apply(i)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// Check looks whether the rules hold, and whether the rows are those that the whole log makes anew. It reports an error so
// that property tests can go on with a smaller case.
func (m *Machine[F]) Check() error {
	if err := m.rules(m.Engine); err != nil {
		return err
	}
	again := empty(m.t, m.fold, m.rules)
	again.log = m.log
	again.open()
	defer again.close()
	again.replay()
	diff, err := kvindex.Diff(m.Engine, again.Engine)
	if err == nil && diff != "" {
		err = fmt.Errorf("the view is not what the log says: %s", diff)
	}
	return err
}

// Dump prints the rows, but those that every view has.
func (m *Machine[F]) Dump() string {
	m.t.Helper()
	var out strings.Builder
	for _, space := range kvindex.Spaces() {
		if space == kvindex.SpaceApplied || space == kvindex.SpaceMeta {
			continue
		}
		if err := kvindex.Dump(&out, m.Engine, space, 0); err != nil {
			m.t.Fatal(err)
		}
	}
	return out.String()
}

// Hex prints the rows as they are, but the applied position.
func (m *Machine[F]) Hex() string {
	m.t.Helper()
	var out strings.Builder
	err := kvindex.EachRow(m.Engine, []byte{byte(kvindex.SpaceMeta) + 1}, nil, func(key, val []byte) (bool, error) {
		fmt.Fprintf(&out, "%x = %x\n", key, val)
		return true, nil
	})
	if err != nil {
		m.t.Fatal(err)
	}
	return out.String()
}

// Spoil changes rows past the log.
func (m *Machine[F]) Spoil(change func(w kvindex.Writer)) {
	m.t.Helper()
	w := m.Engine.NewWriter()
	change(w)
	if err := w.Commit(); err != nil {
		m.t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		m.t.Fatal(err)
	}
}

// OneRun is a scope for machines that live for one run of a property test; end closes them.
func OneRun(t testing.TB) (run testing.TB, end func()) {
	r := &oneRun{TB: t}
	return r, func() {
		for _, f := range r.after {
			f()
		}
	}
}

type oneRun struct {
	testing.TB
	after []func()
}

func (r *oneRun) Cleanup(f func()) { r.after = append(r.after, f) }
