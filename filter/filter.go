// Package filter decides which messages a subscription wants.
package filter

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cairnmq/cairn/message"
)

// ErrExpression says that a subscription expression means nothing; it comes wrapped with the expression.
var ErrExpression = errors.New("invalid filter expression")

// Types of expressions, as clients name them.
const (
	Tag   = "TAG"
	SQL92 = "SQL92"
)

// matchAll is the expression that every message matches.
const matchAll = "*"

// Expr is a parsed subscription expression: safe for concurrent use. The zero value matches everything.
type Expr struct {
	text   string
	tags   map[string]struct{} // nil: everything matches, unless sql is there
	hashes []int64             // of the tags, sorted; two tags may share one
	sql    *sql                // nil: a tag expression
}

// IsTag tells whether a client's name of a type stands for tag expressions: those that know of no others leave it out.
func IsTag(expressionType string) bool { return expressionType == "" || expressionType == Tag }

// Parse parses an expression of a type: Tag or none as ParseTags does, SQL92 as ParseSQL does. The error is ErrExpression,
// of a type that is not known too.
func Parse(expressionType, expression string) (*Expr, error) {
	switch {
	case IsTag(expressionType):
		return ParseTags(expression)
	case expressionType == SQL92:
		return ParseSQL(expression)
	}
	return nil, fmt.Errorf("filter expressions are of type %s or %s, not %q: %w", Tag, SQL92, expressionType, ErrExpression)
}

// ParseTags parses `a || b`; empty and `*` match all. Blanks around a tag and empty alternatives do not count, a single |
// is part of a tag, and a * beside other tags is a tag of that name, as in Java. The error is ErrExpression: there are
// alternatives and all of them are empty.
func ParseTags(expression string) (*Expr, error) {
	text := trim(expression)
	if text == "" || text == matchAll {
		return &Expr{text: matchAll}, nil
	}
	e := &Expr{text: text, tags: map[string]struct{}{}}
	for tag := range strings.SplitSeq(text, "||") {
		if tag = trim(tag); tag == "" {
			continue
		}
		e.tags[tag] = struct{}{}
		e.hashes = append(e.hashes, message.TagHash(tag))
	}
	if len(e.tags) == 0 {
		return nil, fmt.Errorf("no tag in %q: %w", expression, ErrExpression)
	}
	slices.Sort(e.hashes)
	e.hashes = slices.Compact(e.hashes)
	return e, nil
}

// trim cuts off what Java's String.trim does: everything up to the blank.
func trim(s string) string { return strings.TrimFunc(s, func(r rune) bool { return r <= ' ' }) }

// All is true when everything matches.
func (e *Expr) All() bool { return e == nil || e.tags == nil && e.sql == nil }

// Type is Tag or SQL92.
func (e *Expr) Type() string {
	if e.NeedsProperties() {
		return SQL92
	}
	return Tag
}

// NeedsProperties is true when the hash of the tag says nothing, so that messages have to be read to know which match.
func (e *Expr) NeedsProperties() bool { return e != nil && e.sql != nil }

// Match decides exactly, by the encoded properties of a message. It keeps nothing of props.
func (e *Expr) Match(props []byte) bool {
	switch {
	case e.All():
		return true
	case e.sql != nil:
		return e.sql.match(props)
	}
	tag, _ := message.Property(props, message.PropTags)
	return e.MatchTag(tag)
}

// Work bounds the bytes that Match looks at in a message with so many bytes of properties.
func (e *Expr) Work(props int) int {
	if e.NeedsProperties() {
		return props * (1 + e.sql.terms)
	}
	return props
}

// MatchHash tells whether a message with this message.TagHash may match: false is certain, true is for Match to confirm,
// since different tags can share a hash. A message without a tag has hash 0.
func (e *Expr) MatchHash(tagHash int64) bool {
	if e.All() || e.sql != nil {
		return true
	}
	_, ok := slices.BinarySearch(e.hashes, tagHash)
	return ok
}

// MatchTag decides a tag expression exactly; tag is empty for a message without one.
func (e *Expr) MatchTag(tag []byte) bool {
	if e.All() {
		return true
	}
	_, ok := e.tags[string(tag)]
	return ok
}

// String is the expression as it was given, without the blanks around it; `*` when everything matches.
func (e *Expr) String() string {
	if e.All() {
		return matchAll
	}
	return e.text
}
