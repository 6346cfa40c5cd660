package delay

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/cairnmq/cairn/internal/record"
)

// Handle names a delayed message to whoever wants it back. Clients read topic and broker from it (RECALL_MESSAGE goes to that
// broker) and pass it on as it is.
//
//	base64url("v1 topic broker due-ms unique-id origin")
//
// The sixth part is Cairn's own: the reference's handles have five, and its clients pass over more.
type Handle struct {
	Topic, Broker string
	Due           int64 // ms
	UniqueID      string
	Origin        record.Position // −1 when the handle does not say
}

// ErrHandle says that a text is no recall handle.
var ErrHandle = errors.New("not a recall handle")

const handleVersion = "v1"

// String is the handle as clients get it.
func (h Handle) String() string {
	var plain, text [192]byte // enough for most: then the answer is the only allocation
	b := append(append(plain[:0], handleVersion...), ' ')
	b = append(append(b, h.Topic...), ' ')
	b = append(append(b, h.Broker...), ' ')
	b = append(strconv.AppendInt(b, h.Due, 10), ' ')
	b = append(b, h.UniqueID...)
	if h.Origin >= 0 {
		b = strconv.AppendInt(append(b, ' '), int64(h.Origin), 10)
	}
	return string(base64.URLEncoding.AppendEncode(text[:0], b))
}

// ParseHandle reads a handle; the error is ErrHandle.
func ParseHandle(text string) (Handle, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return Handle{}, fmt.Errorf("%w: %w", ErrHandle, err)
	}
	parts := strings.Split(string(raw), " ")
	if len(parts) < 5 || len(parts) > 6 || parts[0] != handleVersion {
		return Handle{}, fmt.Errorf("%w: %d parts, version %q", ErrHandle, len(parts), parts[0])
	}
	h := Handle{Topic: parts[1], Broker: parts[2], UniqueID: parts[4], Origin: -1}
	if h.Due, err = strconv.ParseInt(parts[3], 10, 64); err != nil || h.Due < 0 {
		return Handle{}, fmt.Errorf("%w: due time %q", ErrHandle, parts[3])
	}
	if len(parts) == 6 {
		origin, err := strconv.ParseInt(parts[5], 10, 64)
		if err != nil || origin < 0 {
			return Handle{}, fmt.Errorf("%w: origin %q", ErrHandle, parts[5])
		}
		h.Origin = record.Position(origin)
	}
	return h, nil
}
