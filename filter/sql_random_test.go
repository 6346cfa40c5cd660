package filter

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/alloctest"
	"github.com/cairnmq/cairn/message"
)

// spell writes a parsed expression with all the parentheses and none of the names that it came with.
func spell(n node, names []string) string {
	of := func(n node) string { return "(" + spell(n, names) + ")" }
	not := func(b bool) string {
		if b {
			return " NOT "
		}
		return " "
	}
	switch n := n.(type) {
	case *constant:
		return spellConstant(n.value)
	case *property:
		return names[n.slot]
	case *cast:
		return names[n.of.slot]
	case *inverse:
		return "NOT " + of(n.of)
	case *negative:
		return "- " + of(n.of)
	case *isNull:
		return of(n.of) + " IS NULL"
	case *equal:
		return of(n.left) + " = " + of(n.right)
	case *order:
		return of(n.left) + [...]string{less: " < ", lessOrEqual: " <= ", greater: " > ", greaterOrEqual: " >= "}[n.rel] + of(n.right)
	case *logic:
		terms := make([]string, len(n.terms))
		for i, t := range n.terms {
			terms[i] = of(t)
		}
		return strings.Join(terms, map[bool]string{true: " AND ", false: " OR "}[n.and])
	case *in:
		list := make([]string, len(n.list))
		for i, s := range n.list {
			list[i] = quote(s)
		}
		return names[n.of.slot] + not(n.not) + "IN (" + strings.Join(list, ", ") + ")"
	case *search:
		return of(n.of) + not(n.not) + n.word + " " + quote(n.text)
	}
	panic(fmt.Sprintf("%T", n))
}

func spellConstant(v value) string {
	switch v.kind {
	case boolean:
		return strings.ToUpper(strconv.FormatBool(v.bits == 1))
	case integer32, integer64:
		return strconv.FormatInt(int64(v.bits), 10)
	case double:
		return strconv.FormatFloat(v.float(), 'e', -1, 64)
	case text:
		return quote(v.text)
	}
	return "NULL"
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Pieces of random expressions: few names, and values that meet.
var (
	someNames   = []string{"a", "b", "c", "TAGS"}
	someNumbers = []string{"0", "1", "2", "2147483647", "2147483648", "1.5", "1.0", "2e0", "9007199254740993"}
	someStrings = []string{"''", "'1'", "'x'", "'it''s'", "'true'", "'标'"}
	someValues  = []string{"1", "2", "-1", "1.5", "1.0", " 1", "x", "true", "FALSE", "it's", "2147483648", "NaN", "标x", "9007199254740993"}
)

// condition draws an expression that is true, false or unknown, in parentheses where it needs them.
func condition(t *rapid.T, depth int) string {
	of := func(s []string) string { return rapid.SampledFrom(s).Draw(t, "piece") }
	not := of([]string{"", "NOT "})
	if depth == 0 {
		return of([]string{"TRUE", "FALSE", "NULL", "a", "b IS NULL", "c = 1"})
	}
	sub := func() string { return "(" + condition(t, depth-1) + ")" }
	side := func() string { return operand(t, depth-1) }
	switch rapid.IntRange(0, 9).Draw(t, "kind") {
	case 0:
		return sub() + " AND " + sub()
	case 1:
		return sub() + " OR " + sub()
	case 2:
		return "NOT " + sub()
	case 3:
		return of(someNames) + of([]string{" = ", " <> "}) + of([]string{"TRUE", "(TRUE AND " + sub() + ")", of(someNumbers), of(someStrings), of(someNames)})
	case 4:
		return side() + of([]string{" = ", " <> "}) + side()
	case 5:
		return number(t) + of([]string{" < ", " <= ", " > ", " >= "}) + number(t)
	case 6:
		return of([]string{side(), sub()}) + " IS " + not + "NULL"
	case 7:
		return of(someNames) + " " + not + "IN (" + of(someStrings) + ", " + of(someStrings) + ")"
	case 8:
		return side() + " " + not + of([]string{"CONTAINS ", "STARTSWITH ", "ENDSWITH "}) + of(someStrings)
	}
	return number(t) + " " + not + "BETWEEN " + of([]string{"1", "b"}) + " AND " + of([]string{"2", "1.5", "c"})
}

func number(t *rapid.T) string {
	return rapid.SampledFrom([]string{"", "-", "- -"}).Draw(t, "sign") +
		rapid.SampledFrom(append(someNumbers, someNames...)).Draw(t, "number")
}

func operand(t *rapid.T, depth int) string {
	if depth > 0 && rapid.IntRange(0, 4).Draw(t, "nested") == 0 {
		return "- (" + condition(t, depth-1) + ")"
	}
	if rapid.Bool().Draw(t, "string") {
		return rapid.SampledFrom(someStrings).Draw(t, "string")
	}
	return number(t)
}

func someProperties(t *rapid.T) []byte {
	return message.EncodeProperties(rapid.MapOf(rapid.SampledFrom(someNames), rapid.SampledFrom(someValues)).Draw(t, "properties"))
}

func parsed(t *rapid.T, expression string) *Expr {
	e, err := ParseSQL(expression)
	if err != nil {
		t.Fatalf("%s: %v", expression, err)
	}
	return e
}

func TestSpelledOutItMeansTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		e := parsed(t, condition(t, 3))
		spelled := spell(e.sql.root, e.sql.names)
		again := parsed(t, spelled)
		for range 4 {
			props := someProperties(t)
			if got, want := again.sql.evaluate(props), e.sql.evaluate(props); got != want {
				t.Fatalf("%s is %s, %s is %s, with %q", e, answers[want], spelled, answers[got], props)
			}
		}
		if s := spell(again.sql.root, again.sql.names); s != spelled {
			t.Fatalf("%s is spelled %s", spelled, s)
		}
	})
}

// TestLaws has what holds whatever the parts are, failing parts aside: they end an evaluation where it has got to.
func TestLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := "("+condition(t, 2)+")", "("+condition(t, 2)+")"
		props := someProperties(t)
		same := func(left, right string) {
			l, r := parsed(t, left).sql.evaluate(props), parsed(t, right).sql.evaluate(props)
			if l != r {
				t.Fatalf("%s is %s, %s is %s, with %q", left, answers[l], right, answers[r], props)
			}
		}
		same("NOT ("+a+" AND "+b+")", "NOT "+a+" OR NOT "+b)
		same("NOT ("+a+" OR "+b+")", "NOT "+a+" AND NOT "+b)
		same("NOT NOT "+a, a)
		same(a+" AND TRUE", a)
		same(a+" OR FALSE", a)
		same(a+" AND "+a, a)
		same(a+" OR "+b+" AND TRUE", a+" OR "+b)
		if answerTo(a, props) != "fails" && answerTo(b, props) != "fails" {
			same(a+" AND "+b, b+" AND "+a)
			same(a+" OR "+b, b+" OR "+a)
		}
	})
}

func FuzzNumber(f *testing.F) {
	for _, s := range append(someValues, "0x1.8p-3d", "+.5e+7F", "1_0", "inf", "-Infinity", "\t7\n") {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, isInteger := parseInteger(s, 64)
		if want, err := strconv.ParseInt(s, 10, 64); len(s) <= maxNumber && (isInteger != (err == nil) || isInteger && n != want) {
			t.Errorf("%q is %d, %v; to strconv %d, %v", s, n, isInteger, want, err)
		}
		d, isDouble := parseDouble(s)
		if isInteger && (!isDouble || d != float64(n)) {
			t.Errorf("%q is %d and %v, %v", s, n, d, isDouble)
		}
		number := strings.TrimRight(strings.TrimLeft(trim(s), "+-"), "fFdD")
		if _, err := strconv.ParseFloat(number, 64); isDouble && errors.Is(err, strconv.ErrSyntax) {
			t.Errorf("%q is %v, to strconv none", s, d)
		}
	})
}

func FuzzSQL(f *testing.F) {
	for _, c := range sqlCases(f) {
		f.Add(c.expression, c.props)
	}
	f.Fuzz(func(t *testing.T, expression string, props []byte) {
		var e *Expr
		var v value
		var err error
		alloctest.AtMost(t, 400*len(expression)+20*len(props), func() {
			if e, err = ParseSQL(expression); err == nil {
				v = e.sql.evaluate(props)
			}
		})
		if err != nil {
			return
		}
		if _, ok := answers[v]; !ok {
			t.Fatalf("%q is %+v", expression, v)
		}
		if e.Match(props) != (v == truth(true)) {
			t.Fatalf("%q is %s and matches otherwise", expression, answers[v])
		}
		again, err := ParseSQL(spell(e.sql.root, e.sql.names))
		if err != nil {
			return // with all the parentheses it is nested too deep, or too long
		}
		if got := again.sql.evaluate(props); got != v {
			t.Fatalf("%q is %s, spelled out %s", expression, answers[v], answers[got])
		}
	})
}
