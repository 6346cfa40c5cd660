package clients

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// program is an installed client with its scenarios; ENDPOINT and PREFIX go behind the command.
type program struct {
	command []string
	dir     string
}

// installers make a client ready in an empty folder, from the pinned versions in its own.
var installers = map[string]func(dir string) (program, error){"python": installPython, "node": installNode, "rust": installRust}

// install makes the clients ready, all at a time: most of it is waiting for registries.
func install(t *testing.T, names []string) map[string]program {
	t.Helper()
	programs := make([]program, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		f := installers[name]
		if f == nil {
			t.Fatalf("CAIRN_CLIENTS: no client %q", name)
		}
		dir := t.TempDir()
		wg.Go(func() { programs[i], errs[i] = f(dir) })
	}
	wg.Wait()
	m := map[string]program{}
	for i, name := range names {
		must(t, "install "+name, errs[i])
		m[name] = programs[i]
	}
	return m
}

func installPython(dir string) (program, error) {
	python := filepath.Join(dir, "bin", "python")
	if err := command("", "python3", "-m", "venv", dir); err != nil {
		return program{}, err
	}
	if err := command("python", python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "-r", "requirements.txt"); err != nil {
		return program{}, err
	}
	return program{command: []string{python, "scenarios.py"}, dir: "python"}, nil
}

// installNode copies the program beside its modules, because that is where Node looks for them.
func installNode(dir string) (program, error) {
	if err := os.CopyFS(dir, os.DirFS("node")); err != nil {
		return program{}, err
	}
	if err := command(dir, "npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"); err != nil {
		return program{}, err
	}
	return program{command: []string{"node", "scenarios.js"}, dir: dir}, nil
}

// installRust builds in a folder of Cargo's own, so that the client's 200 crates are compiled once on a machine.
func installRust(string) (program, error) {
	home := os.Getenv("CARGO_HOME")
	if home == "" {
		user, err := os.UserHomeDir()
		if err != nil {
			return program{}, err
		}
		home = filepath.Join(user, ".cargo")
	}
	target := filepath.Join(home, "cairn-test-clients")
	if err := command("rust", "cargo", "build", "--quiet", "--locked", "--target-dir", target); err != nil {
		return program{}, err
	}
	return program{command: []string{filepath.Join(target, "debug", "scenarios")}, dir: "rust"}, nil
}

// command runs a program in a folder; what it says is in the error.
func command(dir, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, tail(out))
	}
	return nil
}
