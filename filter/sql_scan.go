package filter

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// wordKind is what a word of an expression is.
type wordKind uint8

const (
	wordEnd    wordKind = iota
	wordName            // of a property
	wordKey             // a keyword, or an operator
	wordString          // text is without its quotes, '' is '
	wordInteger
	wordFloat
)

// word is a word of an expression. Of a keyword, text is in capitals.
type word struct {
	kind wordKind
	text string
	at   int // byte offset
}

// is says that the word is this keyword or operator.
func (w *word) is(key string) bool { return w.kind == wordKey && w.text == key }

func (w *word) String() string {
	switch w.kind {
	case wordEnd:
		return "the end"
	case wordString:
		return fmt.Sprintf("the string '%.40s'", w.text)
	}
	return fmt.Sprintf("%.40q", w.text)
}

// keywords are known in any case; what is spelled otherwise is the name of a property.
var keywords = map[string]struct{}{
	"NOT": {}, "AND": {}, "OR": {}, "BETWEEN": {}, "IN": {}, "TRUE": {}, "FALSE": {}, "NULL": {}, "IS": {},
	"CONTAINS": {}, "STARTSWITH": {}, "ENDSWITH": {},
}

const longestKeyword = len("STARTSWITH")

// scanner splits an expression into words.
type scanner struct {
	text string
	at   int
}

// next is the next word; an error is one of the scanner's own errors.
func (s *scanner) next() (word, error) {
	if err := s.skip(); err != nil {
		return word{}, err
	}
	begin := s.at
	if begin == len(s.text) {
		return word{kind: wordEnd, at: begin}, nil
	}
	switch c := s.text[begin]; {
	case c == '\'':
		return s.quoted()
	case isDigit(c) || c == '.':
		return s.number()
	case isLetter(c):
		for s.at < len(s.text) && (isLetter(s.text[s.at]) || isDigit(s.text[s.at])) {
			s.at++
		}
		return name(s.text[begin:s.at], begin), nil
	}
	for _, op := range [...]string{"<>", "<=", ">=", "=", "<", ">", "(", ")", ",", "+", "-"} {
		if strings.HasPrefix(s.text[begin:], op) {
			s.at += len(op)
			return word{wordKey, op, begin}, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(s.text[begin:])
	return word{}, s.errorf(begin, "%q does not belong into an expression", r)
}

// name makes a word of a keyword or the name of a property.
func name(text string, at int) word {
	if len(text) <= longestKeyword {
		if key := strings.ToUpper(text); isKeyword(key) {
			return word{wordKey, key, at}
		}
	}
	return word{wordName, text, at}
}

func isKeyword(text string) bool {
	_, ok := keywords[text]
	return ok
}

// skip goes over blanks and comments, -- to the end of the line and /* to the next */.
func (s *scanner) skip() error {
	for s.at < len(s.text) {
		rest := s.text[s.at:]
		switch {
		case strings.IndexByte(" \t\n\r\f", rest[0]) >= 0:
			s.at++
		case strings.HasPrefix(rest, "--"):
			n := strings.IndexAny(rest, "\n\r")
			if n < 0 {
				n = len(rest)
			}
			s.at += n
		case strings.HasPrefix(rest, "/*"):
			n := strings.Index(rest[2:], "*/")
			if n < 0 {
				return s.errorf(s.at, "the comment has no end")
			}
			s.at += 2 + n + 2
		default:
			return nil
		}
	}
	return nil
}

// quoted reads a string in quotes, in which ” is a quote.
func (s *scanner) quoted() (word, error) {
	begin := s.at
	s.at++
	for from := s.at; ; {
		n := strings.IndexByte(s.text[s.at:], '\'')
		if n < 0 {
			return word{}, s.errorf(begin, "the string has no end")
		}
		s.at += n + 1
		if s.at == len(s.text) || s.text[s.at] != '\'' {
			return word{wordString, strings.ReplaceAll(s.text[from:s.at-1], "''", "'"), begin}, nil
		}
		s.at++
	}
}

// number reads an integer or a floating-point number, as far as it goes: 5, 5l, 5., 5.5, .5, 5e5, 5.e-5. A leading zero is an
// integer of its own, since there are no octal ones.
func (s *scanner) number() (word, error) {
	begin := s.at
	s.digits()
	whole := s.at - begin
	float := s.at < len(s.text) && s.text[s.at] == '.'
	if float {
		s.at++
		if s.digits() == 0 && whole == 0 {
			return word{}, s.errorf(begin, "%q does not belong into an expression", '.')
		}
	}
	if s.exponent() || float {
		return word{wordFloat, s.text[begin:s.at], begin}, nil
	}
	if s.text[begin] == '0' {
		s.at = begin + 1
	} else if s.at < len(s.text) && (s.text[s.at] == 'l' || s.text[s.at] == 'L') {
		s.at++
	}
	return word{wordInteger, s.text[begin:s.at], begin}, nil
}

// digits goes over digits and says how many they were.
func (s *scanner) digits() int {
	begin := s.at
	for s.at < len(s.text) && isDigit(s.text[s.at]) {
		s.at++
	}
	return s.at - begin
}

// exponent goes over an exponent if it is a whole one.
func (s *scanner) exponent() bool {
	begin := s.at
	if begin == len(s.text) || s.text[begin] != 'e' && s.text[begin] != 'E' {
		return false
	}
	s.at++
	if s.at < len(s.text) && (s.text[s.at] == '+' || s.text[s.at] == '-') {
		s.at++
	}
	if s.digits() == 0 {
		s.at = begin
		return false
	}
	return true
}

// errorf is an error at a byte of the expression; it counts characters, from 1, as those who read it do.
func (s *scanner) errorf(at int, format string, args ...any) error {
	return fmt.Errorf("character %d: %s", utf8.RuneCountInString(s.text[:at])+1, fmt.Sprintf(format, args...))
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isLetter(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$'
}
