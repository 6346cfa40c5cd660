package kvindex

import (
	"fmt"
	"sync"

	"github.com/rs/zerolog"
)

// health remembers the error after which an engine must not write any more. It is also the Logger that Pebble gets: what
// Pebble calls fatal fails the engine instead of ending the process.
type health struct {
	log    zerolog.Logger
	once   sync.Once
	failed chan struct{} // closed when failed
	err    error         // set before failed is closed; wraps ErrFailed
}

func newHealth(log zerolog.Logger) *health { return &health{log: log, failed: make(chan struct{})} }

func (h *health) fail(cause error) {
	h.once.Do(func() {
		h.err = fmt.Errorf("%w: %w", ErrFailed, cause)
		close(h.failed)
		h.log.Error().Err(cause).Msg("the index has failed: it takes no more writes until it is opened again")
	})
}

// check returns nil or an error that wraps ErrFailed.
func (h *health) check() error {
	if stopped(h.failed) {
		return h.err
	}
	return nil
}

func (h *health) Infof(format string, args ...any) {
	if e := h.log.Debug(); e.Enabled() {
		e.Msg(fmt.Sprintf(format, args...))
	}
}

func (h *health) Errorf(format string, args ...any) { h.log.Error().Msg(fmt.Sprintf(format, args...)) }
func (h *health) Fatalf(format string, args ...any) { h.fail(fmt.Errorf(format, args...)) }
