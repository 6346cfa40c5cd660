package objects

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
)

// ProbePrefix begins the names of the objects that CheckCreate makes and removes; when it was broken off, one stays.
const ProbePrefix = "probe/"

// CheckCreate returns ErrRefused when the store lets two Creates of one name win: services that do not know the condition which
// Create sets ignore it. It writes and removes a small object, and returns other errors as those calls do. Who relies on
// Create calls it once for a store that nobody wrote to before.
func CheckCreate(ctx context.Context, s Store) error {
	name := ProbePrefix + rand.Text()
	// ErrExists: the answer of the first try was lost
	if err := s.Create(ctx, name, []byte("first")); err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	second := s.Create(ctx, name, []byte("second"))
	if err := s.Delete(ctx, name); err != nil {
		return err
	}
	switch {
	case second == nil:
		return fmt.Errorf("%w: it does not honour conditional writes (If-None-Match: *), so two writers could both win; use another service, or a newer version of it", ErrRefused)
	case errors.Is(second, ErrExists):
		return nil
	}
	return second
}
