package javastore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// FuzzConfig: no text makes the readers of config/ crash or fail with another error than ErrConfig, and what they can read is the same
// after it was written again.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(oneTopic))
	f.Add([]byte(`{"subscriptionGroupTable":{"g":{"retryMaxTimes":3}},"forbiddenTable":{"g":{"t":1}}}`))
	f.Add([]byte(`{"offsetTable":{"orders@g":{0:1,"1":2}},"lmqOffsetTable":{"%LMQ%a@g":3}}`))
	f.Add([]byte(`{"offsetTable":{1:2,18:3}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		only := func(err error) {
			if err != nil && !errors.Is(err, ErrConfig) {
				t.Fatal(err)
			}
		}
		_, err := ParseTopics(data)
		only(err)
		_, err = ParseGroups(data)
		only(err)
		_, err = ParseDelayOffsets(data)
		only(err)
		_, err = LiteOffsets(data)
		only(err)
		offsets, err := ParseOffsets(data)
		only(err)
		if err != nil {
			return
		}
		written, err := MarshalOffsets(offsets, Version{})
		if err != nil {
			t.Fatal(err)
		}
		again, err := ParseOffsets(written)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(offsets) {
			t.Fatalf("%q: %v, written again %v, %v", data, offsets, again, err)
		}
	})
}

// FuzzQueue: no bytes make the readers of a consume queue crash, or find it outside its files.
func FuzzQueue(f *testing.F) {
	f.Add(make([]byte, 3*entryBytes), []byte{1}, int64(0))
	f.Add([]byte("\x00\x00\x00\x00\x00\x00\x00\x00\x7f\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00"), make([]byte, entryBytes), int64(7))
	f.Fuzz(func(t *testing.T, first, second []byte, from int64) {
		dir := t.TempDir()
		for start, data := range map[int][]byte{0: first, max(len(first), 1) / entryBytes * entryBytes: second} {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%020d", start)), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		most := int64(len(first)+len(second)) / entryBytes
		q, err := ReadQueue(dir, from)
		if err != nil || q.Min < 0 || q.Max < q.Min || q.Max > most {
			t.Fatalf("%d entries: %+v, %v", most, q, err)
		}
		n := int64(0)
		err = DueTimes(dir, from, func(int64, int64) bool { n++; return true })
		if err != nil || n > most {
			t.Fatalf("%d entries: %d times, %v", most, n, err)
		}
	})
}
