// Package filter decides which messages a subscription wants.
package filter

// Expr is a parsed subscription expression: safe for concurrent use. The zero value matches everything.
type Expr struct{}

// ParseTags parses `a || b`; empty and `*` match all.
func ParseTags(expression string) (*Expr, error) { panic("unbuilt") }

// All is true when everything matches.
func (e *Expr) All() bool { panic("unbuilt") }

// MatchHash tells whether a message with this tag hash may match; MatchTag decides exactly.
func (e *Expr) MatchHash(tagHash int64) bool { panic("unbuilt") }
func (e *Expr) MatchTag(tag []byte) bool     { panic("unbuilt") }

func (e *Expr) String() string { panic("unbuilt") }
