package filter

import (
	"math"
	"slices"
	"strings"
)

// kind is what a value is.
type kind uint8

const (
	null    kind = iota // a property that is not there, and what is unknown because of one
	failed              // a property could not be read as a number: the whole expression fails
	boolean             // bits: 0, 1
	integer32
	integer64
	double // bits of a float64
	text
)

// value is what a node evaluates to. The zero value is null.
type value struct {
	kind kind
	bits uint64
	text string
}

func truth(b bool) value {
	if b {
		return value{kind: boolean, bits: 1}
	}
	return value{kind: boolean}
}

// integer has the smaller kind that n fits in, as it decides what a property is read as.
func integer(n int64) value {
	if n == int64(int32(n)) {
		return value{kind: integer32, bits: uint64(n)}
	}
	return value{kind: integer64, bits: uint64(n)}
}

func float(f float64) value { return value{kind: double, bits: math.Float64bits(f)} }

func (v value) isNumber() bool { return v.kind == integer32 || v.kind == integer64 || v.kind == double }

func (v value) float() float64 {
	if v.kind == double {
		return math.Float64frombits(v.bits)
	}
	return float64(int64(v.bits))
}

// node is a part of an expression. It is never changed once it is made.
type node interface {
	// eval is the part's value for a message with these properties, which it does not keep.
	eval(props []value) value
}

type (
	constant struct{ value }
	property struct{ slot int }
	// cast is a property that stands where a condition should: text is never true.
	cast struct{ of *property }
	// inverse is NOT, negative is −.
	inverse  struct{ of node }
	negative struct{ of node }
	isNull   struct{ of node }
	equal    struct{ left, right node }
	order    struct {
		rel         relation
		left, right node
	}
	logic struct {
		and   bool
		terms []node
	}
	in struct {
		of   *property
		not  bool
		list []string // sorted
	}
	search struct {
		of   node
		not  bool
		how  func(s, part string) bool
		word string
		text string
	}
)

// relation is how two numbers compare.
type relation uint8

const (
	less relation = iota
	lessOrEqual
	greater
	greaterOrEqual
)

func (r relation) holds(c int) bool {
	switch r {
	case less:
		return c < 0
	case lessOrEqual:
		return c <= 0
	case greater:
		return c > 0
	}
	return c >= 0
}

// isCondition says that a node is true, false or unknown.
func isCondition(n node) bool {
	switch n := n.(type) {
	case *constant:
		return n.kind == boolean || n.kind == null
	case *property, *negative:
		return false
	}
	return true
}

func (n *constant) eval([]value) value { return n.value }

func (n *property) eval(props []value) value { return props[n.slot] }

func (n *cast) eval(props []value) value {
	if props[n.of.slot].kind == null {
		return value{}
	}
	return truth(false)
}

func (n *inverse) eval(props []value) value {
	v := n.of.eval(props)
	if v.kind == boolean {
		v.bits ^= 1
	}
	return v
}

// eval makes null of what is no number, texts of numbers too.
func (n *negative) eval(props []value) value {
	switch v := n.of.eval(props); v.kind {
	case integer32, integer64:
		v.bits = -v.bits
		return v
	case double:
		return float(-v.float())
	case failed:
		return v
	}
	return value{}
}

func (n *isNull) eval(props []value) value {
	v := n.of.eval(props)
	if v.kind == failed {
		return v
	}
	return truth(v.kind == null)
}

// eval takes two nulls for equal. With null on the left only it is unknown, with null on the right only it is false.
func (n *equal) eval(props []value) value {
	left := n.left.eval(props)
	if left.kind == failed {
		return left
	}
	right := n.right.eval(props)
	switch {
	case right.kind == failed:
		return right
	case left.kind == null && right.kind != null:
		return value{}
	case left.kind == null || right.kind == null:
		return truth(left.kind == right.kind)
	}
	c, ok := compare(left, right)
	if !ok {
		return value{kind: failed}
	}
	return truth(c == 0)
}

func (n *order) eval(props []value) value {
	left := n.left.eval(props)
	if left.kind == null || left.kind == failed {
		return left
	}
	right := n.right.eval(props)
	if right.kind == null || right.kind == failed {
		return right
	}
	var ok bool
	if left.kind == text && right.kind == text {
		if left, ok = left.as(double); !ok {
			return value{kind: failed}
		}
	}
	c, ok := compare(left, right)
	if !ok {
		return value{kind: failed}
	}
	return truth(n.rel.holds(c))
}

// eval ends with the first term that decides: a false one for AND, a true one for OR, one that fails for both.
func (n *logic) eval(props []value) value {
	out := truth(n.and)
	decides := truth(!n.and)
	for _, t := range n.terms {
		switch v := t.eval(props); {
		case v == decides, v.kind == failed:
			return v
		case v.kind == null:
			out = v
		}
	}
	return out
}

func (n *in) eval(props []value) value {
	v := props[n.of.slot]
	if v.kind == null {
		return v
	}
	_, found := slices.BinarySearch(n.list, v.text)
	return truth(found != n.not)
}

// eval is false for what is no text, and for every text when nothing is searched for, with NOT too.
func (n *search) eval(props []value) value {
	if n.text == "" {
		return truth(false)
	}
	v := n.of.eval(props)
	switch v.kind {
	case failed:
		return v
	case text:
		return truth(n.how(v.text, n.text) != n.not)
	}
	return truth(false)
}

// compare compares two values that are not null. A text is read as what the other one is, unless both are texts; ok is false
// when it cannot be. Values that have nothing in common are not equal.
func compare(left, right value) (c int, ok bool) {
	if left.kind == text && right.kind == text {
		return strings.Compare(left.text, right.text), true
	}
	if left.kind == text {
		if left, ok = left.as(right.kind); !ok {
			return 0, false
		}
	}
	if right.kind == text {
		if right, ok = right.as(left.kind); !ok {
			return 0, false
		}
	}
	switch {
	case left.kind == boolean && right.kind == boolean:
		return int(left.bits) - int(right.bits), true
	case left.kind == boolean || right.kind == boolean:
		return -1, true
	case left.kind == double || right.kind == double:
		return compareFloats(left.float(), right.float()), true
	}
	l, r := int64(left.bits), int64(right.bits)
	switch {
	case l < r:
		return -1, true
	case l > r:
		return 1, true
	}
	return 0, true
}

// compareFloats has an order for all: −0 is below 0, and not-a-number above everything and equal to itself.
func compareFloats(l, r float64) int {
	switch {
	case l < r:
		return -1
	case l > r:
		return 1
	}
	return rank(l) - rank(r)
}

// rank orders what < and > do not tell apart.
func rank(f float64) int {
	switch {
	case f != f:
		return 2
	case f == 0 && math.Signbit(f):
		return 0
	}
	return 1
}
