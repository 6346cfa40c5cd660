package filter

import (
	"fmt"
	"sync"
	"unsafe"

	"github.com/cairnmq/cairn/message"
)

// SQL92 expressions, in the order of reading: this file (what a parsed one is), sql_scan.go (words), sql_parse.go (grammar),
// sql_eval.go (the tree and what it evaluates to), sql_number.go (text as numbers).
//
//	a > 5 AND (b IS NULL OR c IN ('x', 'it''s')) AND NOT (d STARTSWITH 'test-')
//
// They mean what they mean in RocketMQ 5.5, surprises included, so that a consumer that moves here gets the messages it got
// there; testdata/sql has them all, with what the reference answers beside ours where we differ on purpose. The surprises:
//
//   - NOT binds closer than anything else: NOT a = 1 is (NOT a) = 1, and never true.
//   - A property is text. A number that it is compared with decides what it is read as: an integer up to 2³¹−1, any other
//     integer, or a floating-point number. A property that cannot be read so ends the evaluation, and the message does not
//     match, whatever stands beside it: with a = '1.5', neither a > 1 nor a > 1 OR TRUE matches, and a > 1.0 does.
//   - A property alone is never true: that takes a = TRUE.
//   - There is no arithmetic but the sign of a number, and no LIKE.
//   - What is compared with nothing is unknown, but two properties that are both absent are equal.

// Bounds on expressions: what goes over them is no expression.
const (
	maxSQL   = 64 << 10 // bytes
	maxDepth = 200      // of parentheses, signs, NOTs and chained comparisons in each other
	maxTerms = 512      // comparisons, and what stands in the place of one
)

// sql is a parsed expression.
type sql struct {
	root  node
	names []string       // of the properties; a property is known by its index
	index map[string]int // of names, when they are many
	terms int
}

// manyNames is from how many properties on looking one up takes longer than hashing it.
const manyNames = 8

// ParseSQL parses an SQL92 expression. The error is ErrExpression and says at which character what was expected.
func ParseSQL(expression string) (*Expr, error) {
	if len(expression) > maxSQL {
		return nil, fmt.Errorf("an expression of %d bytes, more than %d: %w", len(expression), maxSQL, ErrExpression)
	}
	p := parser{words: scanner{text: expression}, slots: map[string]int{}}
	root, err := p.parse()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrExpression)
	}
	s := &sql{root: root, names: p.names, terms: p.terms}
	if len(s.names) >= manyNames {
		s.index = p.slots
	}
	return &Expr{text: trim(expression), sql: s}, nil
}

// properties is room for what one evaluation needs of a message.
type properties struct{ values []value }

var rooms = sync.Pool{New: func() any { return &properties{} }}

// match evaluates the expression: only true matches, nothing unknown and nothing that fails.
func (s *sql) match(props []byte) bool {
	return s.evaluate(props) == truth(true)
}

func (s *sql) evaluate(props []byte) value {
	room := rooms.Get().(*properties)
	if cap(room.values) < len(s.names) {
		room.values = make([]value, len(s.names))
	}
	values := room.values[:len(s.names)]
	s.find(props, values)
	v := s.root.eval(values) // never a text, which would alias props
	clear(values)
	rooms.Put(room)
	return v
}

// find looks for the properties in one go. The values alias props.
func (s *sql) find(props []byte, values []value) {
	message.EachProperty(props, func(key, v []byte) bool {
		if at, ok := s.slot(key); ok {
			values[at] = value{kind: text, text: unsafe.String(unsafe.SliceData(v), len(v))}
		}
		return true
	})
}

func (s *sql) slot(key []byte) (int, bool) {
	if s.index != nil {
		at, ok := s.index[string(key)]
		return at, ok
	}
	for i, name := range s.names {
		if name == string(key) {
			return i, true
		}
	}
	return 0, false
}
