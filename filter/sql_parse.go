package filter

import (
	"slices"
	"strconv"
	"strings"
)

// parser reads the grammar, from what binds least to what binds most, with one word ahead:
//
//	or          = and {"OR" and}
//	and         = equality {"AND" equality}
//	equality    = comparison {("=" | "<>") comparison | "IS" ["NOT"] "NULL"}
//	comparison  = unary {(">" | ">=" | "<" | "<=") unary | ["NOT"] test}
//	test        = ("CONTAINS" | "STARTSWITH" | "ENDSWITH") string
//	            | "BETWEEN" unary "AND" unary | "IN" "(" string {"," string} ")"
//	unary       = {"+" | "-" | "NOT"} primary
//	primary     = string | integer | float | "TRUE" | "FALSE" | "NULL" | name | "(" or ")"
//
// What the grammar lets through is checked as it is built. The first error stays: after it, words come out as the end.
type parser struct {
	words scanner
	word  word // the next one
	err   error
	slots map[string]int // of names
	names []string
	terms int
	depth int // of what is being read
}

func (p *parser) parse() (node, error) {
	p.advance()
	root := p.condition(p.or(), 0)
	if p.word.kind != wordEnd {
		p.expected("AND, OR or the end")
	}
	return root, p.err
}

// advance goes to the next word.
func (p *parser) advance() {
	w, err := p.words.next()
	if err != nil {
		p.fail(err)
		return
	}
	if p.err == nil {
		p.word = w
	}
}

func (p *parser) fail(err error) {
	if p.err == nil {
		p.err = err
	}
	p.word = word{kind: wordEnd, at: len(p.words.text)}
}

func (p *parser) failAt(at int, format string, args ...any) {
	p.fail(p.words.errorf(at, format, args...))
}

func (p *parser) expected(what string) {
	p.failAt(p.word.at, "expected %s, found %s", what, p.word.String())
}

// accept goes over the next word when it is that keyword or operator.
func (p *parser) accept(key string) bool {
	if !p.word.is(key) {
		return false
	}
	p.advance()
	return true
}

func (p *parser) need(key string) {
	if !p.accept(key) {
		p.expected(key)
	}
}

// term counts a comparison.
func (p *parser) term() {
	if p.terms++; p.terms > maxTerms {
		p.failAt(p.word.at, "there are more than %d comparisons", maxTerms)
	}
}

// deeper notes that what is being read goes one level deeper; the caller takes it back. It is false over the bound.
func (p *parser) deeper() bool {
	if p.depth++; p.depth > maxDepth {
		p.failAt(p.word.at, "the expression is nested more than %d deep", maxDepth)
	}
	return p.err == nil
}

// condition makes sure that a node is true, false or unknown. A property alone is made so.
func (p *parser) condition(n node, at int) node {
	switch n := n.(type) {
	case *property:
		p.term()
		return &cast{n}
	case *constant:
		p.term()
	}
	if !isCondition(n) {
		p.failAt(at, "expected a condition, found a value")
	}
	return n
}

func (p *parser) or() node  { return p.logic("OR", p.and) }
func (p *parser) and() node { return p.logic("AND", p.equality) }

// logic reads terms with one operator between them into one node, so that many of them make no deep tree.
func (p *parser) logic(op string, term func() node) node {
	at := p.word.at
	first := term()
	if !p.word.is(op) {
		return first
	}
	n := &logic{and: op == "AND", terms: []node{p.condition(first, at)}}
	for p.accept(op) {
		at = p.word.at
		n.terms = append(n.terms, p.condition(term(), at))
	}
	return n
}

func (p *parser) equality() node {
	before := p.depth
	left := p.comparison()
	for p.word.is("=") || p.word.is("<>") || p.word.is("IS") {
		if !p.deeper() {
			break
		}
		op := p.word
		p.advance()
		if op.text != "IS" {
			left = p.equal(op, left, p.comparison())
			continue
		}
		not := p.accept("NOT")
		if !p.word.is("NULL") && !not {
			p.expected("NULL or NOT NULL")
		}
		p.need("NULL")
		p.term()
		left = negated(not, &isNull{left})
	}
	p.depth = before
	return left
}

// equal checks both sides of = and <>.
func (p *parser) equal(op word, left, right node) node {
	p.term()
	l, lit := left.(*constant)
	r, alsoLit := right.(*constant)
	switch {
	case lit && l.kind == null || alsoLit && r.kind == null:
		p.failAt(op.at, "nothing equals NULL: expected IS NULL or IS NOT NULL")
	case lit && alsoLit && l.kind == boolean && r.kind != boolean:
		p.failAt(op.at, "TRUE and FALSE cannot be compared with a number or a string")
	}
	return negated(op.text == "<>", &equal{left, right})
}

func negated(not bool, n node) node {
	if not {
		return &inverse{n}
	}
	return n
}

// orders are the operators that compare numbers.
var orders = map[string]relation{"<": less, "<=": lessOrEqual, ">": greater, ">=": greaterOrEqual}

func (p *parser) comparison() node {
	before := p.depth
	left := p.unary()
	for p.word.kind == wordKey && p.err == nil {
		op := p.word
		rel, isOrder := orders[op.text]
		if !isOrder && !startsTest(op.text) {
			break
		}
		if !p.deeper() {
			break
		}
		p.advance()
		if isOrder {
			left = p.order(op, rel, left, p.unary())
		} else {
			left = p.test(op, left)
		}
	}
	p.depth = before
	return left
}

func startsTest(key string) bool {
	switch key {
	case "NOT", "CONTAINS", "STARTSWITH", "ENDSWITH", "BETWEEN", "IN":
		return true
	}
	return false
}

// test reads what comes after the first word of a test.
func (p *parser) test(op word, left node) node {
	not := op.text == "NOT"
	if not {
		if op = p.word; op.text == "NOT" || op.kind != wordKey || !startsTest(op.text) {
			p.expected("BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH")
			return left
		}
		p.advance()
	}
	switch op.text {
	case "BETWEEN":
		return p.between(op, left, not)
	case "IN":
		return p.in(op, left, not)
	}
	p.term()
	n := &search{of: left, not: not, how: strings.Contains}
	switch op.text {
	case "STARTSWITH":
		n.how = strings.HasPrefix
	case "ENDSWITH":
		n.how = strings.HasSuffix
	}
	n.word = op.text
	n.text = p.quoted()
	return n
}

// quoted reads a string.
func (p *parser) quoted() string {
	s := p.word.text
	if p.word.kind != wordString {
		p.expected("a string")
		return ""
	}
	p.advance()
	return s
}

// between reads the bounds. Two numbers have to be in order, unless they have signs.
func (p *parser) between(op word, of node, not bool) node {
	low := p.unary()
	p.need("AND")
	high := p.unary()
	if not {
		return &logic{terms: []node{p.order(op, less, of, low), p.order(op, greater, of, high)}}
	}
	n := &logic{and: true, terms: []node{p.order(op, greaterOrEqual, of, low), p.order(op, lessOrEqual, of, high)}}
	l, lit := low.(*constant)
	h, alsoLit := high.(*constant)
	if p.err == nil && lit && alsoLit {
		if c, _ := compare(l.value, h.value); c > 0 {
			p.failAt(op.at, "the first bound of BETWEEN is above the second")
		}
	}
	return n
}

// order checks both sides of <, <=, > and >=: numbers and properties, with signs or without.
func (p *parser) order(op word, rel relation, left, right node) node {
	p.term()
	for _, side := range [...]node{left, right} {
		lit, isLit := side.(*constant)
		if isCondition(side) || isLit && !lit.isNumber() {
			p.failAt(op.at, "expected numbers or properties on both sides of %s", op.text)
		}
	}
	return &order{rel, left, right}
}

// in reads the list.
func (p *parser) in(op word, of node, not bool) node {
	prop, ok := of.(*property)
	if !ok {
		p.failAt(op.at, "expected a property in front of IN")
		return of
	}
	p.term()
	n := &in{of: prop, not: not}
	p.need("(")
	n.list = append(n.list, p.quoted())
	for p.accept(",") {
		n.list = append(n.list, p.quoted())
	}
	if !p.accept(")") {
		p.expected(", or )")
	}
	slices.Sort(n.list)
	n.list = slices.Compact(n.list)
	return n
}

// unary reads signs and NOTs, which all bind alike.
func (p *parser) unary() node {
	switch op := p.word; {
	case !op.is("+") && !op.is("-") && !op.is("NOT"):
		return p.primary()
	default:
		defer func(before int) { p.depth = before }(p.depth)
		if !p.deeper() {
			return &constant{}
		}
		p.advance()
		at := p.word.at
		of := p.unary()
		switch op.text {
		case "NOT":
			return &inverse{p.condition(of, at)}
		case "-":
			return &negative{of}
		}
		return of
	}
}

func (p *parser) primary() node {
	w := p.word
	switch {
	case w.kind == wordName:
		p.advance()
		return p.property(w.text)
	case w.kind == wordString:
		p.advance()
		return &constant{value{kind: text, text: w.text}}
	case w.kind == wordInteger:
		p.advance()
		return p.integer(w)
	case w.kind == wordFloat:
		p.advance()
		return p.float(w)
	case p.accept("TRUE"):
		return &constant{truth(true)}
	case p.accept("FALSE"):
		return &constant{truth(false)}
	case p.accept("NULL"):
		return &constant{}
	case !w.is("("):
		p.expected("a property, a value, NOT or (")
		return &constant{}
	}
	before := p.depth
	defer func() { p.depth = before }()
	if !p.deeper() {
		return &constant{}
	}
	p.advance()
	n := p.or()
	if p.err == nil && !p.accept(")") {
		p.expected("AND, OR or )")
	}
	return n
}

func (p *parser) property(name string) node {
	slot, ok := p.slots[name]
	if !ok {
		slot = len(p.names)
		p.slots[name] = slot
		p.names = append(p.names, name)
	}
	return &property{slot}
}

// integer is one of 32 bits if it fits.
func (p *parser) integer(w word) node {
	n, ok := parseInteger(strings.TrimRight(w.text, "lL"), 64)
	if !ok {
		p.failAt(w.at, "%.40s is above 2⁶³−1", w.text)
	}
	return &constant{integer(n)}
}

// float refuses what is not 0 and comes out as 0 or infinity.
func (p *parser) float(w word) node {
	f, err := strconv.ParseFloat(w.text, 64)
	mantissa, _, _ := strings.Cut(strings.ToLower(w.text), "e")
	if err != nil || f == 0 && strings.Trim(mantissa, "0.") != "" {
		p.failAt(w.at, "%.40s is out of range", w.text)
	}
	return &constant{float(f)}
}
