package tiered

import (
	"errors"
	"fmt"
)

// ErrClosed refuses reads from a tier that is closed.
var ErrClosed = errors.New("tiered: closed")

// ErrNotLoaded refuses reads from a tier whose manifest could not be read yet; it comes with the reason.
var ErrNotLoaded = errors.New("tiered: the manifest is not here yet")

// DamageError says that an object does not hold what was written to it. What is read from the store is read twice before it
// is believed, so it is the object that is damaged and not an answer.
type DamageError struct {
	Object string
	Offset int64 // in the object, of what cannot be read
	Reason string
	Cause  error // may be nil
}

func (e *DamageError) Error() string {
	s := fmt.Sprintf("tiered: object %s is damaged at offset %d: %s", e.Object, e.Offset, e.Reason)
	if e.Cause != nil {
		s += ": " + e.Cause.Error()
	}
	return s
}

func (e *DamageError) Unwrap() error { return e.Cause }

// ForeignError refuses to write to the tier of another broker.
type ForeignError struct {
	Have, Want StoreID // whose the tier is; whose the caller is
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("tiered: the tier belongs to store %s, not to this store %s: choose another prefix, or restore from it",
		e.Have, e.Want)
}

// SupersededError refuses to write because another process has claimed the tier since this one did.
type SupersededError struct {
	Generation uint64 // of the manifest that says so
	Owner      string // the writer that it names as the owner
}

func (e *SupersededError) Error() string {
	return fmt.Sprintf("tiered: manifest %d belongs to writer %s, which has claimed the tier since: this process writes no more",
		e.Generation, e.Owner)
}

// LostError says that the tier had a manifest of a generation that is known here, and shows none of that generation or a later
// one now: it is another bucket, or somebody emptied it. Nothing is written then.
type LostError struct{ Generation uint64 }

func (e *LostError) Error() string {
	return fmt.Sprintf("tiered: manifest %d was there and neither it nor a later one is: is it the right bucket and prefix?", e.Generation)
}
