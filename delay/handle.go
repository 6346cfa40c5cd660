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
	b := make([]byte, 0, 96)
	for _, part := range []string{handleVersion, h.Topic, h.Broker, strconv.FormatInt(h.Due, 10), h.UniqueID} {
		b = append(append(b, part...), ' ')
	}
	if h.Origin < 0 {
		b = b[:len(b)-1]
	} else {
		b = strconv.AppendInt(b, int64(h.Origin), 10)
	}
	return base64.URLEncoding.EncodeToString(b)
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
