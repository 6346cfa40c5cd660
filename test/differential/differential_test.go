// Package differential plays the same calls of both protocols against the reference broker and Cairn, and compares what is
// answered field by field.
//
// The calls are in testdata/*/*.txt, each with what the reference answered; a file is played in order on a broker of its own
// topics, with connections of its own. Where Cairn answers otherwise is in testdata/known.json, with the reason; an entry that
// is not seen any more fails.
//
//	go test ./test/differential                                                   Cairn against what is noted
//	go test ./test/differential -reference ../../../shared/reference              the reference against what is noted
//	go test ./test/differential -reference ../../../shared/reference -rewrite     note what the reference answers
//
// # A file of calls
//
//	call NAME code=N [client=C] [at=nameserver] [version=N] [binary] [oneway]     a Remoting request
//	field=value             its header; a value in quotes is unescaped as in Go
//	body=text               its body, or
//	bytes=N                 a body of that many letters x, or
//	batch=text,text         a body of several messages
//
//	rpc NAME method=M [client=C]            a gRPC call of either service; without a client no headers are sent
//	{"JSON": "of the request"}
//
// Beside these, in any input:
//
//	@until field=value      the call is repeated until the answer says so, for up to ten seconds
//	@keep name=field        $name in later input is what the answer says there; in later output it is shown as <name>
//	@receipt name=I         $name is the receipt of the I-th message of a pop over Remoting
//	@any field…             what differs from run to run: shown as <any>; * stands for any text
//
// and $ms+N, $date+N stand for N ms, N s from now, as milliseconds and as JSON of gRPC.
//
// # An answer
//
// A line for each field, sorted: code, remark, header.NAME, and the body as body.PATH or message[I].PATH; for gRPC the path
// in the response, or grpc and remark where the call itself failed. Ids, times and addresses are shown as their kind. Of
// remarks that are texts of Java exceptions only that there is one is compared: they name classes of the reference, and no client
// or tool reads them.
package differential

import (
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/test/place"
)

var reference = flag.String("reference", "", "folder with the reference's up.sh and down.sh: play against it instead of Cairn")

// exception is what the text of a Java exception is shown as.
const exception = "<exception>"

// noRemark stands in answers of the reference that were given no remark; nobody reads it.
const noRemark = "not set any response code"

// configuration of the reference, where its defaults switch off what Cairn has on.
const configuration = "enablePropertyFilter=true\nrecallMessageEnable=true\nlongPollingEnable=true"

func TestDifferential(t *testing.T) {
	var at place.Place
	var differences *known
	if *reference != "" {
		at = place.Reference(t, *reference, configuration)
	} else {
		if f := flag.Lookup("rewrite"); f.Value.String() == "true" {
			t.Fatal("-rewrite needs -reference: what Cairn answers is not to be noted")
		}
		at = place.Cairn(t)
		differences = readKnown(t)
	}
	datadriven.Walk(t, "testdata/calls", func(t *testing.T, path string) {
		s := newSession(t, at)
		file := strings.TrimSuffix(filepath.ToSlash(path), ".txt")
		file = strings.TrimPrefix(file, "testdata/calls/")
		var complaints []string
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			got := s.play(t, d)
			if d.Rewrite {
				return format(got)
			}
			complaints = append(complaints, differences.unexplained(file+"/"+d.CmdArgs[0].Key, parse(d.Expected), got)...)
			return d.Expected // the calls behind it are of interest, too
		})
		for _, c := range complaints {
			t.Error(c)
		}
	})
	differences.unused(t)
}

// answer is what a call was answered with: field and value.
type answer map[string]string

func format(a answer) string {
	var b strings.Builder
	for _, f := range slices.Sorted(maps.Keys(a)) {
		fmt.Fprintf(&b, "%s=%s\n", f, a[f])
	}
	return b.String()
}

func parse(text string) answer {
	a := answer{}
	for line := range strings.Lines(text) {
		field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		a[field] = value
	}
	return a
}

// session is the connections and the kept values of one file.
type session struct {
	at        place.Place
	remoting  map[string]*wire.Client // by client and server
	grpc      *grpcClient
	variables map[string]string
}

func newSession(t *testing.T, at place.Place) *session {
	s := &session{at: at, remoting: map[string]*wire.Client{}, grpc: dialGRPC(t, at.GRPC), variables: map[string]string{}}
	t.Cleanup(func() {
		for _, c := range s.remoting {
			c.Close()
		}
	})
	return s
}

// input is what stands between the head of a call and its answer.
type input struct {
	lines    []string // without the directives
	until    [][2]string
	keep     [][2]string
	receipts [][2]string
	any      []*regexp.Regexp
}

func (s *session) read(t *testing.T, d *datadriven.TestData) input {
	t.Helper()
	var in input
	for line := range strings.Lines(d.Input) {
		line = strings.TrimSuffix(line, "\n")
		directive, rest, _ := strings.Cut(line, " ")
		name, value, _ := strings.Cut(rest, "=")
		switch directive {
		case "@until":
			in.until = append(in.until, [2]string{name, value})
		case "@keep":
			in.keep = append(in.keep, [2]string{name, value})
		case "@receipt":
			in.receipts = append(in.receipts, [2]string{name, value})
		case "@any":
			for _, f := range strings.Fields(rest) {
				in.any = append(in.any, pattern(f))
			}
		default:
			if strings.HasPrefix(line, "@") {
				d.Fatalf(t, "unknown directive %s", line)
			}
			in.lines = append(in.lines, s.expand(t, line))
		}
	}
	return in
}

var variable = regexp.MustCompile(`\$(\w+)(\+\d+)?`)

// expand puts values in the place of $name.
func (s *session) expand(t *testing.T, line string) string {
	return variable.ReplaceAllStringFunc(line, func(ref string) string {
		part := variable.FindStringSubmatch(ref)
		var n int64
		if part[2] != "" {
			_, _ = fmt.Sscanf(part[2], "+%d", &n) // digits, by the pattern
		}
		switch part[1] {
		case "ms":
			return fmt.Sprint(time.Now().UnixMilli() + n)
		case "date":
			return time.Now().Add(time.Duration(n) * time.Second).UTC().Format(time.RFC3339)
		}
		value, ok := s.variables[part[1]]
		if !ok {
			t.Fatalf("nothing was kept as %s", part[1])
		}
		return value
	})
}

// play makes a call, and again until it is answered as it must be for what comes behind it.
func (s *session) play(t *testing.T, d *datadriven.TestData) answer {
	t.Helper()
	if len(d.CmdArgs) == 0 || len(d.CmdArgs[0].Vals) > 0 {
		d.Fatalf(t, "a call has a name")
	}
	in := s.read(t, d)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); ; <-tick.C {
		var raw answer
		switch d.Cmd {
		case "call":
			raw = s.call(t, d, in)
		case "rpc":
			raw = s.rpc(t, d, in)
		default:
			d.Fatalf(t, "unknown command %s", d.Cmd)
		}
		again := slices.ContainsFunc(in.until, func(u [2]string) bool { return raw[u[0]] != u[1] })
		if again && time.Now().Before(end) {
			continue
		}
		got := answer{}
		for f, v := range raw {
			if v == noRemark {
				continue
			}
			got[f] = s.normal(v)
			if slices.ContainsFunc(in.any, func(p *regexp.Regexp) bool { return p.MatchString(f) }) {
				got[f] = "<any>"
			}
		}
		for _, k := range in.keep {
			if raw[k[1]] == "" {
				d.Fatalf(t, "no %s in\n%s", k[1], format(raw))
			}
			s.variables[k[0]] = raw[k[1]]
			got[k[1]] = "<" + k[0] + ">"
		}
		return got
	}
}

var kinds = []struct {
	pattern *regexp.Regexp
	kind    string
}{
	{regexp.MustCompile(`^(?:[A-Z0-9]{2,3}: )?(?:[a-z0-9]+\.)+[A-Za-z$]*(?:Exception|Error)\b[\s\S]*`), exception},
	{regexp.MustCompile(`[\s\S]*\b\w+(?:Exception|Error)\. (?:[a-z0-9]+\.)+[A-Z][\s\S]*`), exception},
	{regexp.MustCompile(`^Cannot invoke [\s\S]* is null$`), exception},
	{regexp.MustCompile(`\b(?:[0-9A-F]{32}|[0-9A-F]{56})\b`), "<id>"},
	{regexp.MustCompile(`\b(?:0x)?01[0-9A-F]{32}\b`), "<id>"},
	{regexp.MustCompile(`\b20\d\d-\d\d-\d\dT[0-9:.]+Z`), "<time>"},
	{regexp.MustCompile(`\b(?:1[6-9]|[2-9]\d)\d{11}\b`), "<time>"},
}

var address = regexp.MustCompile(`/?\b127\.0\.0\.1:\d+\b`)

// normal shows what differs from run to run as its kind.
func (s *session) normal(v string) string {
	for name, value := range s.variables {
		v = strings.ReplaceAll(v, value, "<"+name+">")
	}
	for _, k := range kinds {
		v = k.pattern.ReplaceAllString(v, k.kind)
	}
	v = strings.ReplaceAll(v, "\n", `\n`)
	return address.ReplaceAllStringFunc(v, func(a string) string {
		switch strings.TrimPrefix(a, "/") {
		case s.at.Remoting:
			return "<broker>"
		case s.at.NameServer:
			return "<name server>"
		case s.at.GRPC:
			return "<proxy>"
		}
		return "<address>"
	})
}

// pattern is a text in which * stands for any text.
func pattern(text string) *regexp.Regexp {
	parts := strings.Split(text, "*")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("(?s)^" + strings.Join(parts, ".*") + "$")
}
