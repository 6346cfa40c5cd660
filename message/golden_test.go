package message

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"
)

// manifest is what testdata/golden/java/Golden.java says of the files that it wrote beside it.
type manifest struct {
	Records []goldenRecord
	Batches []struct {
		File  string
		Items []struct {
			Flag       int32
			Body       []byte
			Properties map[string]string
		}
	}
	OffsetIDs []struct {
		Host     netip.AddrPort
		Position int64
		ID       string
	}
	UniqueIDs []struct {
		ID        string
		Now, Time int64 // ms; Time is 0 for ids that the Remoting client does not read
	}
	Properties []struct {
		Encoded    []byte
		Properties map[string]string
	}
	Bodies []struct {
		File    string
		SysFlag int32
	}
	Tags []struct {
		Tag  string
		Hash int64
	}
	Reserved []string
}

type goldenRecord struct {
	File, Topic                                 string
	QueueID, Flag, SysFlag, ReconsumeTimes      int32
	QueueOffset, PhysicalOffset, PreparedOffset int64
	BodyCRC                                     uint32
	BornTimestamp, StoreTimestamp               int64
	BornHost, StoreHost                         netip.AddrPort
	Body                                        []byte
	Properties                                  map[string]string
	OffsetID                                    string
}

func (g *goldenRecord) message() Message {
	return Message{
		Topic: g.Topic, QueueID: g.QueueID, Flag: g.Flag, SysFlag: g.SysFlag, QueueOffset: g.QueueOffset,
		PhysicalOffset: g.PhysicalOffset, BodyCRC: g.BodyCRC, BornTimestamp: g.BornTimestamp, BornHost: g.BornHost,
		StoreTimestamp: g.StoreTimestamp, StoreHost: g.StoreHost, ReconsumeTimes: g.ReconsumeTimes,
		PreparedOffset: g.PreparedOffset, Body: g.Body, Properties: EncodeProperties(g.Properties),
	}
}

func golden(t testing.TB, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "golden", file))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readManifest(t testing.TB) (m manifest) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(golden(t, "manifest.json")))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]int{"records": len(m.Records), "batches": len(m.Batches), "offset ids": len(m.OffsetIDs),
		"unique ids": len(m.UniqueIDs), "properties": len(m.Properties), "bodies": len(m.Bodies), "tags": len(m.Tags)} {
		if n == 0 {
			t.Fatalf("the manifest has no %s", name)
		}
	}
	return m
}

func TestGoldenRecords(t *testing.T) {
	versions := map[byte]int{}
	for _, g := range readManifest(t).Records {
		t.Run(g.File, func(t *testing.T) {
			rec, want := golden(t, g.File), g.message()
			versions[rec[7]]++
			got, n, err := Decode(rec)
			if err != nil || n != len(rec) {
				t.Fatalf("read %d of %d bytes: %v", n, len(rec), err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("decoded\n%+v\nwant\n%+v", got, want)
			}
			enc, err := want.AppendEncode(nil)
			if err != nil || !bytes.Equal(enc, rec) {
				t.Errorf("encoded (%v)\n%x\nwant\n%x", err, enc, rec)
			}
			if len(rec) != want.EncodedSize() {
				t.Errorf("EncodedSize %d, want %d", want.EncodedSize(), len(rec))
			}
			if p := DecodeProperties(got.Properties); !maps.Equal(p, g.Properties) {
				t.Errorf("properties %v, want %v", p, g.Properties)
			}
			if id := OffsetID(got.StoreHost, got.PhysicalOffset); id != g.OffsetID {
				t.Errorf("offset id %s, want %s", id, g.OffsetID)
			}
			if crc := BodyCRC(got.Body); crc != g.BodyCRC {
				t.Errorf("body CRC %d, want %d", crc, g.BodyCRC)
			}
			if got.SysFlag&FlagCompressed != 0 {
				if body, err := Decompress(got.SysFlag, got.Body); err != nil || !bytes.Equal(body, golden(t, "body-plain.bin")) {
					t.Errorf("body decompresses to %d bytes: %v", len(body), err)
				}
			}
		})
	}
	if versions[byte(MagicV1&0xFF)] == 0 || versions[byte(MagicV2&0xFF)] == 0 {
		t.Errorf("not both versions are among the files: %v", versions)
	}
}

func TestGoldenBatches(t *testing.T) {
	for _, g := range readManifest(t).Batches {
		body := golden(t, g.File)
		got, err := DecodeBatch(body)
		if err != nil || len(got) != len(g.Items) {
			t.Fatalf("%s: %d messages, want %d: %v", g.File, len(got), len(g.Items), err)
		}
		var enc []byte
		for i, item := range g.Items {
			if m := got[i]; m.Flag != item.Flag || !bytes.Equal(m.Body, item.Body) ||
				!maps.Equal(DecodeProperties(m.Properties), item.Properties) {
				t.Errorf("%s: item %d is %+v, want %+v", g.File, i, m, item)
			}
			enc = AppendBatchItem(enc, &Message{Flag: item.Flag, Body: item.Body, Properties: EncodeProperties(item.Properties)})
		}
		if !bytes.Equal(enc, body) {
			t.Errorf("%s: encoded\n%x\nwant\n%x", g.File, enc, body)
		}
	}
}

func TestGoldenIDs(t *testing.T) {
	m := readManifest(t)
	for _, g := range m.OffsetIDs {
		if id := OffsetID(g.Host, g.Position); id != g.ID {
			t.Errorf("offset id of %v, %d is %s, want %s", g.Host, g.Position, id, g.ID)
		}
		if host, position, err := ParseOffsetID(g.ID); err != nil || host != g.Host || position != g.Position {
			t.Errorf("%s says %v, %d, %v; want %v, %d", g.ID, host, position, err, g.Host, g.Position)
		}
	}
	for _, g := range m.UniqueIDs {
		ms, ok := UniqueIDTimeAt(g.ID, time.UnixMilli(g.Now).UTC())
		switch {
		case !ok:
			t.Errorf("%s has no time", g.ID)
		case g.Time != 0 && ms != g.Time:
			t.Errorf("%s was made at %d, want %d", g.ID, ms, g.Time)
		case g.Time == 0 && (ms > g.Now+1000 || ms < g.Now-2000): // the gRPC client counts seconds from when it started
			t.Errorf("%s was made at %d, want about %d", g.ID, ms, g.Now)
		}
	}
}

func TestGoldenProperties(t *testing.T) {
	m := readManifest(t)
	for _, g := range m.Properties {
		if got := DecodeProperties(g.Encoded); !maps.Equal(got, g.Properties) {
			t.Errorf("%q has %q, want %q", g.Encoded, got, g.Properties)
		}
		for key, want := range g.Properties {
			if got, ok := Property(g.Encoded, key); !ok || string(got) != want {
				t.Errorf("%q has %q under %q, want %q", g.Encoded, got, key, want)
			}
		}
	}
	if got := slices.Sorted(maps.Keys(reserved)); !slices.Equal(got, m.Reserved) {
		t.Errorf("reserved names\n%q\nwant\n%q", got, m.Reserved)
	}
}

func TestGoldenBodies(t *testing.T) {
	want := golden(t, "body-plain.bin")
	for _, g := range readManifest(t).Bodies {
		got, err := Decompress(g.SysFlag, golden(t, g.File))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", g.File, len(got), len(want), err)
		}
	}
}

func TestGoldenTags(t *testing.T) {
	for _, g := range readManifest(t).Tags {
		if h := TagHash(g.Tag); h != g.Hash {
			t.Errorf("hash of %q is %d, want %d", g.Tag, h, g.Hash)
		}
		if g.Tag == "" {
			continue
		}
		if h := TagHashOf(AppendProperty([]byte("A\x01b\x02"), PropTags, g.Tag)); h != g.Hash {
			t.Errorf("hash of a message with %q is %d, want %d", g.Tag, h, g.Hash)
		}
	}
}
