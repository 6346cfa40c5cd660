package transport

import (
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	contentType = "application/grpc"
	// maxWanted bounds Options.Headers.
	maxWanted = 4
	// maxMessage bounds the text of a status, so that an answer's header fits into a frame.
	maxMessage = 4 << 10
)

// pseudo are fields of HTTP/2 itself.
type pseudo uint8

const (
	verb pseudo = 1 << iota
	path
	scheme
	authority

	required = verb | path | scheme
)

// head is the header of a call as its fields come.
type head struct {
	limit    int // bytes of fields, as HTTP/2 counts them
	method   string
	path     string
	content  string
	encoding string
	timeout  time.Duration
	timed    bool
	badTime  bool
	pseudos  pseudo // those of HTTP/2's own fields that came
	regular  bool   // another field came: none of HTTP/2's own may follow
	fault    http2.ErrCode
	wanted   []string          // as Options.Headers
	values   [maxWanted]string // of those
}

// field takes one.
func (h *head) field(f hpack.HeaderField) {
	if h.limit -= int(f.Size()); h.limit < 0 {
		h.fault = http2.ErrCodeEnhanceYourCalm
	}
	if h.fault != 0 {
		return
	}
	if f.IsPseudo() {
		h.pseudo(f)
		return
	}
	h.regular = true
	switch f.Name {
	case "content-type":
		h.content = f.Value
	case "grpc-timeout":
		h.timeout, h.timed = parseTimeout(f.Value)
		h.badTime = !h.timed
	case "grpc-encoding":
		h.encoding = f.Value
	case "te":
		if f.Value != "trailers" {
			h.fault = http2.ErrCodeProtocol
		}
	case "connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade":
		h.fault = http2.ErrCodeProtocol
	case "user-agent", "grpc-accept-encoding", "accept-encoding":
	default:
		h.other(f)
	}
}

// other takes a field that is not for the transport. Of several with one name the first counts.
func (h *head) other(f hpack.HeaderField) {
	for i, name := range h.wanted {
		if name == f.Name {
			if h.values[i] == "" {
				h.values[i] = f.Value
			}
			return
		}
	}
	for i := range len(f.Name) {
		if c := f.Name[i]; c >= 'A' && c <= 'Z' {
			h.fault = http2.ErrCodeProtocol
			return
		}
	}
}

func (h *head) pseudo(f hpack.HeaderField) {
	var is pseudo
	switch f.Name {
	case ":method":
		is, h.method = verb, f.Value
	case ":path":
		is, h.path = path, f.Value
	case ":scheme":
		is = scheme
	case ":authority":
		is = authority
	}
	if is == 0 || h.pseudos&is != 0 || h.regular || f.Value == "" && is != authority {
		h.fault = http2.ErrCodeProtocol
	}
	h.pseudos |= is
}

// status is HTTP's for a call that is refused before it begins.
func (h *head) status() string {
	switch {
	case h.method != "POST":
		return "405"
	case !isGRPC(h.content):
		return "415"
	}
	return "200"
}

// refusal says what keeps a call from being one of gRPC; nil: nothing.
func (h *head) refusal() *status.Status {
	switch {
	case h.method != "POST":
		return status.Newf(codes.Internal, "Received a HEADERS frame with :method %q which should be POST", h.method)
	case !isGRPC(h.content):
		return status.Newf(codes.InvalidArgument, "invalid gRPC request content-type %q", h.content)
	case h.badTime:
		return status.New(codes.Internal, "malformed grpc-timeout")
	}
	return nil
}

// isGRPC tells application/grpc, application/grpc+proto and application/grpc;charset=utf-8 from other types.
func isGRPC(content string) bool {
	rest, is := strings.CutPrefix(strings.ToLower(content), contentType)
	return is && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

// parseTimeout takes up to eight digits and a unit.
func parseTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	const longest = 1 << 62
	if n > uint64(longest/unit) { // 99,999,999 hours are more than there is room for
		return longest, true
	}
	return time.Duration(n) * unit, true
}

// statusFields are the trailers of an answer.
func statusFields(s *status.Status) []hpack.HeaderField {
	fields := []hpack.HeaderField{{Name: "grpc-status", Value: strconv.Itoa(int(s.Code())), Sensitive: true}}
	if text := s.Message(); text != "" {
		fields = append(fields, hpack.HeaderField{Name: "grpc-message", Value: escape(text), Sensitive: true})
	}
	return fields
}

// escape writes what is not printable ASCII, and the percent sign, as %XX.
func escape(text string) string {
	var b strings.Builder
	for i := 0; i < len(text) && b.Len() < maxMessage; i++ {
		if c := text[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + strings.ToUpper(strconv.FormatUint(uint64(c)|0x100, 16)[1:]))
		}
	}
	return b.String()
}

func refused(code codes.Code, why string) *status.Status { return status.New(code, why) }
