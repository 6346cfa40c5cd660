package javastore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/cairnmq/cairn/message"
)

// stored is a message in the stored layout.
func stored(t testing.TB, topic string, offset int64, body string) []byte {
	t.Helper()
	m := message.Message{
		Topic: topic, QueueOffset: offset, Body: []byte(body), StoreTimestamp: 1_700_000_000_000 + offset,
		BornHost: netip.MustParseAddrPort("10.0.0.1:5000"), StoreHost: netip.MustParseAddrPort("10.0.0.2:10911"),
		Properties: message.EncodeProperties(map[string]string{message.PropUniqueKey: fmt.Sprintf("id-%d", offset)}),
	}
	b, err := m.AppendEncode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// blank fills a file of size bytes up behind b.
func blank(b []byte, size int) []byte {
	left := size - len(b)
	b = binary.BigEndian.AppendUint32(b, uint32(left))
	b = binary.BigEndian.AppendUint32(b, blankMagic)
	return append(b, make([]byte, size-len(b))...)
}

func zeros(b []byte, size int) []byte { return append(b, make([]byte, size-len(b))...) }

const fileSize = 1024

// writeLog writes the files of a commitlog that begins at start.
func writeLog(t testing.TB, start int64, files ...[]byte) *Commitlog {
	t.Helper()
	dir := t.TempDir()
	for i, f := range files {
		name := fmt.Sprintf("%020d", start+int64(i)*fileSize)
		if err := os.WriteFile(filepath.Join(dir, name), f, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := OpenCommitlog(dir)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// readAll reads the bodies of all messages.
func readAll(t testing.TB, c *Commitlog, from int64) (bodies []string, torn bool, err error) {
	t.Helper()
	r, err := c.ReadFrom(from)
	if err != nil {
		return nil, false, err
	}
	defer r.Close() //nolint:errcheck // only read
	var m Message
	for {
		ok, err := r.Next(&m)
		if err != nil || !ok {
			return bodies, r.Torn, err
		}
		if r.Position() != m.Position+int64(len(m.Stored)) {
			t.Errorf("message of %d bytes at %d, then the reader is at %d", len(m.Stored), m.Position, r.Position())
		}
		bodies = append(bodies, string(m.Body))
	}
}

func TestReaderGoesOverFiles(t *testing.T) {
	a, b, c := stored(t, "t", 0, "a"), stored(t, "t", 1, "b"), stored(t, "t", 2, "c")
	full := blank(append(append([]byte{}, a...), b...), fileSize)
	for name, files := range map[string][][]byte{
		"zeros behind":       {full, zeros(append([]byte{}, c...), fileSize)},
		"a file made ahead":  {full, zeros(append([]byte{}, c...), fileSize), zeros(nil, fileSize)},
		"the file cut short": {full, c},
	} {
		log := writeLog(t, 2*fileSize, files...)
		got, torn, err := readAll(t, log, 0)
		if fmt.Sprint(got) != "[a b c]" || torn || err != nil {
			t.Errorf("%s: %v, torn %t, %v", name, got, torn, err)
		}
		got, _, err = readAll(t, log, 2*fileSize+int64(len(a)))
		if fmt.Sprint(got) != "[b c]" || err != nil {
			t.Errorf("%s: from the second on %v, %v", name, got, err)
		}
	}
}

func TestReaderStopsAtATornTail(t *testing.T) {
	a, b := stored(t, "t", 0, "a"), stored(t, "t", 1, "bbbb")
	for name, tail := range map[string][]byte{
		"cut short": b[:len(b)-25], "half a head": b[:6], "garbage": []byte("garbage which is no message"), "nothing else": {},
	} {
		log := writeLog(t, 0, zeros(append(append([]byte{}, a...), tail...), fileSize))
		got, torn, err := readAll(t, log, 0)
		if fmt.Sprint(got) != "[a]" || torn != (len(tail) > 0) || err != nil {
			t.Errorf("%s: %v, torn %t, %v", name, got, torn, err)
		}
	}
}

func TestReaderRefusesDamageInTheMiddle(t *testing.T) {
	a, b := stored(t, "t", 0, "aaaa"), stored(t, "t", 1, "b")
	a[bytes.Index(a, []byte("aaaa"))] ^= 0xFF
	log := writeLog(t, 0, blank(a, fileSize), zeros(b, fileSize))
	if _, _, err := readAll(t, log, 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("a damaged message: %v", err)
	}
	log = writeLog(t, 0, zeros(stored(t, "t", 0, "a"), fileSize), zeros(stored(t, "t", 1, "b"), fileSize))
	if _, _, err := readAll(t, log, 0); !errors.Is(err, ErrDamaged) {
		t.Errorf("zeros in a file before the last: %v", err)
	}
}

func TestReaderOfFilesThatDoNotFollow(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"00000000000000000000", "00000000000000009999"} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, fileSize), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := OpenCommitlog(dir); !errors.Is(err, ErrDamaged) {
		t.Errorf("a gap between files: %v", err)
	}
}

// TestReadQueue: a queue that begins within a file that was filled up, whose first messages are gone from the commitlog.
func TestReadQueue(t *testing.T) {
	dir := t.TempDir()
	var b []byte
	add := func(position int64, size uint32, tag int64) {
		b = binary.BigEndian.AppendUint64(b, uint64(position))
		b = binary.BigEndian.AppendUint32(b, size)
		b = binary.BigEndian.AppendUint64(b, uint64(tag))
	}
	add(0, fillSize, 0)
	add(0, fillSize, 0)
	for i := range int64(5) {
		add(100+10*i, 10, 7000+i)
	}
	add(0, 0, 0)
	if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%020d", 10*entryBytes)), b, 0o600); err != nil {
		t.Fatal(err)
	}
	for first, want := range map[int64]Queue{
		0:   {Min: 12, Max: 17, First: 100, Last: 140},
		120: {Min: 14, Max: 17, First: 120, Last: 140},
		999: {Min: 17, Max: 17, First: -1, Last: -1},
	} {
		if got, err := ReadQueue(dir, first); got != want || err != nil {
			t.Errorf("commitlog from %d: %+v, %v, want %+v", first, got, err, want)
		}
	}
	got := map[int64]int64{}
	if err := DueTimes(dir, 15, func(offset, due int64) bool { got[offset] = due; return true }); err != nil || fmt.Sprint(got) != "map[15:7003 16:7004]" {
		t.Errorf("due times %v, %v", got, err)
	}
	if q, err := ReadQueue(filepath.Join(dir, "none"), 0); (q != Queue{First: -1, Last: -1}) || err != nil {
		t.Errorf("no folder: %+v, %v", q, err)
	}
}

// FuzzReader: no bytes make the reader crash, give a message that is not whole, or read on for ever.
func FuzzReader(f *testing.F) {
	a := stored(f, "t", 0, "a")
	f.Add(zeros(append([]byte{}, a...), fileSize), zeros(append([]byte{}, a...), fileSize))
	f.Add(blank(append([]byte{}, a...), fileSize), a)
	f.Add(a[:20], []byte{})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		dir := t.TempDir()
		for name, data := range map[string][]byte{"00000000000000000000": first, fmt.Sprintf("%020d", len(first)): second} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := OpenCommitlog(dir)
		if err != nil {
			t.Skip()
		}
		got, _, err := readAll(t, c, 0)
		if err != nil && !errors.Is(err, ErrDamaged) {
			t.Fatal(err)
		}
		if len(got) > (len(first)+len(second))/91 {
			t.Fatalf("%d messages of %d bytes", len(got), len(first)+len(second))
		}
	})
}
