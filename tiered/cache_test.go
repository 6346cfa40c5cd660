package tiered

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered/objects"
)

// someBodies puts an object of a few blocks.
func someBodies(t testing.TB, s *fake, blocks int) (Part, []byte) {
	t.Helper()
	raw := noise(rand.New(rand.NewPCG(uint64(blocks), 3)), blocks*BlockSize-9)
	p := Part{Start: 0, End: record.Position(len(raw)), Generation: uint64(blocks)}
	obj := bodiesOf(t, 0, raw)
	p.LogBytes = int64(len(obj))
	put(t, s, p.LogName(), obj)
	return p, raw
}

func TestMemoryIsBounded(t *testing.T) {
	s := newFake(t)
	p, _ := someBodies(t, s, 12)
	f := newTestFetcher(t, s, Options{Memory: 4 * BlockSize})
	for range 3 {
		x, err := f.openBodies(context.Background(), &p)
		must(t, err)
		for i := range 12 {
			_, err := f.pages(context.Background(), x, i, i)
			must(t, err)
			if n := f.memory.size(); n > 4*BlockSize {
				t.Fatalf("%d bytes are cached", n)
			}
		}
	}
	f.memory.forget(p.LogName())
	if n := f.memory.size(); n != 0 {
		t.Errorf("%d bytes are left of an object that is forgotten", n)
	}
}

// Many who ask for the same block cause one request, and who goes away does not take it from the others.
func TestRequestsAreMerged(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := newFake(t)
	p, raw := someBodies(t, s, 2)
	f := newTestFetcher(t, s, Options{})
	x, err := f.openBodies(context.Background(), &p)
	must(t, err)
	start := s.reads.Load()
	hold, began := make(chan struct{}), make(chan struct{}, 1)
	s.onRead(func(_ string, _ []byte, _ int64, real func() (int, error)) (int, error) {
		began <- struct{}{}
		<-hold
		return real()
	})
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan error)
	go func() {
		_, err := f.pages(ctx, x, 0, 1)
		first <- err
	}()
	<-began
	var others sync.WaitGroup
	for i := range 20 {
		others.Go(func() {
			got, err := f.pages(context.Background(), x, i%2, 1)
			if err != nil || !bytes.HasSuffix(raw, got[len(got)-1]) {
				t.Errorf("waiter %d: %v", i, err)
			}
		})
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("who went away got %v", err)
	}
	close(hold)
	others.Wait()
	if n := s.reads.Load() - start; n != 1 {
		t.Errorf("%d requests", n)
	}
	f.close()
	if _, err := f.pages(context.Background(), x, 0, 0); err != nil && !errors.Is(err, ErrClosed) {
		t.Errorf("after close: %v", err)
	}
	goleak.VerifyNone(t, before)
}

// A failed request fails who waited for it, and nobody later.
func TestFailureIsNotCached(t *testing.T) {
	s := newFake(t)
	p, raw := someBodies(t, s, 1)
	f := newTestFetcher(t, s, Options{})
	outage := errors.New("no route to host")
	s.onRead(func(string, []byte, int64, func() (int, error)) (int, error) { return 0, outage })
	if _, err := readAll(context.Background(), f, &p); !errors.Is(err, outage) {
		t.Fatalf("during an outage: %v", err)
	}
	s.onRead(nil)
	got, err := readAll(context.Background(), f, &p)
	must(t, err)
	if !bytes.Equal(got, raw) {
		t.Error("other bytes")
	}
}

// Who reads does not notice an answer that was cut off, as long as the next one is whole; a refusal is not asked for again.
func TestAnAnswerThatWasCutOffIsAskedForAgain(t *testing.T) {
	s := newFake(t)
	p, raw := someBodies(t, s, 1)
	f := newTestFetcher(t, s, Options{})
	reads := 0
	s.onRead(func(_ string, _ []byte, _ int64, read func() (int, error)) (int, error) {
		if reads++; reads%2 == 1 {
			n, _ := read()
			return n / 2, io.ErrUnexpectedEOF
		}
		return read()
	})
	got, err := readAll(context.Background(), f, &p)
	must(t, err)
	if !bytes.Equal(got, raw) || reads < 2 {
		t.Errorf("other bytes after %d reads", reads)
	}
	refused := newTestFetcher(t, s, Options{})
	reads = 0
	s.onRead(func(string, []byte, int64, func() (int, error)) (int, error) {
		reads++
		return 0, objects.ErrRefused
	})
	if _, err := readAll(context.Background(), refused, &p); !errors.Is(err, objects.ErrRefused) || reads != 1 {
		t.Errorf("%d reads of a store that refuses, %v", reads, err)
	}
}

// One bad answer says nothing of the object, whatever became of the request before or behind it; a second one does.
func TestDamageTakesTwoAnswers(t *testing.T) {
	outage := errors.New("no route to host")
	const whole, damaged, failed = 'w', 'd', 'f'
	for _, c := range []struct {
		answers string // to requests for the first block
		want    func(error) bool
	}{
		{"w", func(err error) bool { return err == nil }},
		{"dw", func(err error) bool { return err == nil }},
		{"fdw", func(err error) bool { return err == nil }},
		{"dfw", func(err error) bool { return err == nil }},
		{"dd", isDamage},
		{"fdd", isDamage},
		{"dfd", isDamage},
		{"ff", func(err error) bool { return errors.Is(err, outage) }},
		{"dff", func(err error) bool { return errors.Is(err, outage) }},
		{"fdf", func(err error) bool { return errors.Is(err, outage) }},
	} {
		s := newFake(t)
		p, raw := someBodies(t, s, 1)
		f := newTestFetcher(t, s, Options{})
		reads := 0
		s.onRead(func(_ string, b []byte, off int64, read func() (int, error)) (int, error) {
			n, err := read()
			if off > 0 {
				return n, err
			}
			answer := whole
			if reads < len(c.answers) {
				answer = rune(c.answers[reads])
			}
			reads++
			switch answer {
			case damaged:
				b[n/2] ^= 1
			case failed:
				return 0, outage
			}
			return n, err
		})
		got, err := readAll(context.Background(), f, &p)
		if !c.want(err) || reads != len(c.answers) {
			t.Errorf("%s: %d requests, %v", c.answers, reads, err)
		}
		if err == nil && !bytes.Equal(got, raw) {
			t.Errorf("%s: other bytes", c.answers)
		}
	}
}

// Close ends a request that hangs in the store.
func TestCloseEndsRequests(t *testing.T) {
	before := goleak.IgnoreCurrent()
	s := newFake(t)
	p, _ := someBodies(t, s, 1)
	f, err := newFetcher(hanging{s}, Options{}.withDefaults())
	must(t, err)
	got := make(chan error)
	go func() {
		_, err := f.openBodies(context.Background(), &p)
		got <- err
	}()
	eventually(t, "a request", func() bool { return f.counts.requests.Load() == 1 })
	f.close()
	if err := <-got; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	f.close()
	goleak.VerifyNone(t, before)
}

// hanging is a store that answers no read.
type hanging struct{ *fake }

func (h hanging) ReadAt(ctx context.Context, _ string, _ []byte, _ int64) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

func TestDiskCache(t *testing.T) {
	s := newFake(t)
	p, raw := someBodies(t, s, 6)
	o := Options{Disk: t.TempDir(), DiskBytes: 16 << 20}
	read := func(what string, most int64) {
		t.Helper()
		f := newTestFetcher(t, s, o)
		defer f.close()
		before := s.reads.Load()
		got, err := readAll(context.Background(), f, &p)
		must(t, err)
		if !bytes.Equal(got, raw) {
			t.Fatalf("%s: other bytes", what)
		}
		if n := s.reads.Load() - before; n > most {
			t.Errorf("%s: %d reads of the store", what, n)
		}
	}
	read("empty", 2)
	read("opened again", 0)
	var files []string
	must(t, filepath.WalkDir(o.Disk, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files = append(files, path)
		}
		return err
	}))
	if len(files) != 7 {
		t.Fatalf("%d files", len(files))
	}
	for i, path := range files {
		b, err := os.ReadFile(path)
		must(t, err)
		b[len(b)-1-i] ^= 1
		must(t, os.WriteFile(path, b, 0o644))
	}
	must(t, os.WriteFile(filepath.Join(o.Disk, "torn"+diskTemp), []byte("x"), 0o644))
	must(t, os.WriteFile(filepath.Join(o.Disk, "theirs"), []byte("x"), 0o644))
	read("damaged", 2)
	read("repaired", 0)
	if _, err := os.Stat(filepath.Join(o.Disk, "torn"+diskTemp)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was being written is left: %v", err)
	}
	if _, err := os.Stat(filepath.Join(o.Disk, "theirs")); err != nil {
		t.Errorf("a file of somebody else: %v", err)
	}
}

func TestDiskCacheIsBounded(t *testing.T) {
	dir := t.TempDir()
	const limit = 100_000
	d, err := openDisk(dir, limit)
	must(t, err)
	for i := range 50 {
		d.put(pageKey{"a", pageBlock, i}, make([]byte, 9000))
	}
	total := int64(0)
	must(t, filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		total += info.Size()
		return err
	}))
	if bytes, failed := d.size(); bytes != total || total > limit || total < limit/2 || failed != 0 {
		t.Errorf("%d bytes in files, %d counted, %d failures", total, bytes, failed)
	}
	if _, ok := d.get(pageKey{"a", pageBlock, 49}); !ok {
		t.Error("the newest page is gone")
	}
	if _, ok := d.get(pageKey{"a", pageBlock, 0}); ok {
		t.Error("the oldest page is there")
	}
	if d, err = openDisk(dir, limit/4); err != nil {
		t.Fatal(err)
	}
	if bytes, _ := d.size(); bytes > limit/4 {
		t.Errorf("%d bytes after the limit was lowered", bytes)
	}
}

// A reader in order has its blocks fetched before it asks; one who jumps does not.
func TestReadAhead(t *testing.T) {
	s := newStreams(mostAhead)
	total := int64(0)
	for i := range record.Position(200) {
		pos := 1<<30 + i*100_000
		if from, to := s.read(pos, pos+100_000); from < to {
			if from < pos {
				t.Fatalf("asks for %d behind %d", from, pos)
			}
			if n := int64(to - from); n > mostAhead {
				t.Fatalf("asks for %d bytes", n)
			}
			total += int64(to - from)
		}
	}
	if total < 200*100_000-BlockSize*4 {
		t.Errorf("%d bytes ahead of 20,000,000", total)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		pos := record.Position(rng.Int64N(1 << 40))
		if from, to := s.read(pos, pos+1000); from < to {
			t.Fatalf("jump to %d: asks for %d to %d", pos, from, to)
		}
	}
	if len(s.mu.list) > mostStreams {
		t.Errorf("%d streams", len(s.mu.list))
	}
}

func TestPageNames(t *testing.T) {
	seen := map[string]bool{}
	for i := range 1000 {
		file, content := diskName(pageKey{fmt.Sprintf("parts/%020d-1.log", i), pageBlock, i})
		if !isDiskName(file) || seen[file] || content == "" {
			t.Fatalf("file %q of %q", file, content)
		}
		seen[file] = true
	}
}
