// Package tidy holds the tests of the code's own style; each failure says what to do about it.
package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/cairnmq/cairn"

// floors: a package imports only from lower floors. The longest matching prefix counts.
var floors = map[string]int{
	"message": 0, "internal": 0,
	"commitlog": 1, "kvindex": 1,
	"pop": 2, "delay": 2, "txn": 2, "catalog": 2, "filter": 2, "tiered": 2, "replica": 2,
	"store": 3, "auth": 3, "javastore": 3,
	"broker": 4, "javaimport": 4,
	"server": 5,
	"cmd":    6, "configs": 6, "bench": 6, "test": 7,
}

// sameFloor lists the imports between packages of one floor that are right: cmd/cairn is made of packages.
var sameFloor = map[string]bool{
	"cmd": true, "bench": true, "test": true, "internal": true,
}

type file struct {
	path string // relative to the module's root
	pkg  string // its folder
	test bool
	ast  *ast.File
	src  []byte
}

func files(t *testing.T) (out []file, fset *token.FileSet) {
	t.Helper()
	root := filepath.Join("..", "..")
	fset = token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		if d.IsDir() {
			if _, err := os.Stat(filepath.Join(path, "go.mod")); (err == nil && rel != ".") || d.Name() == "testdata" || (strings.HasPrefix(d.Name(), ".") && rel != ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		parsed, err := parser.ParseFile(fset, path, src, parser.ParseComments)
		if err != nil {
			return err
		}
		out = append(out, file{path: rel, pkg: filepath.ToSlash(filepath.Dir(rel)), test: strings.HasSuffix(path, "_test.go"), ast: parsed, src: src})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out, fset
}

func floorOf(pkg string) (string, int, bool) {
	top, _, _ := strings.Cut(pkg, "/")
	f, ok := floors[top]
	return top, f, ok
}

func TestImportsPointDown(t *testing.T) {
	all, _ := files(t)
	for _, f := range all {
		if f.test {
			continue
		}
		top, floor, ok := floorOf(f.pkg)
		if !ok {
			t.Errorf("%s: folder %s has no floor: give it one in internal/tidy", f.path, f.pkg)
			continue
		}
		for _, imp := range f.ast.Imports {
			path, _ := strconv.Unquote(imp.Path.Value)
			rest, ours := strings.CutPrefix(path, module+"/")
			if !ours {
				continue
			}
			otherTop, other, _ := floorOf(rest)
			if other < floor || (otherTop == top && (sameFloor[top] || strings.HasPrefix(rest, f.pkg+"/") || strings.HasPrefix(f.pkg, rest))) {
				continue
			}
			if top == "cmd" && (otherTop == "configs" || otherTop == "bench") || top == "message" && otherTop == "internal" {
				continue
			}
			t.Errorf("%s (floor %d) imports %s (floor %d): return what is needed from below instead of calling up, or move the shared piece down", f.path, floor, rest, other)
		}
	}
}

func TestPackagesHaveAComment(t *testing.T) {
	all, _ := files(t)
	commented, seen := map[string]bool{}, map[string]string{}
	for _, f := range all {
		if strings.HasSuffix(f.ast.Name.Name, "_test") {
			continue
		}
		seen[f.pkg] = f.ast.Name.Name
		if f.ast.Doc != nil {
			commented[f.pkg] = true
		}
	}
	for pkg := range seen {
		if !commented[pkg] {
			t.Errorf("package %s has no comment: say in one sentence above `package …` what it is for", pkg)
		}
	}
}

func TestNamesThatSayNothing(t *testing.T) {
	all, _ := files(t)
	for _, f := range all {
		for _, part := range strings.Split(f.pkg, "/") {
			switch part {
			case "util", "utils", "common", "helpers", "misc", "lib":
				t.Errorf("%s: a package named %s says nothing: name it after what it is", f.path, part)
			}
		}
	}
}

// The ratchet: sizes may fall, not grow.
const (
	maxFileLines     = 800
	maxFunctionLines = 110
)

func TestSizes(t *testing.T) {
	all, fset := files(t)
	for _, f := range all {
		if ast.IsGenerated(f.ast) {
			continue
		}
		if n := strings.Count(string(f.src), "\n"); n > maxFileLines {
			t.Errorf("%s has %d lines (most %d): split it by noun", f.path, n, maxFileLines)
		}
		for _, d := range f.ast.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil {
				continue
			}
			if n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line; n > maxFunctionLines && !f.test {
				t.Errorf("%s: %s has %d lines (most %d): give its steps names", f.path, fn.Name.Name, n, maxFunctionLines)
			}
		}
	}
}

func TestBannedCalls(t *testing.T) {
	banned := map[string]string{
		"time.Sleep in tests": "poll for the condition, or use clock.Fake",
	}
	all, _ := files(t)
	for _, f := range all {
		if f.test && f.pkg != "internal/tidy" && strings.Contains(string(f.src), "time.Sleep(") {
			t.Errorf("%s: time.Sleep: %s", f.path, banned["time.Sleep in tests"])
		}
		if f.test {
			continue
		}
		for _, call := range []string{"log.Fatal(", "log.Printf(", "fmt.Println(\"DEBUG"} {
			if strings.Contains(string(f.src), call) {
				t.Errorf("%s: %s: log with zerolog at the edge", f.path, call)
			}
		}
		floor, _, _ := strings.Cut(f.pkg, "/")
		switch floor {
		case "pop", "delay", "txn", "catalog":
			if strings.Contains(string(f.src), "time.Now(") {
				t.Errorf("%s: time.Now: a fold looks at no clock but its batch's, and a choice takes `now`", f.path)
			}
		}
	}
}

func TestOneProjectVoice(t *testing.T) {
	root := filepath.Join("..", "..")
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "LICENSE", "Dockerfile", "Makefile", "docs/architecture.md", "docs/promises.md", "docs/compatibility.md", "docs/performance.md"} {
		b, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Errorf("%s is missing: %v", name, err)
			continue
		}
		if len(b) < 200 {
			t.Errorf("%s says next to nothing", name)
		}
	}
}
