package objects

import (
	"context"
	"io"

	"golang.org/x/time/rate"
)

// limitStep is the most bytes that a limited Put takes at once: the pauses between are short then.
const limitStep = 32 << 10

// limited is a store whose Puts share a bandwidth.
type limited struct {
	Store
	limiter *rate.Limiter
}

// Limit returns the store with a bound on how fast its Puts, all together, take their contents, in bytes a second. A store that sends
// in parts sends each of them at once, so the network sees bursts of up to 16 MiB. Creates are small and are not held up.
func Limit(s Store, bytesPerSecond int64) Store {
	return &limited{s, rate.NewLimiter(rate.Limit(bytesPerSecond), limitStep)}
}

func (l *limited) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	return l.Store.Put(ctx, name, &limitedReader{content, ctx, l.limiter}, size)
}

type limitedReader struct {
	io.ReadSeeker
	ctx     context.Context
	limiter *rate.Limiter
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.ReadSeeker.Read(p[:min(len(p), limitStep)])
	if n > 0 {
		if waitErr := r.limiter.WaitN(r.ctx, n); waitErr != nil {
			return n, waitErr
		}
	}
	return n, err
}
