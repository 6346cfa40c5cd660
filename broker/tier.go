package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/tiered"
	"github.com/cairnmq/cairn/tiered/objects"
)

// TierState is how the broker stands to the object store.
type TierState int32

// The states of a tier. The loop that uploads is the only one that changes it.
const (
	TierStarting    TierState = iota // nothing was heard of the object store yet
	TierWorking                      // what is sealed is there, or on its way
	TierUnreachable                  // tries fail; they go on
	TierRefused                      // the object store says no until somebody changes something; tries go on
	TierStopped                      // another process has the tier: this one writes no more until it is started again
	tierStates
)

var tierStateNames = [tierStates]string{"starting", "working", "unreachable", "refused", "stopped"}

func (s TierState) String() string { return tierStateNames[s] }

const (
	// tierPatience is how many tries in a row fail before the object store is called out of reach: single errors are what these have.
	tierPatience = 3
	// tierFirstPause follows the first try that fails; each next pause is twice as long, up to tierLongestPause, less up to half of it.
	tierFirstPause   = 250 * time.Millisecond
	tierLongestPause = 30 * time.Second
	// tierLook is how often the manifest is looked at when nothing is to be uploaded, so that an outage, or another owner, is known before.
	tierLook = time.Minute
	// tierRequest bounds what is one small request or a few.
	tierRequest = 2 * time.Minute
)

// uploader brings sealed segments to the tier. One goroutine, which owns everything that the broker writes there: it claims the tier,
// uploads what is sealed, and sleeps until the next segment is.
type uploader struct {
	store *store.Store
	tier  *tiered.Tier
	clock clock.Clock
	log   zerolog.Logger
	fs    vfs.FS
	dir   string // the data folder
	// uploaded is called behind each upload: what is in the tier may go here.
	uploaded func()
	wake     chan struct{} // holds a token when a segment was sealed

	id      tiered.Identity // as it is written in the data folder
	checked bool            // the object store keeps what the manifest stands on
	claimed bool
	looked  time.Time // when the object store last answered
	failing int       // tries in a row
	since   time.Time // when the first of them failed

	state  atomic.Int32
	counts struct {
		uploads, failures, bytes, messages, took atomic.Int64 // took: ms of all uploads
	}
	reason struct {
		sync.Mutex
		err   error     // of the last try, nil when it did not fail
		since time.Time // of the state
	}
}

func newUploader(b *Broker, o store.Options) *uploader {
	u := &uploader{
		tier: o.Tier, clock: b.clock, log: b.log, fs: o.FS, dir: o.Dir, uploaded: b.expireSoon, wake: make(chan struct{}, 1),
	}
	if u.fs == nil {
		u.fs = vfs.Default
	}
	u.reason.since = u.clock.Now()
	return u
}

// nudge wakes the loop; it does not block.
func (u *uploader) nudge() {
	select {
	case u.wake <- struct{}{}:
	default: // it looks at all that is sealed
	}
}

// run uploads until ctx ends, or until another process has the tier.
func (u *uploader) run(ctx context.Context) {
	timer := u.clock.NewTimer(time.Hour)
	defer timer.Stop()
	for ctx.Err() == nil {
		err := u.round(ctx)
		if ctx.Err() != nil {
			return
		}
		pause, wake := tierLook, u.wake
		if err != nil {
			u.failed(err)
			if u.State() == TierStopped {
				return
			}
			pause, wake = tierPause(u.failing), nil // not sooner, whatever is sealed
		}
		timer.Stop()
		timer.Reset(pause)
		select {
		case <-ctx.Done():
		case <-wake:
		case <-timer.C():
		}
	}
}

// tierPause is how long to wait after so many tries that failed in a row.
func tierPause(failing int) time.Duration {
	pause := tierLongestPause
	if failing < 10 {
		pause = min(pause, tierFirstPause<<(failing-1))
	}
	return pause/2 + rand.N(pause/2+1)
}

// round does all there is to do.
func (u *uploader) round(ctx context.Context) error {
	if !u.claimed || u.clock.Now().Sub(u.looked) >= tierLook {
		if err := u.look(ctx); err != nil {
			return err
		}
	}
	for ctx.Err() == nil {
		began := u.clock.Now()
		part, done, err := u.store.Upload(ctx)
		if err != nil {
			u.counts.failures.Add(1)
			return err
		}
		u.answered()
		if done {
			if more, err := u.compact(ctx); err != nil || !more {
				return err
			}
			continue // something may have been sealed meanwhile
		}
		u.counts.uploads.Add(1)
		u.counts.bytes.Add(part.LogBytes + part.TableBytes)
		u.counts.messages.Add(part.Messages)
		u.counts.took.Add(u.clock.Now().Sub(began).Milliseconds())
		u.uploaded()
		if err := u.store.Snapshot(ctx); err != nil {
			return err
		}
		if err := u.remember(); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// compact makes at most one part of the tier anew; more says that it did. Uploads come first, so it is called when there are none.
func (u *uploader) compact(ctx context.Context) (more bool, err error) {
	_, done, err := u.store.Compact(ctx)
	if err != nil || done {
		return false, err
	}
	return true, u.remember()
}

// look reads the manifest, and claims the tier when this process has not yet.
func (u *uploader) look(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tierRequest)
	defer cancel()
	if err := u.tier.Refresh(ctx); err != nil {
		return err
	}
	if !u.claimed {
		if err := u.claim(ctx); err != nil {
			return err
		}
	}
	u.answered()
	return u.remember()
}

// claim makes this process the owner of the tier, when it is this data folder's.
func (u *uploader) claim(ctx context.Context) error {
	id, known, err := tiered.ReadIdentity(u.fs, u.dir)
	if err != nil {
		return err
	}
	if !known {
		id = tiered.NewIdentity()
		if err := id.Write(u.fs, u.dir); err != nil {
			return err
		}
	}
	u.id = id
	if !u.checked {
		if err := u.tier.CheckStore(ctx); err != nil {
			return err
		}
		u.checked = true
	}
	if bounds, ok := u.tier.Bounds(); ok {
		if end := u.store.Stats().LogCommitted; bounds.End > end && u.tier.Manifests().View().Store == id.Store {
			return &behindError{tier: int64(bounds.End), here: int64(end)}
		}
	}
	if _, err := u.tier.Manifests().Claim(ctx, id.Store); err != nil {
		return err
	}
	u.claimed = true
	return nil
}

// remember writes down how far the manifest has come, so that an older one is never taken for the newest.
func (u *uploader) remember() error {
	view := u.tier.Manifests().View()
	if view == nil || view.Generation <= u.id.Generation {
		return nil
	}
	id := tiered.Identity{Store: u.id.Store, Generation: view.Generation}
	if err := id.Write(u.fs, u.dir); err != nil {
		return err
	}
	u.id = id
	return nil
}

// behindError refuses to write to a tier that has more of the log than there is here.
type behindError struct{ tier, here int64 }

func (e *behindError) Error() string {
	return fmt.Sprintf("the tier has this broker's log up to position %d, and here it ends at %d", e.tier, e.here)
}

// answered notes that the object store does what it is asked for.
func (u *uploader) answered() {
	u.looked = u.clock.Now()
	switch u.State() {
	case TierStarting:
		u.log.Info().Uint64("generation", u.id.Generation).Int("parts", u.tier.Stats().Parts).Msg("the tier is there: sealed segments go to it")
	case TierUnreachable, TierRefused:
		u.log.Info().Dur("after", u.looked.Sub(u.since)).Int64("behind_bytes", u.Lag().Bytes).Msg("the tier is back: what was sealed meanwhile goes to it")
	}
	u.enter(TierWorking, nil)
	u.failing = 0
}

// failed notes a try that failed, and logs it when that changes the state.
func (u *uploader) failed(err error) {
	if u.failing++; u.failing == 1 {
		u.since = u.clock.Now()
	}
	state, advice := tierVerdict(err)
	before := u.State()
	if state == TierUnreachable && (u.failing < tierPatience || before == TierRefused) {
		state = before // it may be nothing; and what was refused does not become better by an error
	}
	switch {
	case state == before:
	case state == TierUnreachable:
		u.log.Warn().Err(err).Msg("the tier is out of reach: sealed segments stay here until it is back")
	default:
		u.log.Error().Err(err).Str("advice", advice).Msg("the tier is not written to, and sealed segments stay here")
	}
	u.enter(state, err)
}

// tierVerdict says what an error makes of the tier, and what to do about it.
func tierVerdict(err error) (state TierState, advice string) {
	var foreign *tiered.ForeignError
	var superseded *tiered.SupersededError
	var lost *tiered.LostError
	var behind *behindError
	var damage *tiered.DamageError
	switch {
	case errors.As(err, &superseded):
		return TierStopped, "two brokers run with one tier: stop one of them, and start the one again that is to go on"
	case errors.As(err, &foreign):
		return TierRefused, "another data folder's segments are there: choose another tiered.url, cluster or name, or restore this broker from the tier"
	case errors.As(err, &lost):
		return TierRefused, "set tiered.url to where the manifest is; if it is gone for good, stop the broker and remove tier.json in its data folder to begin a new tier"
	case errors.As(err, &behind):
		return TierRefused, "the data folder is an older copy, or the log lost its end: restore the broker from the tier, or choose another tiered.url"
	case errors.As(err, &damage):
		return TierRefused, "'cairn tier verify' says what is damaged"
	case errors.Is(err, objects.ErrRefused):
		return TierRefused, "look at the credentials, the bucket and its quota; it is tried again all the time"
	}
	return TierUnreachable, ""
}

// enter sets the state and why.
func (u *uploader) enter(state TierState, err error) {
	u.reason.Lock()
	defer u.reason.Unlock()
	if u.reason.err = err; TierState(u.state.Swap(int32(state))) != state {
		u.reason.since = u.clock.Now()
	}
}

// State is how it stands.
func (u *uploader) State() TierState { return TierState(u.state.Load()) }

// Why is since when the state is what it is, and the error of the last try.
func (u *uploader) Why() (since time.Time, err error) {
	u.reason.Lock()
	defer u.reason.Unlock()
	return u.reason.since, u.reason.err
}

// Lag is what is sealed and not in the tier.
func (u *uploader) Lag() store.Lag {
	lag, err := u.store.UploadLag()
	if err != nil {
		u.log.Warn().Err(err).Msg("cannot say how far uploads are behind")
	}
	return lag
}
