package tiered

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered/objects"
)

func bodiesOf(t testing.TB, start record.Position, raw []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewBodiesWriter(&out, start)
	must(t, err)
	_, err = w.Write(raw)
	must(t, err)
	sum, err := w.Close()
	must(t, err)
	if sum.Bytes != int64(out.Len()) || sum.CRC != crc32.Checksum(out.Bytes(), castagnoli) {
		t.Fatalf("sum %+v of %d bytes", sum, out.Len())
	}
	return out.Bytes()
}

// The format as bytes: what it is today must be readable for years.
func TestBodiesGolden(t *testing.T) {
	datadriven.RunTest(t, "testdata/bodies", func(t *testing.T, d *datadriven.TestData) string {
		var start int64
		d.ScanArgs(t, "start", &start)
		return hex.Dump(bodiesOf(t, record.Position(start), []byte(d.Input)))
	})
}

// noise is bytes of which about half are random.
func noise(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 1 + rng.IntN(4) {
		b[i] = byte(rng.Uint32())
	}
	return b
}

func readAll(ctx context.Context, f *fetcher, p *Part) ([]byte, error) {
	x, err := f.openBodies(ctx, p)
	if err != nil {
		return nil, err
	}
	pages, err := f.pages(ctx, x, 0, int(x.blocks())-1)
	return slices.Concat(pages...), err
}

func newTestFetcher(t testing.TB, s objects.Store, o Options) *fetcher {
	t.Helper()
	f, err := newFetcher(s, o.withDefaults())
	must(t, err)
	t.Cleanup(f.close)
	return f
}

func TestBodiesRoundTrip(t *testing.T) {
	s := newFake(t)
	rng := rand.New(rand.NewPCG(1, 2))
	for i, n := range []int{1, 100, BlockSize - 1, BlockSize, BlockSize + 1, 5*BlockSize + 77} {
		raw := noise(rng, n)
		p := Part{Start: 4096, End: 4096 + record.Position(n), Generation: uint64(i)}
		obj := bodiesOf(t, p.Start, raw)
		p.LogBytes = int64(len(obj))
		put(t, s, p.LogName(), obj)
		got, err := readAll(context.Background(), newTestFetcher(t, s, Options{}), &p)
		must(t, err)
		if !bytes.Equal(got, raw) {
			t.Fatalf("%d bytes are others", n)
		}
		if n > BlockSize && s.reads.Load() > int64(2*(i+1)) {
			t.Errorf("%d reads for %d objects: want the end and all blocks with one each", s.reads.Load(), i+1)
		}
	}
}

// Whatever byte of the object is another one, reading all of it says so, or gives what was written: a frame has bits that mean
// nothing.
func TestBodiesDamageIsSeen(t *testing.T) {
	s := newFake(t)
	raw := append(noise(rand.New(rand.NewPCG(3, 4)), 300), make([]byte, 300)...)
	p := Part{Start: 0, End: record.Position(len(raw)), Generation: 1}
	obj := bodiesOf(t, p.Start, raw)
	p.LogBytes = int64(len(obj))
	for i := range obj {
		bad := bytes.Clone(obj)
		bad[i] ^= 0x10
		put(t, s, p.LogName(), bad)
		f := newTestFetcher(t, s, Options{})
		got, err := readAll(context.Background(), f, &p)
		f.close()
		if !isDamage(err) && (err != nil || !bytes.Equal(got, raw)) {
			t.Fatalf("byte %d of %d: got %d bytes, error %v", i, len(obj), len(got), err)
		}
	}
	for n := range obj {
		put(t, s, p.LogName(), obj[:n])
		f := newTestFetcher(t, s, Options{})
		_, err := readAll(context.Background(), f, &p)
		f.close()
		if !isDamage(err) {
			t.Fatalf("cut after %d of %d bytes: error %v", n, len(obj), err)
		}
	}
}

func TestBodiesWriterErrors(t *testing.T) {
	w, err := NewBodiesWriter(&bytes.Buffer{}, 0)
	must(t, err)
	if _, err := w.Close(); err == nil {
		t.Error("an object of nothing was made")
	}
	full := errors.New("disk full")
	w, err = NewBodiesWriter(failing{full}, 0)
	must(t, err)
	if _, err := w.Write(make([]byte, 2*BlockSize)); !errors.Is(err, full) {
		t.Errorf("write: %v", err)
	}
	if _, err := w.Close(); !errors.Is(err, full) {
		t.Errorf("close: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// What ends an object may be anything; with the checksums made right it must still be refused or be possible.
func FuzzBlockIndex(f *testing.F) {
	f.Add(bodiesOf(f, 0, []byte("hello")), int64(0), true)
	long := bodiesOf(f, 1<<40, noise(rand.New(rand.NewPCG(1, 1)), 3*BlockSize+5))
	f.Add(long[len(long)/2:], int64(len(long)/2), true)
	f.Add([]byte(bodiesMagic), int64(3), false)
	dec, err := newDecoder()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, tail []byte, before int64, seal bool) {
		tail = bytes.Clone(tail)
		if before < 0 || before > 1<<40 {
			before = 0
		}
		if seal && len(tail) >= bodiesFooter {
			foot := tail[len(tail)-bodiesFooter:]
			if n := le.Uint64(foot[40:]); n <= uint64(len(tail)-bodiesFooter) {
				end := len(tail) - bodiesFooter
				le.PutUint32(foot[48:], crc32.Checksum(tail[end-int(n):end], castagnoli))
			}
			le.PutUint32(foot[52:], crc32.Checksum(foot[:52], castagnoli))
		}
		size := int64(len(tail)) + before
		x, more, err := locateBlockIndex("x", tail, size)
		if err != nil || more > 0 {
			if err == nil && (more <= int64(len(tail)) || more > size) {
				t.Fatalf("asks for %d of %d bytes, has %d", more, size, len(tail))
			}
			return
		}
		if x.check() != nil {
			return
		}
		for i := range int(min(x.blocks(), 4)) {
			off, n := x.place(i)
			if off < 0 || off+int64(n) > size {
				t.Fatalf("block %d at %d, %d bytes", i, off, n)
			}
			if off < before {
				continue
			}
			if raw, err := x.decode(dec, i, tail[off-before:off-before+int64(n)]); err == nil && len(raw) != x.rawLength(i) {
				t.Fatalf("block %d has %d bytes", i, len(raw))
			}
		}
	})
}
