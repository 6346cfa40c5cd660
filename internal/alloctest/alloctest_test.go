package alloctest

import "testing"

// recorder notes whether a test would have failed.
type recorder struct {
	testing.TB
	failed bool
}

func (r *recorder) Helper() {}

func (r *recorder) Fatalf(string, ...any) { r.failed = true }

var sink []byte

func TestAtMost(t *testing.T) {
	for _, c := range []struct {
		made, most int
		fails      bool
	}{{0, 0, false}, {4 << 20, 4 << 20, false}, {4 << 20, 1 << 20, true}} {
		r := &recorder{TB: t}
		AtMost(r, c.most, func() { sink = make([]byte, c.made) })
		if r.failed != c.fails {
			t.Errorf("%d bytes where %d are due: fails %v", c.made, c.most, r.failed)
		}
	}
}
