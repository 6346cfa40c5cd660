package javastore

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// writeFolder makes a store folder of files by name.
func writeFolder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const oneTopic = `{"topicConfigTable":{"orders":{}}}`

func TestFolderReadsWhatWasWrittenBefore(t *testing.T) {
	f, err := OpenFolder(writeFolder(t, map[string]string{
		"commitlog/00000000000000000000": "", "config/topics.json": "", "config/topics.json.bak": oneTopic,
	}))
	if err != nil || len(f.Topics) != 1 || f.Topics[0].Name != "orders" {
		t.Errorf("%+v, %v", f, err)
	}
}

func TestFolderTakesTheNewerOffsets(t *testing.T) {
	dir := writeFolder(t, map[string]string{
		"commitlog/00000000000000000000": "", "config/topics.json": oneTopic,
		"config/consumerOffset.json":    `{"offsetTable":{"orders@g":{0:1}}}`,
		"config/lmqConsumerOffset.json": `{"offsetTable":{"orders@g":{0:2}},"lmqOffsetTable":{"%LMQ%a@g":3}}`,
	})
	for name, want := range map[string]int64{"consumerOffset.json": 1, "lmqConsumerOffset.json": 2} {
		old, later := time.Unix(1_000_000, 0), time.Unix(2_000_000, 0)
		for _, other := range []string{"consumerOffset.json", "lmqConsumerOffset.json"} {
			at := old
			if other == name {
				at = later
			}
			if err := os.Chtimes(filepath.Join(dir, "config", other), at, at); err != nil {
				t.Fatal(err)
			}
		}
		f, err := OpenFolder(dir)
		if err != nil || len(f.Offsets) != 1 || f.Offsets[0].Offset != want {
			t.Errorf("with %s newer: %+v, %v", name, f, err)
		}
	}
}

func TestFolderWithConfigurationInRocksDB(t *testing.T) {
	for _, name := range []string{"config/rdb/CURRENT", "config/topics/CURRENT"} {
		_, err := OpenFolder(writeFolder(t, map[string]string{"commitlog/00000000000000000000": "", name: "x"}))
		if !errors.Is(err, ErrRocksConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
