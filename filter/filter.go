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

// matchAll is the expression that every message matches.
const matchAll = "*"

// Expr is a parsed subscription expression: safe for concurrent use. The zero value matches everything.
type Expr struct {
	text   string
	tags   map[string]struct{} // nil: everything matches
	hashes []int64             // of the tags, sorted; two tags may share one
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
func (e *Expr) All() bool { return e == nil || e.tags == nil }

// MatchHash tells whether a message with this message.TagHash may match: false is certain, true is for MatchTag to confirm,
// since different tags can share a hash. A message without a tag has hash 0.
func (e *Expr) MatchHash(tagHash int64) bool {
	if e.All() {
		return true
	}
	_, ok := slices.BinarySearch(e.hashes, tagHash)
	return ok
}

// MatchTag decides exactly; tag is empty for a message without one.
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
