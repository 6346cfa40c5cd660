package message

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/alloctest"
)

var (
	allTypes   = []CompressionType{CompressionLegacy, CompressionLZ4, CompressionZstd, CompressionZlib}
	algorithms = allTypes[1:] // the legacy type is zlib again
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestDecompressReturnsWhatWasCompressed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom(allTypes).Draw(t, "type")
		body := bytes.Repeat(rapid.SliceOf(rapid.Byte()).Draw(t, "piece"), rapid.IntRange(0, 300).Draw(t, "times"))
		out, sysFlag, err := Compress(kind, body)
		if err != nil || sysFlag&FlagCompressed == 0 || CompressionOf(sysFlag) != kind {
			t.Fatalf("sysFlag %#x, %v", sysFlag, err)
		}
		other := FlagPrepared | FlagBornHostV6 | FlagMultiTags
		if got, err := Decompress(sysFlag|other, out); err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d bytes, want %d: %v", len(got), len(body), err)
		}
	})
}

func TestDecompressLargeBodies(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	body := make([]byte, 5<<20) // more than one block of LZ4
	for i := range body {
		body[i] = byte(random.IntN(4))
	}
	for _, kind := range algorithms {
		out, sysFlag, err := Compress(kind, body)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decompress(sysFlag, out); err != nil || !bytes.Equal(got, body) {
			t.Errorf("%v: %d bytes, %v", kind, len(got), err)
		}
	}
}

func TestDecompressTellsBombs(t *testing.T) {
	for _, kind := range algorithms {
		bomb, sysFlag, err := Compress(kind, make([]byte, MaxDecompressed+1))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decompress(sysFlag, bomb); !errors.Is(err, ErrTooLarge) || got != nil {
			t.Errorf("%v: %d bytes out of %d: %v", kind, len(got), len(bomb), err)
		}
		full, sysFlag, err := Compress(kind, make([]byte, MaxDecompressed))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decompress(sysFlag, full); err != nil || len(got) != MaxDecompressed {
			t.Errorf("%v at the bound: %d bytes: %v", kind, len(got), err)
		}
	}
}

func TestDecompressRefuses(t *testing.T) {
	body := bytes.Repeat([]byte("some body "), 500)
	for _, kind := range allTypes {
		out, sysFlag, err := Compress(kind, body)
		if err != nil {
			t.Fatal(err)
		}
		for name, broken := range map[string][]byte{"cut": out[:len(out)/2], "not compressed": body} {
			if got, err := Decompress(sysFlag, broken); !errors.Is(err, ErrCorrupt) || got != nil {
				t.Errorf("%v, %s: %d bytes, %v", kind, name, len(got), err)
			}
		}
	}
	if _, err := Decompress(FlagCompressed|4<<compressionShift, body); !errors.Is(err, ErrCompression) {
		t.Errorf("type 4: %v", err)
	}
	if _, _, err := Compress(4, body); !errors.Is(err, ErrCompression) {
		t.Errorf("to type 4: %v", err)
	}
	if got, err := Decompress(1<<compressionShift, body); err != nil || &got[0] != &body[0] {
		t.Errorf("a body that is not compressed did not come back itself: %v", err)
	}
}

// The pools hand out readers that failed before, and to many at once.
func TestCompressionPools(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			body := bytes.Repeat([]byte{byte(i), 1, 2, 3}, 1000)
			for range 10 {
				for _, kind := range allTypes {
					out, sysFlag, err := Compress(kind, body)
					if err != nil {
						t.Error(err)
						return
					}
					if _, err := Decompress(sysFlag, out[:len(out)-len(out)/3]); err == nil {
						t.Errorf("%v: a cut body has no error", kind)
					}
					if got, err := Decompress(sysFlag, out); err != nil || !bytes.Equal(got, body) {
						t.Errorf("%v: %d bytes, %v", kind, len(got), err)
					}
				}
			}
		})
	}
	wg.Wait()
}

func FuzzDecompress(f *testing.F) {
	for _, kind := range allTypes { // small, as the fuzzer takes its time to make large ones smaller
		out, sysFlag, err := Compress(kind, []byte("some body, some body, some body"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sysFlag, out)
	}
	f.Add(FlagCompressed|int32(CompressionZlib)<<compressionShift, []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"))
	f.Fuzz(func(t *testing.T, sysFlag int32, body []byte) {
		var got []byte
		var err error
		alloctest.AtMost(t, 4*MaxDecompressed, func() { got, err = Decompress(sysFlag, body) }) // a reader's window, and what growing leaves behind
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrCompression) {
				t.Fatal(err)
			}
			return
		}
		if len(got) > MaxDecompressed && sysFlag&FlagCompressed != 0 {
			t.Fatalf("%d bytes", len(got))
		}
	})
}
