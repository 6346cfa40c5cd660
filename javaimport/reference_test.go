package javaimport

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/txn"
)

// unpack writes an archive's files to a temporary folder.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close() //nolint:errcheck // only read
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, filepath.Clean("/"+h.Name))
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(name, 0o700)
		} else if err = os.MkdirAll(filepath.Dir(name), 0o700); err == nil {
			var data []byte
			if data, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(name, data, 0o600)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// count adds up how often each body is there, without the number behind it.
type count map[string]int

func (c count) add(body []byte) {
	text := string(body)
	if i := strings.LastIndexByte(text, ' '); i >= 0 {
		text = text[:i]
	}
	c[text]++
}

// TestImportOfAReferencesStore: the archive is what the Java broker 5.5 had on its disk after test/import.sh had sent it 400 messages,
// half of which a group consumed, delayed ones that it delivered and others that it did not, and transactions of each end.
func TestImportOfAReferencesStore(t *testing.T) {
	f, err := javastore.OpenFolder(unpack(t, filepath.Join("testdata", "store-5.5.tar.gz")))
	if err != nil {
		t.Fatal(err)
	}
	fs := vfs.NewMem()
	report, err := run(fs, f, nil)
	if err != nil {
		t.Fatal(err)
	}
	if report.Messages != 520 || report.Delayed != 100 || report.Halves != 20 || report.Torn || len(report.Skipped) > 0 || len(report.Warnings) > 0 {
		t.Errorf("report %+v", report)
	}
	s, err := store.Open(context.Background(), options(fs))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close() //nolint:errcheck // only read
	got := count{}
	for name, queues := range map[string]int32{"import-main": 8, "import-delay": 2, "import-tx": 2} {
		topic, err := s.Catalog.Topic(name)
		if err != nil {
			t.Fatal(err)
		}
		for q := range queues {
			entries, err := s.Entries(topic.ID, q, 0, 1000, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				got.add(bodyAt(t, s, e.Position, e.Size))
			}
		}
	}
	dues := map[int64]bool{}
	err = s.Delay.Each(delay.Point{}, func(m *delay.Timer) bool {
		got.add(bodyAt(t, s, m.Position, m.Size))
		dues[m.Due/60_000] = true
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	err = s.Txn.Each(false, 0, func(h *txn.Half) bool {
		got.add(bodyAt(t, s, h.Position, h.Size))
		return h.Group == "import-tx-producer"
	})
	if err != nil {
		t.Fatal(err)
	}
	want := "map[commit:20 late level:50 late timer:50 level:50 message:400 timer:50 unknown commit:20]"
	if fmt.Sprint(got) != want {
		t.Errorf("bodies %v, want %s", got, want)
	}
	if len(dues) == 0 || len(dues) > 3 {
		t.Errorf("due in the minutes %v", dues)
	}
	checkGroup(t, s)
}

// checkGroup looks that the group of the store stands behind 200 messages.
func checkGroup(t *testing.T, s *store.Store) {
	t.Helper()
	g, err := s.Catalog.Group("import-group")
	if err != nil {
		t.Fatal(err)
	}
	topic, err := s.Catalog.Topic("import-main")
	if err != nil {
		t.Fatal(err)
	}
	var consumed int64
	for q := range int32(8) {
		c, ok, err := s.Pop.Cursor(g.ID, topic.ID, q)
		if err != nil || !ok {
			t.Fatalf("queue %d: %t, %v", q, ok, err)
		}
		consumed += c.Committed
	}
	if consumed != 200 {
		t.Errorf("the group has consumed %d messages, not 200", consumed)
	}
}

func bodyAt(t *testing.T, s *store.Store, at record.Position, size int32) []byte {
	t.Helper()
	buf := store.NewBuffer()
	defer buf.Release()
	b, err := s.ReadStored(at, size, buf)
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte(nil), message.BodyOf(b)...)
}
