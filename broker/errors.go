package broker

import (
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/store"
)

// Code is why a verb refused, independent of the protocol. Doors map it to their own codes.
type Code int

// Codes of refusals.
const (
	CodeInternal Code = iota
	CodeBusy          // bounded resource is full, try again
	CodeReadOnly      // disk full, or failed: not accepting writes
	CodeTopicNotFound
	CodeGroupNotFound
	CodeTopicIllegal // bad name
	CodeGroupIllegal
	CodeNoPermission   // perm bits, system topic, consuming disabled
	CodeMessageIllegal // body, properties, batch
	CodeBodyTooLarge
	CodePropertiesTooLarge
	CodeParameter   // queue id or other parameter out of range
	CodeUnsupported // part of a later stage
	CodeInvalidHandle
	CodeOffsetNotFound
	CodeNotFound // no such message, client …
	CodeClosing
	CodeDelayTooLong // a delivery time beyond the longest delay
	CodeDelivered    // recalled too late
	CodeConflict     // a transaction that was ended otherwise
)

// Error is what every verb returns for a refusal; other errors are internal.
type Error struct {
	Code    Code
	Message string
	Err     error // cause, may be nil
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// CodeOf is CodeInternal for errors that are not *Error.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// errClosing ends what waits when the broker is closed.
var errClosing = &Error{Code: CodeClosing, Message: "the broker is closing"}

// refuse makes an Error.
func refuse(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// verbError turns what the floors below answer into a refusal with the code that a door can map, saying what was being done.
// Errors that are none of a caller's business stay internal. nil stays nil.
func verbError(err error, doing string) error {
	if err == nil {
		return nil
	}
	var refused *Error
	if errors.As(err, &refused) {
		return err
	}
	code, known := codeOfCause(err)
	if !known {
		return fmt.Errorf("%s: %w", doing, err)
	}
	return &Error{Code: code, Message: doing + ": " + err.Error(), Err: err}
}

// unreached says whether the tier cannot be read at the moment. The uploader says how the broker stands to it, once.
func unreached(err error) bool {
	var tier *store.TierError
	return errors.As(err, &tier)
}

func codeOfCause(err error) (Code, bool) {
	var name *catalog.NameError
	switch {
	case errors.Is(err, commitlog.ErrBusy), unreached(err):
		return CodeBusy, true
	case errors.Is(err, commitlog.ErrDiskFull), errors.Is(err, commitlog.ErrFailed):
		return CodeReadOnly, true
	case errors.Is(err, commitlog.ErrClosed):
		return CodeClosing, true
	case errors.Is(err, commitlog.ErrTooLarge):
		return CodeBodyTooLarge, true
	case errors.Is(err, commitlog.ErrGone), errors.Is(err, commitlog.ErrNotFound), errors.Is(err, store.ErrNotFound):
		return CodeNotFound, true
	case errors.Is(err, catalog.ErrTopicNotFound):
		return CodeTopicNotFound, true
	case errors.Is(err, catalog.ErrGroupNotFound):
		return CodeGroupNotFound, true
	case errors.As(err, &name):
		switch name.What {
		case "topic":
			return CodeTopicIllegal, true
		case "group":
			return CodeGroupIllegal, true
		}
		return CodeParameter, true
	}
	return CodeInternal, false
}
