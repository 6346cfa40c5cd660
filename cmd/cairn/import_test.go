package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/javaimport"
	"github.com/cairnmq/cairn/javastore"
)

// javaStore unpacks the store that a Java broker has written, of test/import.sh with 400 messages.
func javaStore(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	archive := filepath.Join("..", "..", "javaimport", "testdata", "store-5.5.tar.gz")
	if out, err := exec.Command("tar", "-xzf", archive, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}

// imports runs cairn import, and answers what it prints to both.
func imports(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	root := newRoot()
	var out, progress bytes.Buffer
	root.SetOut(&out)
	root.SetErr(&progress)
	root.SetArgs(append([]string{"import"}, args...))
	err = root.ExecuteContext(t.Context())
	return out.String(), progress.String(), err
}

func TestImportCommand(t *testing.T) {
	from, data := javaStore(t), filepath.Join(t.TempDir(), "data")
	out, progress, err := imports(t, from, "--data", data, "-o", "json")
	var got importResult
	if err != nil || json.Unmarshal([]byte(out), &got) != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got.Messages != 520 || got.Delayed != 100 || got.Halves != 20 || got.Offsets == 0 || got.Bytes == 0 || got.Before {
		t.Errorf("%+v", got)
	}
	for _, want := range []string{"reading the commitlog (bytes): ", "importing messages (bytes read): "} {
		if !strings.Contains(progress, want) {
			t.Errorf("no %q in the progress\n%s", want, progress)
		}
	}
	if out, _, err = imports(t, from, "--data", data); err != nil || !strings.Contains(out, "imported before") || !strings.Contains(out, "cairn serve --data "+data) {
		t.Errorf("once more: %v\n%s", err, out)
	}
	if out, _, err = imports(t, "--help"); err != nil || !strings.Contains(out, "import STORE_DIR") || !strings.Contains(out, "--levels") {
		t.Errorf("help: %v\n%s", err, out)
	}
	if _, _, err := imports(t, from, "--data", data, "-o", "xml"); !isUsage(err) {
		t.Errorf("another output: %v", err)
	}
	in, err := start(t.Context(), importConfig(data), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.broker.Topic("import-main"); err != nil {
		t.Error(err)
	}
	if err := in.close(); err != nil {
		t.Error(err)
	}
}

func importConfig(data string) configs.Config {
	cfg := configs.Default()
	cfg.Data, cfg.Durability, cfg.SegmentSize, cfg.Advertise = data, "os", 64<<20, "127.0.0.1"
	cfg.NameServer, cfg.Remoting, cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0", configs.Off, configs.Off
	return cfg
}

// envImport makes the test binary a process that imports and is killed on its way.
const envImport = "CAIRN_TEST_IMPORT"

// TestImportThatIsKilled: serve refuses the folder of an import that was killed, says how to go on, and takes it when that is done.
func TestImportThatIsKilled(t *testing.T) {
	if args := os.Getenv(envImport); args != "" {
		from, data, _ := strings.Cut(args, "|")
		root := newRoot()
		root.SetErr(killer{})
		root.SetArgs([]string{"import", from, "--data", data})
		t.Fatalf("the import ended: %v", root.ExecuteContext(t.Context()))
	}
	from, data := javaStore(t), filepath.Join(t.TempDir(), "data")
	cmd := exec.Command(os.Args[0], "-test.run", "^TestImportThatIsKilled$")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(s string) bool { return strings.HasPrefix(s, "CAIRN_") }), envImport+"="+from+"|"+data)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("it was not killed: %v\n%s", err, out)
	}
	_, err = start(t.Context(), importConfig(data), zerolog.Nop())
	if !errors.Is(err, javaimport.ErrUnfinished) || !strings.Contains(err.Error(), "cairn import STORE_DIR --data "+data) {
		t.Fatalf("serve on half an import: %v", err)
	}
	text, _, err := imports(t, from, "--data", data, "-o", "json")
	var got importResult
	if err != nil || json.Unmarshal([]byte(text), &got) != nil || got.Before || got.Messages != 520 {
		t.Fatalf("going on: %v\n%s", err, text)
	}
	in, err := start(t.Context(), importConfig(data), zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	if err := in.close(); err != nil {
		t.Error(err)
	}
}

// killer ends the process, as kill -9 does, when it hears that messages are being imported.
type killer struct{}

func (killer) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("importing messages")) {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return 0, err
		}
		select {} // until it arrives
	}
	return len(b), nil
}

// TestImportOfARunningBrokersStore: the lock file stays when a broker stops, or is killed; what counts is whether a process holds it.
func TestImportOfARunningBrokersStore(t *testing.T) {
	from, data := javaStore(t), filepath.Join(t.TempDir(), "data")
	for _, name := range []string{"lock", "abort"} {
		if err := os.WriteFile(filepath.Join(from, name), []byte("lock"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	holder := exec.Command(os.Args[0], "-test.run", "^TestHoldTheLock$")
	holder.Env = append(os.Environ(), envLock+"="+filepath.Join(from, "lock"))
	hold, err := holder.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	said, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := said.Read(make([]byte, 1)); err != nil {
		t.Fatalf("nobody holds the lock: %v", err)
	}
	if _, _, err := imports(t, from, "--data", data); !errors.Is(err, javastore.ErrRunning) {
		t.Errorf("a broker runs: %v", err)
	}
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was written: %v", err)
	}
	if err := hold.Close(); err != nil {
		t.Error(err)
	}
	if _, err := holder.Process.Wait(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := imports(t, from, "--data", data); err != nil {
		t.Errorf("it runs no more: %v", err)
	}
}

// envLock makes the test binary a process that holds a lock as Java brokers do, until its input ends.
const envLock = "CAIRN_TEST_LOCK"

// TestHoldTheLock is the process that TestImportOfARunningBrokersStore starts.
func TestHoldTheLock(t *testing.T) {
	name := os.Getenv(envLock)
	if name == "" {
		t.Skip("only as a process of its own")
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Len: 1}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_SETLK, &lock); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("+")     //nolint:errcheck // the test notices
	os.Stdin.Read(make([]byte, 1)) //nolint:errcheck // until the test ends
}
