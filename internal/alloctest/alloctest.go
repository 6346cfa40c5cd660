// Package alloctest lets the fuzz targets of decoders check that an input cannot make one allocate without bound, by a length
// or a nesting that lies.
package alloctest

import (
	"runtime/metrics"
	"testing"
)

// allocated counts all bytes that the process has ever allocated on the heap.
const allocated = "/gc/heap/allocs:bytes"

// slack is what is not held against a function, in bytes: small allocations are counted when their page is full, and
// goroutines beside it allocate too.
const slack = 512 << 10

// tries is how often a function is run before too much is believed to be its own.
const tries = 3

// AtMost runs f and fails the test when it allocates more than so many bytes, beyond a slack of 512 KiB. What f allocates and gives
// back counts in full. f may be run again, and must then do the same.
func AtMost(t testing.TB, bytes int, f func()) {
	t.Helper()
	var got uint64
	for range tries {
		before := total()
		f()
		if got = total() - before; got <= uint64(bytes)+slack {
			return
		}
	}
	t.Fatalf("%d bytes were allocated, at most %d are due", got, bytes)
}

func total() uint64 {
	s := []metrics.Sample{{Name: allocated}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
