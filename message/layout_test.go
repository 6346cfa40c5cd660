package message

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func sample() Message {
	return Message{
		Topic: "orders", QueueID: 3, Flag: 7, SysFlag: FlagCommit, QueueOffset: 1 << 40, PhysicalOffset: 1 << 50,
		BornTimestamp: 1700000000123, BornHost: netip.MustParseAddrPort("10.1.2.3:4567"),
		StoreTimestamp: 1700000000456, StoreHost: netip.MustParseAddrPort("10.9.8.7:10911"),
		ReconsumeTimes: 2, PreparedOffset: 99, Body: []byte("some body"), Properties: []byte("TAGS\x01a\x02KEYS\x01k\x02"),
	}
}

func mustEncode(t testing.TB, m Message) []byte {
	t.Helper()
	rec, err := m.AppendEncode(nil)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

func genHost(t *rapid.T, name string) netip.AddrPort {
	port := rapid.Uint16().Draw(t, name+" port")
	raw := rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, name)
	if rapid.Bool().Draw(t, name+" is v6") {
		raw[0] = 0x20 // not a mapped address
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(raw)), port)
	}
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(raw)), port)
}

func genMessage(t *rapid.T) Message {
	m := Message{
		Topic:          strings.Repeat("t", rapid.SampledFrom([]int{0, 1, 20, 127, 128, 129, 255, 256, 400}).Draw(t, "topic")),
		QueueID:        rapid.Int32().Draw(t, "queue"),
		Flag:           rapid.Int32().Draw(t, "flag"),
		SysFlag:        rapid.Int32().Draw(t, "sysFlag") &^ (FlagBornHostV6 | FlagStoreHostV6),
		QueueOffset:    rapid.Int64().Draw(t, "offset"),
		PhysicalOffset: rapid.Int64().Draw(t, "position"),
		BornTimestamp:  rapid.Int64().Draw(t, "born"),
		BornHost:       genHost(t, "born host"),
		StoreTimestamp: rapid.Int64().Draw(t, "stored"),
		StoreHost:      genHost(t, "store host"),
		ReconsumeTimes: rapid.Int32().Draw(t, "reconsumed"),
		PreparedOffset: rapid.Int64().Draw(t, "prepared"),
		Body:           rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
		Properties:     rapid.SliceOf(rapid.Byte()).Draw(t, "properties"),
	}
	if m.BornHost.Addr().Is6() {
		m.SysFlag |= FlagBornHostV6
	}
	if m.StoreHost.Addr().Is6() {
		m.SysFlag |= FlagStoreHostV6
	}
	m.BodyCRC = BodyCRC(m.Body)
	return m
}

func TestDecodeReturnsWhatWasEncoded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := genMessage(t)
		front := rapid.SliceOf(rapid.Byte()).Draw(t, "before it")
		enc, err := want.AppendEncode(bytes.Clone(front))
		if err != nil {
			t.Fatal(err)
		}
		rec := enc[len(front):]
		if len(rec) != want.EncodedSize() {
			t.Fatalf("%d bytes, EncodedSize %d", len(rec), want.EncodedSize())
		}
		back := append(bytes.Clone(rec), rapid.SliceOf(rapid.Byte()).Draw(t, "behind it")...)
		got, n, err := Decode(back)
		if err != nil || n != len(rec) || !reflect.DeepEqual(got, want) {
			t.Fatalf("%d bytes, %v\n%+v\nwant\n%+v", n, err, got, want)
		}
		if as, n2, err := DecodeAs(back, want.Topic); err != nil || n2 != n || !reflect.DeepEqual(as, want) {
			t.Fatalf("DecodeAs: %d bytes, %v\n%+v", n2, err, as)
		}
		checkFields(t, rec, &want)
	})
}

func checkFields(t interface{ Fatalf(string, ...any) }, rec []byte, m *Message) {
	if string(TopicOf(rec)) != m.Topic || !bytes.Equal(BodyOf(rec), m.Body) || !bytes.Equal(PropertiesOf(rec), m.Properties) {
		t.Fatalf("topic %q, body %q, properties %q of %+v", TopicOf(rec), BodyOf(rec), PropertiesOf(rec), m)
	}
	got := []int64{int64(QueueIDOf(rec)), QueueOffsetOf(rec), PhysicalOffsetOf(rec), int64(SysFlagOf(rec)), BornTimestampOf(rec),
		StoreTimestampOf(rec), int64(ReconsumeTimesOf(rec))}
	want := []int64{int64(m.QueueID), m.QueueOffset, m.PhysicalOffset, int64(m.SysFlag), m.BornTimestamp,
		m.StoreTimestamp, int64(m.ReconsumeTimes)}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("fields %d, want %d", got, want)
	}
}

func TestPatchesChangeTheirFieldOnly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := genMessage(t)
		rec, err := m.AppendEncode(nil)
		if err != nil {
			t.Fatal(err)
		}
		n := rapid.Int64().Draw(t, "number")
		switch rapid.IntRange(0, 6).Draw(t, "field") {
		case 0:
			PatchQueueOffset(rec, n)
			m.QueueOffset = n
		case 1:
			PatchPhysicalOffset(rec, n)
			m.PhysicalOffset = n
		case 2:
			PatchStoreTimestamp(rec, n)
			m.StoreTimestamp = n
		case 3:
			PatchQueueID(rec, int32(n))
			m.QueueID = int32(n)
		case 4:
			PatchReconsumeTimes(rec, int32(n))
			m.ReconsumeTimes = int32(n)
		case 5:
			PatchPreparedOffset(rec, n)
			m.PreparedOffset = n
		case 6:
			PatchTransaction(rec, int32(n))
			m.SysFlag = m.SysFlag&^FlagTransactionMask | int32(n)&FlagTransactionMask
		}
		want, err := m.AppendEncode(nil)
		if err != nil || !bytes.Equal(rec, want) {
			t.Fatalf("%v\n%x\nwant\n%x", err, rec, want)
		}
	})
}

func TestEncodeBounds(t *testing.T) {
	for name, change := range map[string]func(*Message){
		"topic":      func(m *Message) { m.Topic = strings.Repeat("t", MaxTopic+1) },
		"properties": func(m *Message) { m.Properties = make([]byte, MaxProperties+1) },
	} {
		m := sample()
		change(&m)
		dst := []byte("before")
		if out, err := m.AppendEncode(dst); !errors.Is(err, ErrTooLarge) || string(out) != "before" {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
	}
	m := sample()
	m.Topic, m.Properties = strings.Repeat("t", MaxTopic), make([]byte, MaxProperties)
	if got, _, err := Decode(mustEncode(t, m)); err != nil || got.Topic != m.Topic || len(got.Properties) != MaxProperties {
		t.Errorf("at the bounds: %d, %d: %v", len(got.Topic), len(got.Properties), err)
	}
}

func TestHostsAsWritten(t *testing.T) {
	m := sample()
	m.BornHost, m.StoreHost = netip.MustParseAddrPort("[::ffff:10.0.0.1]:80"), netip.AddrPort{}
	m.SysFlag = FlagBornHostV6 | FlagStoreHostV6 | FlagPrepared
	got, _, err := Decode(mustEncode(t, m))
	if err != nil || got.BornHost != netip.MustParseAddrPort("10.0.0.1:80") ||
		got.StoreHost != netip.MustParseAddrPort("0.0.0.0:0") || got.SysFlag != FlagPrepared {
		t.Errorf("hosts %v and %v, sysFlag %d: %v", got.BornHost, got.StoreHost, got.SysFlag, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	v1 := sample()
	v2 := sample()
	v2.Topic = strings.Repeat("t", 200)
	put32 := func(at int, n uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], n); return b }
	}
	bodyAt := offBornHost + 2*hostV4 + 8 + 4 + 8
	topicAt := bodyAt + 4 + len(v1.Body)
	for _, c := range []struct {
		name   string
		from   Message
		change func([]byte) []byte
		want   error
	}{
		{"nothing", v1, func(b []byte) []byte { return nil }, ErrTruncated},
		{"7 bytes", v1, func(b []byte) []byte { return b[:7] }, ErrTruncated},
		{"one byte less", v1, func(b []byte) []byte { return b[:len(b)-1] }, ErrTruncated},
		{"magic", v1, put32(offMagic, 0xCBD43194), ErrCorrupt},
		{"magic of the other version", v1, put32(offMagic, MagicV2), ErrCorrupt},
		{"size 0", v1, put32(0, 0), ErrCorrupt},
		{"size negative", v1, put32(0, 0x80000000), ErrCorrupt},
		{"size smaller", v1, put32(0, uint32(len(mustEncode(t, v1))-1)), ErrCorrupt},
		{"size over what follows", v1, put32(0, math.MaxInt32), ErrTruncated},
		{"body negative", v1, put32(bodyAt, 0xFFFFFFFF), ErrCorrupt},
		{"body over the record", v1, put32(bodyAt, 1000), ErrCorrupt},
		{"hosts of the other kind", v1, put32(offSysFlag, uint32(FlagBornHostV6|FlagStoreHostV6)), ErrCorrupt},
		{"port", v1, put32(offBornHost+4, 65536), ErrCorrupt},
		{"topic longer", v1, func(b []byte) []byte { b[topicAt] = 120; return b }, ErrCorrupt},
		{"topic negative", v1, func(b []byte) []byte { b[topicAt] = 200; return b }, ErrCorrupt},
		{"topic shorter", v1, func(b []byte) []byte { b[topicAt]--; return b }, ErrCorrupt},
		{"long topic longer", v2, func(b []byte) []byte { b[topicAt] = 1; return b }, ErrCorrupt},
		{"properties longer", v1, func(b []byte) []byte { b[topicAt+1+len(v1.Topic)+1]++; return b }, ErrCorrupt},
		{"properties shorter", v1, func(b []byte) []byte { b[topicAt+1+len(v1.Topic)+1]--; return b }, ErrCorrupt},
	} {
		b := c.change(mustEncode(t, c.from))
		if m, n, err := Decode(b); !errors.Is(err, c.want) || n != 0 || !reflect.DeepEqual(m, Message{}) {
			t.Errorf("%s: %d bytes, %v, %+v", c.name, n, err, m)
		}
	}
	m := sample()
	m.Body = make([]byte, 40000) // room for properties that Java reads as negative
	rec := mustEncode(t, m)
	binary.BigEndian.PutUint32(rec[bodyAt:], 0)
	rec[bodyAt+4] = 1
	binary.BigEndian.PutUint16(rec[bodyAt+6:], uint16(len(rec)-bodyAt-8))
	if _, _, err := Decode(rec); !errors.Is(err, ErrCorrupt) {
		t.Errorf("properties of %d bytes: %v", len(rec)-bodyAt-8, err)
	}
}

func TestDecodedSlicesCannotGrowInPlace(t *testing.T) {
	rec := mustEncode(t, sample())
	before := bytes.Clone(rec)
	m, _, err := Decode(append(rec, "the next record"...))
	if err != nil {
		t.Fatal(err)
	}
	_ = append(m.Body, 'x')
	_ = append(m.Properties, 'x')
	_ = append(TopicOf(rec), 'x')
	_ = append(BodyOf(rec), 'x')
	_ = append(PropertiesOf(rec), 'x')
	if !bytes.Equal(rec, before) {
		t.Error("an append wrote into the record")
	}
}

func TestHotPathAllocations(t *testing.T) {
	m := sample()
	rec, buf := mustEncode(t, m), make([]byte, 0, 1024)
	for name, c := range map[string]struct {
		most float64
		f    func()
	}{
		"AppendEncode": {0, func() { _, _ = m.AppendEncode(buf) }},
		"Decode":       {1, func() { _, _, _ = Decode(rec) }},
		"DecodeAs":     {0, func() { _, _, _ = DecodeAs(rec, "orders") }},
		"TopicOf":      {0, func() { _ = string(TopicOf(rec)) == m.Topic }},
		"Property":     {0, func() { _, _ = Property(m.Properties, PropKeys) }},
		"TagHashOf":    {0, func() { _ = TagHashOf(m.Properties) }},
	} {
		if n := testing.AllocsPerRun(100, c.f); n > c.most {
			t.Errorf("%s allocates %v times, most %v", name, n, c.most)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range readManifest(f).Records {
		rec := golden(f, g.File)
		if len(rec) > 1000 { // the fuzzer takes its time to make large ones smaller
			continue
		}
		f.Add(rec)
		f.Add(rec[:len(rec)/2])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		whole := bytes.Clone(b)
		m, n, err := Decode(b[:len(b):len(b)])
		if !bytes.Equal(b, whole) {
			t.Fatal("Decode wrote into its input")
		}
		if err != nil {
			if !errors.Is(err, ErrCorrupt) && !errors.Is(err, ErrTruncated) {
				t.Fatal(err)
			}
			return
		}
		rec := b[:n]
		checkFields(t, rec, &m)
		again, err := m.AppendEncode(nil)
		if err != nil {
			t.Fatal(err)
		}
		m2, n2, err := Decode(again)
		if err != nil || n2 != len(again) {
			t.Fatalf("%d of %d bytes: %v", n2, len(again), err)
		}
		// What another writer may have chosen and we do not: a wrong checksum, a mapped address.
		m.BodyCRC = m2.BodyCRC
		m.SysFlag = m2.SysFlag
		m.BornHost = netip.AddrPortFrom(m.BornHost.Addr().Unmap(), m.BornHost.Port())
		m.StoreHost = netip.AddrPortFrom(m.StoreHost.Addr().Unmap(), m.StoreHost.Port())
		if !reflect.DeepEqual(m, m2) {
			t.Fatalf("%+v\nis then\n%+v", m, m2)
		}
	})
}

func benchmarkMessage() Message {
	m := sample()
	m.Body = bytes.Repeat([]byte("x"), 1024)
	m.Properties = EncodeProperties(map[string]string{
		PropTags: "TagA", PropKeys: "order-1234567", PropUniqueKey: "0A01020300011B2C3D4E5F6071820001", PropWait: "true",
		PropRegion: "DefaultRegion", PropTraceOn: "true", "customer": "4711",
	})
	return m
}

func BenchmarkAppendEncode(b *testing.B) {
	m := benchmarkMessage()
	buf := make([]byte, 0, m.EncodedSize())
	b.SetBytes(int64(m.EncodedSize()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.AppendEncode(buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	rec := mustEncode(b, benchmarkMessage())
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Decode(rec); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeAs(b *testing.B) {
	rec := mustEncode(b, benchmarkMessage())
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := DecodeAs(rec, "orders"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTopicOf(b *testing.B) {
	rec := mustEncode(b, benchmarkMessage())
	for b.Loop() {
		if string(TopicOf(rec)) != "orders" {
			b.Fatal("topic")
		}
	}
}
