package txn

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/cairnmq/cairn/internal/record"
)

// ErrID says that a text is no transaction id.
var ErrID = errors.New("not a transaction id")

const idDigits = 16

// ID names a half message to a gRPC producer, which gives it back with the end of the transaction. Whoever has it can end the
// transaction: also a producer that was started again.
//
//	┌─────────────────────┬─────────────┐
//	│ position, 16 hex    │ unique id…  │
//	└─────────────────────┴─────────────┘
func ID(at record.Position, uniqueID string) string {
	return fmt.Sprintf("%016X%s", int64(at), uniqueID)
}

// ParseID reads a transaction id; the error is ErrID.
func ParseID(text string) (at record.Position, uniqueID string, err error) {
	if len(text) <= idDigits {
		return 0, "", fmt.Errorf("%w: %d characters", ErrID, len(text))
	}
	v, err := strconv.ParseUint(text[:idDigits], 16, 63)
	if err != nil {
		return 0, "", fmt.Errorf("%w: position %q", ErrID, text[:idDigits])
	}
	return record.Position(v), text[idDigits:], nil
}
