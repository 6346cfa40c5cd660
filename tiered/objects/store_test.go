package objects_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/test/faults"
	"github.com/cairnmq/cairn/test/gateway"
	"github.com/cairnmq/cairn/tiered/objects"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, address string, o objects.Options) objects.Store {
	t.Helper()
	s, err := objects.Open(t.Context(), address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// What every store promises, each in an empty one.
func TestStores(t *testing.T) {
	t.Run("folder", func(t *testing.T) {
		conform(t, func(t *testing.T) objects.Store { return open(t, "file://"+t.TempDir(), objects.Options{}) })
	})
	t.Run("faultless", func(t *testing.T) {
		conform(t, func(t *testing.T) objects.Store {
			inner := open(t, "file://"+t.TempDir(), objects.Options{})
			return faults.NewStore(inner, faults.NewPlan(1), clock.System)
		})
	})
	t.Run("s3", func(t *testing.T) {
		server := gateway.Start(t)
		var n int
		prefix := func() string { n++; return fmt.Sprintf("cluster/broker-%d", n) }
		conform(t, func(t *testing.T) objects.Store {
			return open(t, gateway.Address(server.Endpoint, prefix()), objects.Options{})
		})
	})
	t.Run("s3 behind a proxy", func(t *testing.T) {
		server := gateway.Start(t)
		proxy := faults.StartProxy(t, server.Endpoint, faults.NewPlan(1))
		var n int
		prefix := func() string { n++; return fmt.Sprintf("proxied/%d", n) }
		conform(t, func(t *testing.T) objects.Store {
			return open(t, gateway.Address(proxy.Endpoint, prefix()), objects.Options{})
		})
	})
}

func conform(t *testing.T, store func(*testing.T) objects.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, objects.Store)
	}{
		{"data", conformData}, {"ranges", conformRanges}, {"create", conformCreate}, {"create races", conformCreateRaces},
		{"lists", conformLists}, {"long lists", conformLongLists}, {"deletes", conformDeletes}, {"big objects", conformBig},
		{"names", conformNames}, {"wrong sizes", conformSizes}, {"contexts", conformContexts}, {"check of create", conformCheckCreate},
		{"sweep", conformSweep}, {"replaced while read", conformReplace},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, store(t)) })
	}
}

func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(b)
	return b
}

func put(t *testing.T, s objects.Store, name string, content []byte) {
	t.Helper()
	if err := s.Put(t.Context(), name, bytes.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, s objects.Store, name string) []byte {
	t.Helper()
	info, err := s.Stat(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	content := make([]byte, info.Size)
	if n, err := s.ReadAt(t.Context(), name, content, 0); err != nil || n != len(content) {
		t.Fatalf("read %s: %d of %d bytes, %v", name, n, len(content), err)
	}
	return content
}

func want(t *testing.T, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, not %v", what, err, kind)
	}
}

func conformData(t *testing.T, s objects.Store) {
	_, err := s.Stat(t.Context(), "a/b")
	want(t, "stat before", err, objects.ErrNotFound)
	_, err = s.ReadAt(t.Context(), "a/b", make([]byte, 1), 0)
	want(t, "read before", err, objects.ErrNotFound)
	for i, content := range [][]byte{[]byte("first"), {}, noise(100_000, 1), []byte("last")} {
		before := time.Now().Add(-2 * time.Second)
		put(t, s, "a/b", content)
		if got := get(t, s, "a/b"); !bytes.Equal(got, content) {
			t.Errorf("content %d came back as %d bytes, or as others", i, len(got))
		}
		info, err := s.Stat(t.Context(), "a/b")
		if err != nil || info.Name != "a/b" || info.Size != int64(len(content)) {
			t.Errorf("stat: %+v, %v", info, err)
		}
		if info.Modified.Before(before) || info.Modified.After(time.Now().Add(2*time.Second)) {
			t.Errorf("modified at %s", info.Modified)
		}
	}
	// a reader that was read from before is put whole
	content := bytes.NewReader([]byte("whole"))
	_, _ = content.ReadByte()
	if err := s.Put(t.Context(), "a/c", content, 5); err != nil {
		t.Fatal(err)
	}
	if got := get(t, s, "a/c"); string(got) != "whole" {
		t.Errorf("a rewound content came back as %q", got)
	}
}

func conformRanges(t *testing.T, s objects.Store) {
	content := noise(10_000, 2)
	put(t, s, "o", content)
	put(t, s, "empty", nil)
	for _, r := range []struct {
		off  int64
		n    int
		want int
		eof  bool
	}{
		{0, 1, 1, false}, {0, 10_000, 10_000, false}, {0, 10_001, 10_000, true}, {9_999, 1, 1, false}, {9_999, 2, 1, true}, {10_000, 1, 0, true},
		{1 << 40, 1, 0, true}, {5_000, 5_000, 5_000, false}, {17, 300, 300, false}, {3, 0, 0, false},
	} {
		p := make([]byte, r.n)
		n, err := s.ReadAt(t.Context(), "o", p, r.off)
		if n != r.want || (err == io.EOF) != r.eof || (err != nil && err != io.EOF) {
			t.Errorf("%d bytes at %d: %d, %v", r.n, r.off, n, err)
			continue
		}
		if n > 0 && !bytes.Equal(p[:n], content[r.off:r.off+int64(n)]) {
			t.Errorf("%d bytes at %d are others", r.n, r.off)
		}
	}
	if n, err := s.ReadAt(t.Context(), "empty", make([]byte, 8), 0); n != 0 || err != io.EOF {
		t.Errorf("an empty object: %d, %v", n, err)
	}
	if _, err := s.ReadAt(t.Context(), "o", make([]byte, 1), -1); err == nil {
		t.Error("an offset of -1 was read")
	}
}

func conformCreate(t *testing.T, s objects.Store) {
	if err := s.Create(t.Context(), "manifest/1", []byte("one")); err != nil {
		t.Fatal(err)
	}
	want(t, "second", s.Create(t.Context(), "manifest/1", []byte("two")), objects.ErrExists)
	if got := get(t, s, "manifest/1"); string(got) != "one" {
		t.Errorf("the object is %q after a second create", got)
	}
	put(t, s, "manifest/2", []byte("put"))
	want(t, "create of what was put", s.Create(t.Context(), "manifest/2", nil), objects.ErrExists)
	if err := s.Delete(t.Context(), "manifest/1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "manifest/1", nil); err != nil {
		t.Errorf("create of what was deleted: %v", err)
	}
	if got := get(t, s, "manifest/1"); len(got) != 0 {
		t.Errorf("an empty object has %d bytes", len(got))
	}
	want(t, "too large", s.Create(t.Context(), "manifest/3", make([]byte, objects.MaxCreate+1)), objects.ErrRefused)
}

func conformCreateRaces(t *testing.T, s objects.Store) {
	const writers, names = 24, 8
	for i := range names {
		name := fmt.Sprintf("manifest/%020d", i)
		var won atomic.Int32
		var winner atomic.Int64
		var wg sync.WaitGroup
		begin := make(chan struct{})
		for w := range writers {
			wg.Go(func() {
				<-begin
				for {
					err := s.Create(t.Context(), name, fmt.Appendf(nil, "writer %d", w))
					switch {
					case err == nil:
						won.Add(1)
						winner.Store(int64(w))
					case errors.Is(err, objects.ErrExists):
					case errors.Is(err, objects.ErrRefused), t.Context().Err() != nil:
						t.Error(err)
					default: // another's write of the name was under way
						continue
					}
					return
				}
			})
		}
		close(begin)
		wg.Wait()
		if won.Load() != 1 {
			t.Fatalf("%d of %d writers won %s", won.Load(), writers, name)
		}
		if got := get(t, s, name); string(got) != fmt.Sprintf("writer %d", winner.Load()) {
			t.Fatalf("writer %d won, and %s has %q", winner.Load(), name, got)
		}
	}
}

func names(t *testing.T, s objects.Store, prefix, after string) (out []string) {
	t.Helper()
	for info, err := range s.List(t.Context(), prefix, after) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, info.Name)
	}
	return out
}

func conformLists(t *testing.T, s objects.Store) {
	if got := names(t, s, "", ""); len(got) != 0 {
		t.Errorf("an empty store has %v", got)
	}
	all := []string{"parts/1.idx", "parts/1.log", "parts-old/1", "parts/10.log", "parts/2.log", "parts.txt", "a", "manifest/0/1", "manifest/0-1", "manifest/00", "z/z/z"}
	for i, name := range all {
		put(t, s, name, make([]byte, i))
	}
	slices.Sort(all)
	prefixes := []string{"", "p", "parts", "parts/", "parts/1", "parts/1.", "manifest/0", "manifest/0/", "z/z", "q", "parts/1.logs"}
	afters := append([]string{"", "parts/", "parts0", "zz", "manifest", "p"}, all...)
	for _, prefix := range prefixes {
		for _, after := range afters {
			var expected []string
			for _, name := range all {
				if strings.HasPrefix(name, prefix) && name > after {
					expected = append(expected, name)
				}
			}
			if got := names(t, s, prefix, after); !slices.Equal(got, expected) {
				t.Errorf("list of %q after %q: %q, not %q", prefix, after, got, expected)
			}
		}
	}
	for info, err := range s.List(t.Context(), "manifest/", "") {
		if err != nil || info.Name != "manifest/0-1" || info.Size != int64(slices.Index([]string{"parts/1.idx", "parts/1.log", "parts-old/1", "parts/10.log", "parts/2.log", "parts.txt", "a", "manifest/0/1", "manifest/0-1"}, info.Name)) || time.Since(info.Modified) > time.Hour {
			t.Errorf("the first of the list is %+v, %v", info, err)
		}
		break // and nothing is left behind
	}
}

func conformLongLists(t *testing.T, s objects.Store) {
	const n = 1_205 // more than S3 puts into one answer
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := w; i < n; i += 8 {
				if err := s.Create(t.Context(), fmt.Sprintf("parts/%020d", i), nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got := names(t, s, "parts/", fmt.Sprintf("parts/%020d", 99))
	if len(got) != n-100 || got[0] != fmt.Sprintf("parts/%020d", 100) || !slices.IsSorted(got) {
		t.Errorf("%d names from %v on, sorted %v", len(got), got[:min(1, len(got))], slices.IsSorted(got))
	}
}

func conformDeletes(t *testing.T, s objects.Store) {
	put(t, s, "parts/1", []byte("x"))
	put(t, s, "parts/2", []byte("y"))
	for range 2 {
		if err := s.Delete(t.Context(), "parts/1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete(t.Context(), "never/was/there"); err != nil {
		t.Error(err)
	}
	_, err := s.Stat(t.Context(), "parts/1")
	want(t, "stat after delete", err, objects.ErrNotFound)
	_, err = s.ReadAt(t.Context(), "parts/1", make([]byte, 1), 0)
	want(t, "read after delete", err, objects.ErrNotFound)
	if got := names(t, s, "", ""); !slices.Equal(got, []string{"parts/2"}) {
		t.Errorf("left: %v", got)
	}
}

func conformBig(t *testing.T, s objects.Store) {
	for _, size := range []int{16 << 20, 16<<20 + 1, 37<<20 + 12_345} {
		content := noise(size, uint64(size))
		put(t, s, "parts/big.log", content)
		if got := get(t, s, "parts/big.log"); !bytes.Equal(got, content) {
			t.Fatalf("%d bytes came back as others", size)
		}
		p := make([]byte, 1<<20)
		off := int64(size) - 17<<20/2
		if n, err := s.ReadAt(t.Context(), "parts/big.log", p, off); err != nil || !bytes.Equal(p[:n], content[off:off+1<<20]) {
			t.Errorf("a range of it: %d, %v", n, err)
		}
	}
}

func conformNames(t *testing.T, s objects.Store) {
	bad := []string{"", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", ".hidden", "a/.hidden", "a b", "a\x00b", "a\nb", "ä", "a\\b", "a?b",
		strings.Repeat("x", 201), strings.Repeat("a/", 400) + "a"}
	for _, name := range bad {
		_, statErr := s.Stat(t.Context(), name)
		_, readErr := s.ReadAt(t.Context(), name, make([]byte, 1), 0)
		for call, err := range map[string]error{"put": s.Put(t.Context(), name, bytes.NewReader(nil), 0), "create": s.Create(t.Context(), name, nil),
			"delete": s.Delete(t.Context(), name), "stat": statErr, "read": readErr} {
			want(t, fmt.Sprintf("%s %.20q", call, name), err, objects.ErrName)
		}
	}
	for _, name := range []string{"a", "~!#$%&'()+,-.:;=@_", "a%2Fb/c+d", "DefaultCluster/broker-a/parts/00000000000000000000-1.log", strings.Repeat("x", 200)} {
		content := []byte(name)
		put(t, s, name, content)
		if got := get(t, s, name); !bytes.Equal(got, content) {
			t.Errorf("%s has %q", name, got)
		}
		if !slices.Contains(names(t, s, name, ""), name) {
			t.Errorf("%s is not in the list", name)
		}
		if err := s.Delete(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
}

func conformSizes(t *testing.T, s objects.Store) {
	for _, size := range []int64{0, 4, 6, 40 << 20} {
		if err := s.Put(t.Context(), "o", strings.NewReader("12345"), size); err == nil {
			t.Errorf("5 bytes were put as %d", size)
		}
	}
	if _, err := s.Stat(t.Context(), "o"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("a wrong size left an object: %v", err)
	}
}

func conformContexts(t *testing.T, s objects.Store) {
	put(t, s, "o", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, statErr := s.Stat(ctx, "o")
	_, readErr := s.ReadAt(ctx, "o", make([]byte, 1), 0)
	_, sweepErr := s.Sweep(ctx, time.Now())
	var listErr error
	for _, err := range s.List(ctx, "", "") {
		listErr = err
	}
	for call, err := range map[string]error{"put": s.Put(ctx, "p", strings.NewReader("x"), 1), "create": s.Create(ctx, "q", []byte("x")),
		"delete": s.Delete(ctx, "o"), "stat": statErr, "read": readErr, "list": listErr} {
		want(t, call, err, context.Canceled)
	}
	if sweepErr != nil {
		want(t, "sweep", sweepErr, context.Canceled)
	}
}

func conformCheckCreate(t *testing.T, s objects.Store) {
	if err := objects.CheckCreate(t.Context(), s); err != nil {
		t.Error(err)
	}
	if got := names(t, s, "", ""); len(got) != 0 {
		t.Errorf("the check left %v", got)
	}
}

// broken ends in the middle.
type broken struct {
	io.ReadSeeker
	after int64
}

func (b *broken) Read(p []byte) (int, error) {
	at, _ := b.Seek(0, io.SeekCurrent)
	if at >= b.after {
		return 0, errors.New("the disk is broken")
	}
	return b.ReadSeeker.Read(p[:min(int64(len(p)), b.after-at)])
}

func conformSweep(t *testing.T, s objects.Store) {
	put(t, s, "o", []byte("x"))
	content := noise(20<<20, 3)
	for _, after := range []int64{1 << 20, 18 << 20} {
		if err := s.Put(t.Context(), "p", &broken{bytes.NewReader(content), after}, int64(len(content))); err == nil {
			t.Error("a content that breaks was put")
		}
	}
	if _, err := s.Stat(t.Context(), "p"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("half an object is there: %v", err)
	}
	if _, err := s.Sweep(t.Context(), time.Now().Add(time.Minute)); err != nil {
		t.Error(err)
	}
	if n, err := s.Sweep(t.Context(), time.Now().Add(time.Minute)); n != 0 || err != nil {
		t.Errorf("a second sweep finds %d, %v", n, err)
	}
	if got := names(t, s, "", ""); !slices.Equal(got, []string{"o"}) {
		t.Errorf("after a sweep there are %v", got)
	}
}

// Who reads an object that is being replaced gets the old one or the new one.
func conformReplace(t *testing.T, s objects.Store) {
	const size = 300_000
	put(t, s, "o", bytes.Repeat([]byte{'a'}, size))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 30 {
			if err := s.Put(t.Context(), "o", bytes.NewReader(bytes.Repeat([]byte{'a' + byte(i%26)}, size)), size); err != nil {
				t.Error(err)
			}
		}
	}()
	p := make([]byte, size)
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		n, err := s.ReadAt(t.Context(), "o", p, 0)
		if err != nil || bytes.Count(p[:n], p[:1]) != size {
			t.Errorf("%d bytes of two objects, %v", n, err)
			break
		}
	}
	<-done
}

// ending calls a function in the middle.
type ending struct {
	*bytes.Reader
	left int64
	end  func()
}

func (e *ending) Read(p []byte) (int, error) {
	n, err := e.Reader.Read(p)
	if e.left -= int64(n); e.left <= 0 {
		e.end()
	}
	return n, err
}

// An upload in parts that nobody could end takes room until a sweep, and only one of the same store ends it.
func TestS3Uploads(t *testing.T) {
	server := gateway.Start(t)
	s := open(t, gateway.Address(server.Endpoint, "mine"), objects.Options{})
	others := open(t, gateway.Address(server.Endpoint, "others"), objects.Options{})
	content := noise(20<<20, 4)
	if err := s.Put(t.Context(), "parts/1", &ending{bytes.NewReader(content), 18 << 20, server.Stop}, int64(len(content))); err == nil {
		t.Error("put with a server that is gone")
	}
	server.Restart(t)
	// one that its caller gives up is ended at once
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	want(t, "put", s.Put(ctx, "parts/2", &ending{bytes.NewReader(content), 18 << 20, cancel}, int64(len(content))), context.Canceled)
	for _, c := range []struct {
		store  objects.Store
		before time.Time
		want   int
	}{{s, time.Now().Add(-time.Hour), 0}, {others, time.Now().Add(time.Hour), 0}, {s, time.Now().Add(time.Hour), 1}, {s, time.Now().Add(time.Hour), 0}} {
		if n, err := c.store.Sweep(t.Context(), c.before); n != c.want || err != nil {
			t.Errorf("sweep: %d, not %d; %v", n, c.want, err)
		}
	}
}

func TestS3Refusals(t *testing.T) {
	server := gateway.Start(t)
	address := gateway.Address(server.Endpoint, "x")
	missing := open(t, strings.Replace(address, gateway.Bucket, "no-such-bucket", 1), objects.Options{})
	for call, err := range map[string]error{"put": missing.Put(t.Context(), "o", strings.NewReader("x"), 1), "create": missing.Create(t.Context(), "o", nil), "check": objects.CheckCreate(t.Context(), missing)} {
		want(t, call+" without a bucket", err, objects.ErrRefused)
	}
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong")
	wrong := open(t, address, objects.Options{})
	_, statErr := wrong.Stat(t.Context(), "o")
	_, readErr := wrong.ReadAt(t.Context(), "o", make([]byte, 1), 0)
	var listErr error
	for _, err := range wrong.List(t.Context(), "", "") {
		listErr = err
	}
	for call, err := range map[string]error{"put": wrong.Put(t.Context(), "o", strings.NewReader("x"), 1), "stat": statErr, "read": readErr, "list": listErr, "delete": wrong.Delete(t.Context(), "o")} {
		want(t, call+" with a wrong key", err, objects.ErrRefused)
	}
	server.Stop()
	gone := open(t, address, objects.Options{})
	_, err := gone.Stat(t.Context(), "o")
	for _, kind := range []error{nil, objects.ErrNotFound, objects.ErrExists, objects.ErrRefused} {
		if errors.Is(err, kind) {
			t.Errorf("without a server: %v", err)
		}
	}
}

func TestCheckCreateFindsOut(t *testing.T) {
	s := forgetful{open(t, "file://"+t.TempDir(), objects.Options{})}
	want(t, "check", objects.CheckCreate(t.Context(), s), objects.ErrRefused)
}

// forgetful ignores the condition of Create, as some services do.
type forgetful struct{ objects.Store }

func (f forgetful) Create(ctx context.Context, name string, content []byte) error {
	return f.Put(ctx, name, bytes.NewReader(content), int64(len(content)))
}
