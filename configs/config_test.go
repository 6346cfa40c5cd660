package configs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/cairnmq/cairn/delay"
)

func TestDefaultIsValid(t *testing.T) {
	d := Default()
	if err := d.Check(); err != nil {
		t.Fatal(err)
	}
}

func TestSampleMatchesStructAndFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cairn.yaml")
	if err := WriteSample(file); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, nil, Config{})
	if err != nil {
		t.Fatal(err)
	}
	if d := Default(); c.Data != d.Data || c.Memory != d.Memory || c.Retention != d.Retention || c.DefaultQueues != d.DefaultQueues || !c.AutoCreateTopics {
		t.Fatalf("the sample loads as %+v", c)
	}
	kept, err := os.ReadFile("cairn.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if string(kept) != Sample() {
		t.Fatal("configs/cairn.yaml is not what the struct says: run `go run ./cmd/cairn config sample > configs/cairn.yaml`")
	}
}

func TestUnknownKeyIsAnError(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cairn.yaml")
	if err := os.WriteFile(file, []byte("retentoin: 24h\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(file, nil, Default())
	var ce *Error
	if !errors.As(err, &ce) || !strings.Contains(err.Error(), "retentoin") {
		t.Fatalf("got %v", err)
	}
}

func TestFlagsBeatEnvironmentBeatsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cairn.yaml")
	if err := os.WriteFile(file, []byte("retention: 24h\nmemory: 32MiB\ndurability: os\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CAIRN_MEMORY", "48MiB")
	t.Setenv("CAIRN_DURABILITY", "interval")
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs, Default())
	if err := fs.Parse([]string{"--durability=sync", "--name-servers=a:1,b:2", "--nameserver=0"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, fs, Default())
	if err != nil {
		t.Fatal(err)
	}
	if c.Retention != 24*time.Hour || c.Memory != 48<<20 || c.Durability != "sync" || len(c.NameServers) != 2 || c.NameServer != ":0" {
		t.Fatalf("%+v", c)
	}
}

func TestCheckNamesEveryProblem(t *testing.T) {
	c := Default()
	c.Durability, c.Engine, c.Retention, c.Remoting = "maybe", "files", time.Second, "off"
	c.DelayLevels, c.MaxDelay, c.TxTimeout, c.TxCheckInterval, c.TxMaxChecks = "1s 5x", 200*365*24*time.Hour, 0, 25*time.Hour, 0
	err := c.Check()
	for _, key := range []string{"durability", "engine", "retention", "remoting", "delay-levels", "max-delay", "transaction-timeout",
		"transaction-check-interval", "transaction-max-checks"} {
		if err == nil || !strings.Contains(err.Error(), key+":") {
			t.Errorf("no word of %s in %v", key, err)
		}
	}
}

func TestDelayLevelsComeFromTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cairn.yaml")
	if err := os.WriteFile(file, []byte("delay-levels: 2s 3m 1d\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, nil, Default())
	if err != nil {
		t.Fatal(err)
	}
	if want := (delay.Levels{2 * time.Second, 3 * time.Minute, 24 * time.Hour}); !slices.Equal(c.Levels(), want) {
		t.Fatalf("%v, want %v", c.Levels(), want)
	}
	d := Default()
	if n := len(d.Levels()); n != 18 {
		t.Fatalf("%d levels by default", n)
	}
}

func TestByteSize(t *testing.T) {
	for s, want := range map[string]ByteSize{"64MiB": 64 << 20, "1GiB": 1 << 30, "7": 7, "3 KiB": 3072, "5B": 5} {
		if got, err := ParseByteSize(s); err != nil || got != want {
			t.Errorf("%s: %d, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "x", "-1", "1TB", "99999999999GiB"} {
		if _, err := ParseByteSize(s); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

func TestKeysOfTheTier(t *testing.T) {
	file := filepath.Join(t.TempDir(), "cairn.yaml")
	text := "tiered.url: s3://bucket/a?endpoint=localhost:7070\ntiered.cache.memory: 8MiB\nretention: 5s\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CAIRN_TIERED_CACHE_DISK", "32MiB")
	fs := pflag.NewFlagSet("serve", pflag.ContinueOnError)
	AddFlags(fs, Default())
	if err := fs.Parse([]string{"--tiered.upload.bandwidth=1MiB", "--tiered.encryption=AES256"}); err != nil {
		t.Fatal(err)
	}
	c, err := Load(file, fs, Default())
	if err != nil {
		t.Fatal(err)
	}
	if c.TieredURL != "s3://bucket/a?endpoint=localhost:7070" || c.TieredMemory != 8<<20 || c.TieredDisk != 32<<20 ||
		c.TieredBandwidth != 1<<20 || c.TieredEncryption != "AES256" || c.Retention != 5*time.Second {
		t.Fatalf("%+v", c)
	}
	for wrong, change := range map[string]func(*Config){
		"ftp":                            func(c *Config) { c.TieredURL = "ftp://somewhere" },
		"bucket":                         func(c *Config) { c.TieredURL = "s3://a" },
		"three slashes":                  func(c *Config) { c.TieredURL = "file://folder" },
		"a folder does not encrypt":      func(c *Config) { c.TieredURL = "file:///folder" },
		"aws:kms:KEY":                    func(c *Config) { c.TieredEncryption = "mine" },
		"tiered.retention:":              func(c *Config) { c.TieredRetention = time.Second },
		"tiered.cache.memory:":           func(c *Config) { c.TieredMemory = 1 },
		"tiered.cache.disk:":             func(c *Config) { c.TieredDisk = 1 },
		"tiered.upload.bandwidth:":       func(c *Config) { c.TieredBandwidth = 1 },
		"retention: 5s is under the lea": func(c *Config) { c.TieredURL = "" },
	} {
		bad := c
		change(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("no word of %q in %v", wrong, err)
		}
	}
}
