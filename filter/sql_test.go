package filter

import (
	"bufio"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cairnmq/cairn/message"
)

// answers are what an expression can come to, as testdata/sql calls them.
var answers = map[value]string{
	{}: "null", {kind: failed}: "fails", truth(true): "true", truth(false): "false",
}

// answerTo evaluates an expression.
func answerTo(expression string, props []byte) string {
	e, err := ParseSQL(expression)
	if err != nil {
		return "error"
	}
	return answers[e.sql.evaluate(props)]
}

// sqlCase is a line of testdata/sql.
type sqlCase struct {
	line                           int
	reference, expression, written string
	ours                           string // what is answered here
	props                          []byte
}

var escapes = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t", `\f`, "\f")

func sqlCases(t testing.TB) (cases []sqlCase) {
	f, err := os.Open("testdata/sql")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		if lines.Text() == "" || strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		fields := strings.Split(lines.Text(), " | ")
		if len(fields) < 2 {
			t.Fatalf("testdata/sql:%d: %q is no case", n, lines.Text())
		}
		reference, ours, differs := strings.Cut(strings.TrimSpace(fields[0]), " here ")
		if !differs {
			ours = reference
		}
		c := sqlCase{line: n, reference: reference, ours: ours, written: fields[1], expression: escapes.Replace(fields[1])}
		for _, pair := range fields[2:] {
			key, v, _ := strings.Cut(pair, "=")
			c.props = message.AppendProperty(c.props, key, escapes.Replace(v))
		}
		cases = append(cases, c)
	}
	return cases
}

func TestSQLAnswersAsTheReference(t *testing.T) {
	cases := sqlCases(t)
	for _, c := range cases {
		if got := answerTo(c.expression, c.props); got != c.ours {
			_, err := ParseSQL(c.expression)
			t.Errorf("testdata/sql:%d: %s with %q: %s (%v), want %s", c.line, c.written, c.props, got, err, c.ours)
		}
	}
	if len(cases) < 250 {
		t.Errorf("%d cases", len(cases))
	}
}

func TestParseSaysWhereAndWhat(t *testing.T) {
	for expression, want := range map[string]string{
		"":                    "character 1: expected a property, a value, NOT or (, found the end",
		"a = 'é' AND":         "character 12: expected a property, a value, NOT or (, found the end",
		"a = 'é' b":           `character 9: expected AND, OR or the end, found "b"`,
		"a LIKE 'x%'":         `character 3: expected AND, OR or the end, found "LIKE"`,
		"a = 1;":              `character 6: ';' does not belong into an expression`,
		"a != 1":              `character 3: '!' does not belong into an expression`,
		"é = 1":               `character 1: 'é' does not belong into an expression`,
		"a = 'x":              "character 5: the string has no end",
		"a /* = 1":            "character 3: the comment has no end",
		"(a = 1":              "character 7: expected AND, OR or ), found the end",
		"a IN ('x' 'y')":      "character 11: expected , or ), found the string 'y'",
		"a IN (1)":            `character 7: expected a string, found "1"`,
		"'a' IN ('a')":        "character 5: expected a property in front of IN",
		"a = NULL":            "character 3: nothing equals NULL: expected IS NULL or IS NOT NULL",
		"a IS 5":              `character 6: expected NULL or NOT NULL, found "5"`,
		"a NOT = 5":           `character 7: expected BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH, found "="`,
		"a BETWEEN 3 AND 1":   "character 3: the first bound of BETWEEN is above the second",
		"a > 'x'":             "character 3: expected numbers or properties on both sides of >",
		"1":                   "character 1: expected a condition, found a value",
		"a = 1 AND (b, c)":    `character 13: expected AND, OR or ), found ","`,
		"a = 1e400":           "character 5: 1e400 is out of range",
		"9223372036854775808": "character 1: 9223372036854775808 is above 2⁶³−1",
	} {
		e, err := ParseSQL(expression)
		if !errors.Is(err, ErrExpression) || e != nil || !strings.HasPrefix(err.Error(), want+": ") {
			t.Errorf("%s: %v, want %s", expression, err, want)
		}
	}
}

func TestSQLIsBounded(t *testing.T) {
	for name, expression := range map[string]string{
		"parentheses": strings.Repeat("(", 30000) + "a" + strings.Repeat(")", 30000),
		"signs":       "a = " + strings.Repeat("-", 3000) + "\n" + strings.Repeat("+ ", 30000) + "1",
		"nots":        strings.Repeat("NOT ", 15000) + "a",
		"equals":      "a" + strings.Repeat("=a", 30000),
		"tests":       "a" + strings.Repeat(" CONTAINS ''", 5000),
		"terms":       "a" + strings.Repeat(" OR a", 12000),
		"constants":   "TRUE" + strings.Repeat(" AND TRUE", 7000),
		"bytes":       "a = '" + strings.Repeat("x", maxSQL) + "'",
	} {
		if _, err := ParseSQL(expression); !errors.Is(err, ErrExpression) {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := "a = 0" + strings.Repeat(" OR a = 1", maxTerms-1)
	e, err := ParseSQL(long)
	if err != nil || !e.Match(message.AppendProperty(nil, "a", "1")) {
		t.Errorf("%d terms: %v", maxTerms, err)
	}
	if _, err := ParseSQL("a IN ('" + strings.Repeat("x','", 10000) + "')"); err != nil {
		t.Errorf("a long list: %v", err)
	}
}

func TestTypesOfExpressions(t *testing.T) {
	for _, c := range []struct {
		kind, expression, isKind string
		all, needs               bool
	}{
		{"", "*", Tag, true, false},
		{Tag, "a || b", Tag, false, false},
		{SQL92, "TRUE", SQL92, false, true},
	} {
		e, err := Parse(c.kind, c.expression)
		if err != nil || e.Type() != c.isKind || e.All() != c.all || e.NeedsProperties() != c.needs || e.String() != c.expression {
			t.Errorf("%+v: %v, %v", c, e, err)
		}
	}
	for _, kind := range []string{"sql92", "TAGS", "*"} {
		if _, err := Parse(kind, "a"); !errors.Is(err, ErrExpression) {
			t.Errorf("%s: %v", kind, err)
		}
	}
	var all *Expr
	if all.NeedsProperties() || all.Type() != Tag || !all.Match(nil) {
		t.Error("nothing is not everything")
	}
}

func TestMatchNeedsNoRoom(t *testing.T) {
	e, err := ParseSQL("region IN ('eu', 'us') AND price > 10.5 AND (vip = TRUE OR kind NOT STARTSWITH 'test') AND n = 5 OR missing > 3")
	if err != nil {
		t.Fatal(err)
	}
	props := message.EncodeProperties(map[string]string{
		"UNIQ_KEY": "7F0000010001", "TAGS": "a", "region": "us", "price": "12.25", "vip": "no", "kind": "order", "n": "x",
	})
	if n := testing.AllocsPerRun(1000, func() { e.Match(props) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParseSQL(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseSQL("region = 'eu' AND price BETWEEN 10 AND 20 OR kind IN ('a', 'b', 'c')"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMatch(b *testing.B) {
	props := message.EncodeProperties(map[string]string{
		"UNIQ_KEY": "7F00000100010000", "TAGS": "TagA", "KEYS": "order-1", "WAIT": "true", "CLUSTER": "c",
		"region": "us", "price": "12", "kind": "order",
	})
	for name, expression := range map[string]string{
		"one":   "region = 'us'",
		"range": "price BETWEEN 10 AND 20",
		"all":   "region IN ('eu', 'us') AND price > 10 AND (vip IS NULL OR kind CONTAINS 'test')",
		"tag":   "TAGS = 'TagA'",
	} {
		e, err := ParseSQL(expression)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !e.Match(props) {
					b.Fatal("no match")
				}
			}
		})
	}
}
