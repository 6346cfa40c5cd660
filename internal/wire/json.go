package wire

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// span is where key and value of a field stand in a header.
type span struct{ key, keyEnd, value, valueEnd int }

// scanner walks over one JSON text. Strings are unescaped in place: what is written never overtakes what is read.
type scanner struct {
	b []byte
	i int
}

// maxDepth bounds the nesting of values that are skipped.
const maxDepth = 64

func (s *scanner) fail(what string) error {
	return fmt.Errorf("%w: %s at byte %d of %d", ErrHeader, what, s.i, len(s.b))
}

// decodeJSON reads a JSON header: an object with the keys code, language, version, opaque, flag, remark and extFields, an
// object of strings. Numbers and booleans count as the text they are written with, null as absent, other keys are skipped.
func (c *Command) decodeJSON(h []byte) error {
	s := scanner{b: h}
	c.spans = c.spans[:0]
	var remark span
	for first := true; ; first = false {
		from, to, ok, err := s.key(first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		n := 0
		switch string(h[from:to]) {
		case "code":
			c.Code, err = s.int32()
		case "version":
			c.Version, err = s.int32()
		case "opaque":
			n, err = s.int32()
			c.Opaque = int32(n)
		case "flag":
			n, err = s.int32()
			c.Flag = int32(n)
		case "language":
			err = c.decodeLanguage(&s)
		case "remark":
			remark.value, remark.valueEnd, _, err = s.text()
		case "extFields":
			err = c.decodeFields(&s)
		default:
			err = s.skip(0)
		}
		if err != nil {
			return err
		}
	}
	if s.space(); s.i != len(s.b) {
		return s.fail("something behind the object")
	}
	// One copy holds all strings of the command.
	text := string(h)
	c.Remark = text[remark.value:remark.valueEnd]
	for i := range c.spans {
		f := &c.spans[i]
		c.Fields = append(c.Fields, Field{Key: text[f.key:f.keyEnd], Value: text[f.value:f.valueEnd]})
	}
	return nil
}

func (c *Command) decodeFields(s *scanner) error {
	c.spans = c.spans[:0]
	if s.space(); s.peek() == 'n' {
		return s.literal("null")
	}
	for first := true; ; first = false {
		from, to, ok, err := s.key(first)
		if err != nil || !ok {
			return err
		}
		value, valueEnd, null, err := s.text()
		if err != nil {
			return err
		}
		if null {
			continue
		}
		if len(c.spans) == maxFields {
			return s.fail("too many fields")
		}
		c.spans = append(c.spans, span{from, to, value, valueEnd})
	}
}

// decodeLanguage takes the name or, as fastjson does, the number.
func (c *Command) decodeLanguage(s *scanner) error {
	from, to, null, err := s.text()
	if err != nil || null {
		return err
	}
	if n, err := parseInt(s.b[from:to]); err == nil && n == int64(uint8(n)) {
		c.Language = Language(n)
		return nil
	}
	c.Language = languageOf(s.b[from:to])
	return nil
}

func (s *scanner) peek() byte {
	if s.i < len(s.b) {
		return s.b[s.i]
	}
	return 0
}

func (s *scanner) space() {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return
		}
	}
}

// expect skips white space and one given byte.
func (s *scanner) expect(c byte) error {
	if s.space(); s.peek() != c {
		return s.fail("expected " + strconv.QuoteRune(rune(c)))
	}
	s.i++
	return nil
}

// key reads on to the value of an object's next member and says where its key stands; at the end of the object ok is
// false. first is true for the first one.
func (s *scanner) key(first bool) (from, to int, ok bool, err error) {
	s.space()
	c := s.peek()
	switch {
	case first:
		if c != '{' {
			return 0, 0, false, s.fail("expected an object")
		}
		s.i++
		if s.space(); s.peek() == '}' {
			s.i++
			return 0, 0, false, nil
		}
	case c == '}':
		s.i++
		return 0, 0, false, nil
	case c == ',':
		s.i++
	default:
		return 0, 0, false, s.fail("expected , or }")
	}
	if err = s.expect('"'); err != nil {
		return 0, 0, false, err
	}
	if from, to, err = s.rest(); err != nil {
		return 0, 0, false, err
	}
	return from, to, true, s.expect(':')
}

// text reads any value as text: a string unescaped, anything else as it is written; null is told apart.
func (s *scanner) text() (from, to int, null bool, err error) {
	s.space()
	switch c := s.peek(); c {
	case '"':
		s.i++
		from, to, err = s.rest()
		return from, to, false, err
	case 'n':
		return 0, 0, true, s.literal("null")
	default:
		from = s.i
		err = s.skip(0)
		return from, s.i, false, err
	}
}

// int32 reads a whole number, which may stand in quotes; null is 0.
func (s *scanner) int32() (int, error) {
	at := s.i
	from, to, null, err := s.text()
	if err != nil || null {
		return 0, err
	}
	n, err := parseInt(s.b[from:to])
	if err != nil || n != int64(int32(n)) {
		s.i = at
		return 0, s.fail("not a 32-bit number")
	}
	return int(n), nil
}

var errDigits = errors.New("not a number of up to 18 digits")

// parseInt is strconv.ParseInt for up to 18 digits of a byte slice.
func parseInt(b []byte) (int64, error) {
	digits := b
	if len(digits) > 0 && (digits[0] == '-' || digits[0] == '+') {
		digits = digits[1:]
	}
	if len(digits) == 0 || len(digits) > 18 {
		return 0, errDigits
	}
	var n int64
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, errDigits
		}
		n = n*10 + int64(d-'0')
	}
	if b[0] == '-' {
		n = -n
	}
	return n, nil
}

// rest reads a string whose opening quote has been read and unescapes it in place. Control characters may stand in it as
// they are, as fastjson allows.
func (s *scanner) rest() (from, to int, err error) {
	from = s.i
	b := s.b
	for i := s.i; i < len(b); i++ {
		switch b[i] {
		case '"':
			s.i = i + 1
			return from, i, nil
		case '\\':
			s.i = i
			return s.escaped(from)
		}
	}
	s.i = len(b)
	return 0, 0, s.fail("a string without end")
}

// escaped goes on from the first backslash of a string that began at from.
func (s *scanner) escaped(from int) (int, int, error) {
	b := s.b
	to, i := s.i, s.i
	for i < len(b) {
		c := b[i]
		i++
		switch c {
		case '"':
			s.i = i
			return from, to, nil
		case '\\':
			if i == len(b) {
				break
			}
			c = b[i]
			i++
			if c == 'u' {
				r, n, ok := unicodeEscape(b[i:])
				if !ok {
					s.i = i
					return 0, 0, s.fail("a bad \\u escape")
				}
				i += n
				to += utf8.EncodeRune(b[to:], r)
				continue
			}
			plain := unescape[c]
			if plain == 0 {
				s.i = i
				return 0, 0, s.fail("a bad escape")
			}
			b[to] = plain
			to++
		default:
			b[to] = c
			to++
		}
	}
	s.i = len(b)
	return 0, 0, s.fail("a string without end")
}

var unescape = [256]byte{
	'"': '"', '\\': '\\', '/': '/', '\'': '\'', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

// unicodeEscape reads the four digits behind \u, and a second escape when the first is half of a surrogate pair. A half
// alone is U+FFFD.
func unicodeEscape(b []byte) (r rune, n int, ok bool) {
	r, ok = hex4(b)
	if !ok {
		return 0, 0, false
	}
	if !utf16.IsSurrogate(r) {
		return r, 4, true
	}
	if len(b) >= 10 && b[4] == '\\' && b[5] == 'u' {
		if low, ok := hex4(b[6:]); ok {
			if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
				return pair, 10, true
			}
		}
	}
	return utf8.RuneError, 4, true
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

func (s *scanner) literal(word string) error {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.fail("expected a value")
	}
	s.i += len(word)
	return nil
}

// skip reads over one value.
func (s *scanner) skip(depth int) error {
	if depth > maxDepth {
		return s.fail("nested too deep")
	}
	s.space()
	switch c := s.peek(); c {
	case '"':
		s.i++
		return s.skipString()
	case '{':
		s.i++
		return s.skipMembers('}', depth, true)
	case '[':
		s.i++
		return s.skipMembers(']', depth, false)
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	default:
		return s.number()
	}
}

// skipString reads over a string without changing it: it may be part of a value that is kept as it is written.
func (s *scanner) skipString() error {
	for s.i < len(s.b) {
		c := s.b[s.i]
		s.i++
		switch c {
		case '"':
			return nil
		case '\\':
			e := s.peek()
			s.i++
			if e == 'u' {
				if s.i > len(s.b) {
					break
				}
				if _, ok := hex4(s.b[s.i:]); !ok {
					return s.fail("a bad \\u escape")
				}
				s.i += 4
			} else if unescape[e] == 0 {
				return s.fail("a bad escape")
			}
		}
	}
	return s.fail("a string without end")
}

// skipMembers reads over what is left of an array or object.
func (s *scanner) skipMembers(end byte, depth int, keys bool) error {
	if s.space(); s.peek() == end {
		s.i++
		return nil
	}
	for {
		if keys {
			if err := s.expect('"'); err != nil {
				return err
			}
			if err := s.skipString(); err != nil {
				return err
			}
			if err := s.expect(':'); err != nil {
				return err
			}
		}
		if err := s.skip(depth + 1); err != nil {
			return err
		}
		if s.space(); s.peek() == ',' {
			s.i++
			continue
		}
		return s.expect(end)
	}
}

// number reads -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?
func (s *scanner) number() error {
	if s.peek() == '-' {
		s.i++
	}
	first := s.peek()
	n := s.digits()
	if n == 0 || n > 1 && first == '0' {
		return s.fail("expected a value")
	}
	if s.peek() == '.' {
		s.i++
		if s.digits() == 0 {
			return s.fail("a number without its fraction")
		}
	}
	if c := s.peek(); c == 'e' || c == 'E' {
		s.i++
		if c := s.peek(); c == '+' || c == '-' {
			s.i++
		}
		if s.digits() == 0 {
			return s.fail("a number without its exponent")
		}
	}
	return nil
}

func (s *scanner) digits() int {
	from := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i - from
}

// appendJSON is the inverse of decodeJSON. An empty remark and no fields are left out, as Java leaves out null.
func (c *Command) appendJSON(dst []byte) []byte {
	dst = append(dst, `{"code":`...)
	dst = strconv.AppendInt(dst, int64(c.Code), 10)
	if len(c.Fields) > 0 {
		dst = append(dst, `,"extFields":`...)
		sep := byte('{')
		for i := range c.Fields {
			dst = append(dst, sep)
			dst = appendString(dst, c.Fields[i].Key)
			dst = append(dst, ':')
			dst = appendString(dst, c.Fields[i].Value)
			sep = ','
		}
		dst = append(dst, '}')
	}
	dst = append(dst, `,"flag":`...)
	dst = strconv.AppendInt(dst, int64(c.Flag), 10)
	dst = append(dst, `,"language":"`...)
	dst = append(dst, c.Language.String()...)
	dst = append(dst, `","opaque":`...)
	dst = strconv.AppendInt(dst, int64(c.Opaque), 10)
	if c.Remark != "" {
		dst = append(dst, `,"remark":`...)
		dst = appendString(dst, c.Remark)
	}
	dst = append(dst, `,"serializeTypeCurrentRPC":"JSON","version":`...)
	dst = strconv.AppendInt(dst, int64(c.Version), 10)
	return append(dst, '}')
}

const hexDigits = "0123456789abcdef"

// appendString appends a JSON string. Bytes that are not UTF-8 become U+FFFD.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < utf8.RuneSelf && c != '"' && c != '\\' {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRuneInString(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[from:i]...), "\uFFFD"...)
				from = i + 1
			}
			i += n
			continue
		}
		dst = append(dst, s[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, '\\', 'b')
		case '\f':
			dst = append(dst, '\\', 'f')
		case '\n':
			dst = append(dst, '\\', 'n')
		case '\r':
			dst = append(dst, '\\', 'r')
		case '\t':
			dst = append(dst, '\\', 't')
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
		i++
		from = i
	}
	return append(append(dst, s[from:]...), '"')
}
