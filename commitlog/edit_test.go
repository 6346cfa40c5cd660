package commitlog

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/internal/record"
)

// What was written over is a log all the same: each batch and record at its place, with checksums that match.
func TestEditedBatchesAreALog(t *testing.T) {
	opts := testOptions(vfs.NewMem())
	l, h := start(t, opts)
	for range 4 { // in one segment
		add(t, l, "keep", "secret", "", filler("keep", 3000))
	}
	end := l.Committed()
	raw, err := l.ReadRaw(0, int(end), nil)
	if err != nil || len(raw) != int(end) {
		t.Fatalf("%d bytes of %d, %v", len(raw), end, err)
	}
	closeLog(t, l)

	var same bytes.Buffer
	if err := Edit(bytes.NewReader(raw), &same, 0, end, func(*Batch) (bool, error) { return false, nil }); err != nil || !bytes.Equal(same.Bytes(), raw) {
		t.Fatalf("a copy of %d bytes has %d, %v", len(raw), same.Len(), err)
	}
	var out bytes.Buffer
	batches := 0
	err = Edit(bytes.NewReader(raw), &out, 0, end, func(b *Batch) (bool, error) {
		batches++
		for i, r := range b.Records {
			if string(r.Payload) == "secret" {
				clear(b.Records[i].Payload)
			}
		}
		return true, nil
	})
	if err != nil || out.Len() != len(raw) || bytes.Contains(out.Bytes(), []byte("secret")) {
		t.Fatalf("%d bytes of %d, %v", out.Len(), len(raw), err)
	}

	fs := vfs.NewMem()
	if err := makeDir(fs, opts.Dir); err != nil {
		t.Fatal(err)
	}
	err = MakeSegment(fs, opts.Dir, 0, func(f vfs.File) error {
		_, err := f.Write(out.Bytes())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []record.Record
	err = Scan(fs, opts.Dir, 0, func(b *Batch) error {
		batches--
		for _, r := range b.Records {
			got = append(got, record.Record{Kind: r.Kind, Payload: bytes.Clone(r.Payload)})
		}
		return nil
	})
	want := h.payloads()
	if err != nil || batches != 0 || len(got) != len(want) {
		t.Fatalf("%d records of %d, %d batches missing, %v", len(got), len(want), batches, err)
	}
	for i, r := range got {
		if want[i] == "secret" {
			want[i] = string(make([]byte, 6))
		}
		if string(r.Payload) != want[i] || r.Kind != record.KindMessage {
			t.Fatalf("record %d: %v %q, want %q", i, r.Kind, r.Payload, want[i])
		}
	}
}

func TestEditRefusesWhatIsNoLog(t *testing.T) {
	l, _ := start(t, testOptions(vfs.NewMem()))
	add(t, l, "a", "b")
	end := l.Committed()
	raw, err := l.ReadRaw(0, int(end), nil)
	if err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	for at := range raw {
		damaged := bytes.Clone(raw)
		damaged[at] ^= 1
		var corrupt *CorruptError
		err := Edit(bytes.NewReader(damaged), &bytes.Buffer{}, 0, end, func(*Batch) (bool, error) { return false, nil })
		if !errors.As(err, &corrupt) {
			t.Fatalf("byte %d: %v", at, err)
		}
	}
	err = Edit(bytes.NewReader(raw[:len(raw)-1]), &bytes.Buffer{}, 0, end, func(*Batch) (bool, error) { return false, nil })
	if err == nil {
		t.Error("a batch that is cut short is taken")
	}
}
