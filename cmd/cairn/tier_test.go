package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/message"
)

func (f *fakeVerbs) Tier() (broker.TierInfo, error) {
	return broker.TierInfo{}, &broker.Error{Code: broker.CodeNotFound, Message: "this broker has no tier"}
}

// tieredLive is a broker with small segments, some of which are in a folder, and the folder of its tier.
func tieredLive(t *testing.T) (in *instance, url, folder string) {
	t.Helper()
	cfg := configs.Default()
	cfg.Data, cfg.Durability, cfg.SegmentSize, cfg.Advertise = t.TempDir(), "os", 32<<10, "127.0.0.1"
	cfg.NameServer, cfg.Remoting, cfg.GRPC, cfg.HTTP = "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	cfg.TieredURL = "file://" + t.TempDir()
	in, err := start(t.Context(), cfg, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.close(); err != nil {
			t.Error(err)
		}
	})
	for i := range 120 {
		m := message.Message{Body: fmt.Append(nil, i, strings.Repeat(".", 900)), BornTimestamp: 1, BornHost: netip.MustParseAddrPort("127.0.0.1:1")}
		if _, err := in.broker.Send(t.Context(), &broker.SendRequest{Topic: "a", DefaultTopic: "TBW102", DefaultQueues: 1, Messages: []message.Message{m}}); err != nil {
			t.Fatal(err)
		}
	}
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); ; {
		i, err := in.broker.Tier()
		if err != nil {
			t.Fatal(err)
		}
		if i.Parts >= 3 && i.BehindSegments == 0 {
			return in, cfg.TieredURL, filepath.Join(strings.TrimPrefix(cfg.TieredURL, "file://"), cfg.Cluster, cfg.Name)
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%+v", i)
		}
	}
}

func TestTierStatus(t *testing.T) {
	in, _, _ := tieredLive(t)
	var i broker.TierInfo
	out, err := cairnSays(t, "tier", "status", "--http", in.addrs.http, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &i)
	}
	if err != nil || i.State != "working" || i.Parts < 3 || i.Messages == 0 || i.End <= i.First || i.StoredBytes == 0 {
		t.Fatalf("%s %v", out, err)
	}
	out, err = cairnSays(t, "tier", "status", "--http", in.addrs.http)
	for _, want := range []string{"STATE", "working for", i.Store, fmt.Sprintf("generation %d", i.Generation), "to upload", "nothing"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("no word of %q in %s %v", want, out, err)
		}
	}
	if _, err := cairnSays(t, "tier", "status", "--http", openDoor(t, &fakeVerbs{})); err == nil || !strings.Contains(err.Error(), "has no tier") {
		t.Errorf("of a broker without one: %v", err)
	}
}

func TestTierVerify(t *testing.T) {
	_, url, folder := tieredLive(t)
	out, err := cairnSays(t, "tier", "verify", "--tiered.url", url)
	if err != nil || !strings.Contains(out, "everything is there and undamaged") {
		t.Fatalf("%s %v", out, err)
	}
	logs, err := filepath.Glob(filepath.Join(folder, "parts", "*.log"))
	if err != nil || len(logs) < 3 {
		t.Fatal(logs, err)
	}
	raw, err := os.ReadFile(logs[0])
	if err != nil {
		t.Fatal(err)
	}
	raw[len(raw)/3] ^= 1
	if err := os.WriteFile(logs[0], raw, 0o600); err != nil {
		t.Fatal(err)
	}
	table := strings.TrimSuffix(logs[1], ".log") + ".idx"
	if err := os.Remove(table); err != nil {
		t.Fatal(err)
	}
	var v verified
	out, err = cairnSays(t, "tier", "verify", "--tiered.url", url, "-o", "json")
	if err == nil || isUsage(err) {
		t.Fatalf("of a damaged tier: %s %v", out, err)
	}
	if err := json.NewDecoder(strings.NewReader(out[strings.Index(out, "{"):])).Decode(&v); err != nil {
		t.Fatalf("%s %v", out, err)
	}
	damaged, missing := 0, 0
	for _, f := range v.Findings {
		switch filepath.Join(folder, f.Object) {
		case logs[0]:
			damaged++
		case table:
			if missing++; !f.Missing {
				t.Errorf("%+v", f)
			}
		default:
			t.Errorf("%+v is as it was", f)
		}
	}
	if damaged == 0 || missing != 1 {
		t.Errorf("%s", out)
	}
	out, err = cairnSays(t, "tier", "verify", "--tiered.url", url)
	if err == nil || !strings.Contains(out, filepath.Base(logs[0])) || !strings.Contains(out, "it is missing") {
		t.Errorf("%s %v", out, err)
	}
}

func TestTierGC(t *testing.T) {
	_, url, folder := tieredLive(t)
	old, young := filepath.Join(folder, "parts", "00000000000000000000-7.log"), filepath.Join(folder, "parts", "00000000000000000000-8.log")
	for _, name := range []string{old, young} {
		if err := os.WriteFile(name, []byte("left over"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	if err := os.Chtimes(old, yesterday, yesterday); err != nil {
		t.Fatal(err)
	}
	out, err := cairnSays(t, "tier", "gc", "--tiered.url", url, "--dry-run")
	if err != nil || !strings.Contains(out, "-7.log") || strings.Contains(out, "-8.log") || !strings.Contains(out, "1 would be removed") {
		t.Errorf("%s %v", out, err)
	}
	out, err = cairnSays(t, "tier", "gc", "--tiered.url", url)
	if err != nil || !strings.Contains(out, "1 removed") {
		t.Errorf("%s %v", out, err)
	}
	if _, err := os.Stat(old); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Error(err)
	}
	out, err = cairnSays(t, "tier", "gc", "--tiered.url", url)
	if err != nil || !strings.Contains(out, "nothing is older than 24h0m0s") {
		t.Errorf("%s %v", out, err)
	}
	if out, err = cairnSays(t, "tier", "verify", "--tiered.url", url); err != nil {
		t.Errorf("afterwards: %s %v", out, err)
	}
}

func TestTierUsage(t *testing.T) {
	empty := "file://" + t.TempDir()
	for _, args := range [][]string{{"verify"}, {"gc"}, {"verify", "--tiered.url", "nowhere"}, {"verify", "--tiered.url", "s3://b", "--config", "none.yaml"}} {
		if _, err := cairnSays(t, append([]string{"tier"}, args...)...); !isUsage(err) {
			t.Errorf("%v: %v", args, err)
		}
	}
	if _, err := cairnSays(t, "tier", "gc", "--tiered.url", empty); err == nil || !strings.Contains(err.Error(), "there is no manifest") {
		t.Errorf("%v", err)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "0.977 KiB", 1 << 20: "1 MiB", 123 << 20: "123 MiB", 3 << 40: "3 TiB", 1 << 60: "1.05e+06 TiB"} {
		if got := size(n); got != want {
			t.Errorf("%d is %s, want %s", n, got, want)
		}
	}
}

func TestTierAddress(t *testing.T) {
	for url, want := range map[string]string{
		"s3://bucket":                      "s3://bucket/my%257Ccluster/b",
		"s3://bucket/deep/er?endpoint=h:1": "s3://bucket/deep/er/my%257Ccluster/b?endpoint=h:1",
		"file:///folder/":                  "file:///folder/my%257Ccluster/b",
		"file:///a%20folder":               "file:///a%20folder/my%257Ccluster/b",
	} {
		got, err := tierAddress(configs.Config{TieredURL: url, Cluster: "my|cluster", Name: "b"})
		if err != nil || got != want {
			t.Errorf("%s is %s, %v; want %s", url, got, err, want)
		}
	}
}
