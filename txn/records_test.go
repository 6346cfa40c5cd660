package txn

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/alloctest"
	"github.com/cairnmq/cairn/internal/codec"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

var (
	anyTime     = rapid.Int64Range(0, math.MaxInt64)
	anyPosition = rapid.Map(anyTime, func(v int64) record.Position { return record.Position(v) })
	anyInt32    = rapid.Int32Range(0, math.MaxInt32)
	anyReason   = rapid.SampledFrom([]Reason{NotParked, NoAnswer, NoProducer, ParkedByOps})
	anyHalf     = rapid.Custom(func(t *rapid.T) Half {
		return Half{Position: anyPosition.Draw(t, "position"), CheckAt: anyTime.Draw(t, "check"), Topic: kvindex.ID(rapid.Uint64().Draw(t, "topic")),
			Queue: anyInt32.Draw(t, "queue"), Size: anyInt32.Draw(t, "size"), TagHash: int64(rapid.Int32().Draw(t, "tag")),
			Checks: anyInt32.Draw(t, "checks"), Stored: anyTime.Draw(t, "stored"), ID: rapid.Uint64().Draw(t, "id"),
			Delayed: rapid.Bool().Draw(t, "delayed"), Reason: anyReason.Draw(t, "reason"), Group: rapid.String().Draw(t, "group")}
	})
	anyCheck = rapid.Custom(func(t *rapid.T) Check {
		return Check{Position: anyPosition.Draw(t, "position"), Next: anyTime.Draw(t, "next"), Park: anyReason.Draw(t, "park"),
			Free: rapid.Bool().Draw(t, "free")}
	})
)

// keyOf is the key of the row that a half message has.
func keyOf(h *Half) []byte {
	if h.Reason != NotParked {
		return kvindex.AppendParkedKey(nil, int64(h.Position))
	}
	return kvindex.AppendHalfKey(nil, int64(h.Position))
}

func TestRowsAndRecordsReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyHalf.Draw(t, "half")
		got := anyHalf.Draw(t, "what was there")
		if err := got.decode(keyOf(&want), want.appendTo(nil)); err != nil || got != want {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
		c := Count{anyTime.Draw(t, "open"), anyTime.Draw(t, "parked")}
		if got, err := decodeCount(appendCount(nil, c)); err != nil || got != c {
			t.Fatalf("%+v became %+v, %v", c, got, err)
		}
		e := End{want.Position, rapid.SampledFrom([]Action{Commit, Rollback, Expire}).Draw(t, "action"), anyTime.Draw(t, "due")}
		if got, err := decodeEnd(e.Record().Payload); err != nil || got != e {
			t.Fatalf("%+v became %+v, %v", e, got, err)
		}
		checks := rapid.SliceOfN(anyCheck, 0, 20).Draw(t, "checks")
		before := rapid.SliceOfN(anyCheck, 0, 2).Draw(t, "before")
		all, err := decodeChecks(ChecksRecord(checks).Payload, slices.Clone(before))
		if err != nil || !slices.Equal(all, append(before, checks...)) {
			t.Fatalf("%+v became %+v, %v", checks, all, err)
		}
	})
}

func TestAFullRecordOfChecks(t *testing.T) {
	checks := make([]Check, MaxChecks)
	for i := range checks {
		checks[i] = Check{Position: record.Position(i) << 40, Next: math.MaxInt64 - int64(i), Park: Reason(i % 4), Free: i%2 == 1}
	}
	if got, err := decodeChecks(ChecksRecord(checks).Payload, nil); err != nil || !slices.Equal(got, checks) {
		t.Fatalf("%d checks became %d, %v", len(checks), len(got), err)
	}
	if _, err := decodeChecks(ChecksRecord(append(checks, Check{})).Payload, nil); !errors.Is(err, codec.ErrMalformed) {
		t.Fatalf("one check more: %v", err)
	}
}

// golden are the bytes that lie on disks.
var golden = []struct {
	name   string
	bytes  string
	made   func() []byte
	decode func(b []byte) error
	group  string // that ends the row: nothing says how long it is
}{
	{"commit", "\x01\x64\x01\x00", func() []byte { return End{Position: 100, Action: Commit}.Record().Payload }, readEnd, ""},
	{"delayed commit", "\x01\xac\x02\x01\xe8\x07", func() []byte { return End{300, Commit, 1000}.Record().Payload }, readEnd, ""},
	{"rollback", "\x01\x00\x02\x00", func() []byte { return End{Action: Rollback}.Record().Payload }, readEnd, ""},
	{"expire", "\x01\x64\x03\x00", func() []byte { return End{Position: 100, Action: Expire}.Record().Payload }, readEnd, ""},
	{"no checks", "\x01\x00", func() []byte { return ChecksRecord(nil).Payload }, readChecks, ""},
	{"checks", "\x01\x03" + "\x64\xe8\x07\x00\x00" + "\xac\x02\x05\x00\x01" + "\x07\x00\x03\x01", func() []byte {
		return ChecksRecord([]Check{{100, 1000, NotParked, false}, {300, 5, NotParked, true}, {7, 0, ParkedByOps, true}}).Payload
	}, readChecks, ""},
	{"open", "\x07\x03\x96\x01\xe8\x07\x02\x80\x03" + "\x00\x01" + "\xff\xff\xff\xf7" + "\x00\x00\x00\x00\x00\x00\x00\x4d" + "orders",
		func() []byte {
			return (&Half{Position: 9, CheckAt: 1000, Topic: 7, Queue: 3, Size: 150, TagHash: -9, Checks: 2, Stored: 384, ID: 77,
				Delayed: true, Group: "orders"}).appendTo(nil)
		}, readHalf(kvindex.SpaceHalf), "orders"},
	{"parked", "\x07\x00\x64\x00\x0f\x80\x03" + "\x01\x00" + "\x00\x00\x00\x00" + "\x01\x02\x03\x04\x05\x06\x07\x08", func() []byte {
		return (&Half{Position: 9, Topic: 7, Size: 100, Checks: 15, Stored: 384, ID: 0x0102030405060708, Reason: NoAnswer}).appendTo(nil)
	}, readHalf(kvindex.SpaceParked), ""},
	{"count", "\xac\x02\x07", func() []byte { return appendCount(nil, Count{300, 7}) }, readCount, ""},
}

func readEnd(b []byte) error {
	_, err := decodeEnd(b)
	return err
}

func readChecks(b []byte) error {
	_, err := decodeChecks(b, nil)
	return err
}

func readCount(b []byte) error {
	_, err := decodeCount(b)
	return err
}

func readHalf(space kvindex.Space) func([]byte) error {
	return func(b []byte) error { return new(Half).decode([]byte{byte(space), 0, 0, 0, 0, 0, 0, 0, 9}, b) }
}

func TestGoldenBytes(t *testing.T) {
	for _, g := range golden {
		if got := g.made(); string(got) != g.bytes {
			t.Errorf("%s is %x, was %x", g.name, got, g.bytes)
		}
		if err := g.decode([]byte(g.bytes)); err != nil {
			t.Errorf("%s: %v", g.name, err)
		}
		for n := range len(g.bytes) - len(g.group) {
			if err := g.decode([]byte(g.bytes[:n])); !errors.Is(err, codec.ErrMalformed) {
				t.Errorf("%d bytes of %s: %v", n, g.name, err)
			}
		}
		err := g.decode([]byte(g.bytes + "\x00"))
		if tail := g.name == "open" || g.name == "parked"; tail == errors.Is(err, codec.ErrMalformed) {
			t.Errorf("one byte after %s: %v", g.name, err)
		}
	}
}

func TestWhatIsNoRecordOrRow(t *testing.T) {
	const huge = "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01" // 1 << 63
	tail := strings.Repeat("\x00", 12)
	for name, c := range map[string]struct {
		bytes  string
		decode func(b []byte) error
	}{
		"end of another form":     {"\x02\x64\x01\x00", readEnd},
		"end of no action":        {"\x01\x64\x00\x00", readEnd},
		"end of a fourth action":  {"\x01\x64\x04\x00", readEnd},
		"end beyond the log":      {"\x01" + huge + "\x01\x00", readEnd},
		"end at no time":          {"\x01\x64\x01" + huge, readEnd},
		"checks of another form":  {"\x00\x00", readChecks},
		"fewer checks than said":  {"\x01\x02\x64\x05\x00\x00", readChecks},
		"more checks than said":   {"\x01\x01\x64\x05\x00\x00\x64\x05\x00\x00", readChecks},
		"checks without end":      {"\x01" + huge, readChecks},
		"check beyond the log":    {"\x01\x01" + huge + "\x00\x00\x00", readChecks},
		"check at no time":        {"\x01\x01\x64" + huge + "\x00\x00", readChecks},
		"check for no reason":     {"\x01\x01\x64\x05\x04\x00", readChecks},
		"check half free":         {"\x01\x01\x64\x05\x00\x02", readChecks},
		"queue too large":         {"\x07\x80\x80\x80\x80\x08\x00\x00\x00\x00\x00\x00" + tail, readHalf(kvindex.SpaceHalf)},
		"size too large":          {"\x07\x00\x80\x80\x80\x80\x08\x00\x00\x00\x00\x00" + tail, readHalf(kvindex.SpaceHalf)},
		"half at no time":         {"\x07\x00\x00" + huge + "\x00\x00\x00\x00" + tail, readHalf(kvindex.SpaceHalf)},
		"checks too many":         {"\x07\x00\x00\x00\x80\x80\x80\x80\x08\x00\x00\x00" + tail, readHalf(kvindex.SpaceHalf)},
		"half stored at no time":  {"\x07\x00\x00\x00\x00" + huge + "\x00\x00" + tail, readHalf(kvindex.SpaceHalf)},
		"parked for no reason":    {"\x07\x00\x00\x00\x00\x00\x04\x00" + tail, readHalf(kvindex.SpaceParked)},
		"parked and open":         {"\x07\x00\x00\x00\x00\x00\x00\x00" + tail, readHalf(kvindex.SpaceParked)},
		"open and parked":         {"\x07\x00\x00\x00\x00\x00\x01\x00" + tail, readHalf(kvindex.SpaceHalf)},
		"half delayed":            {"\x07\x00\x00\x00\x00\x00\x00\x02" + tail, readHalf(kvindex.SpaceHalf)},
		"count of open too large": {huge + "\x00", readCount},
		"count of parked":         {"\x00" + huge, readCount},
		"empty count":             {"", readCount},
	} {
		if err := c.decode([]byte(c.bytes)); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	good := (&Half{Group: "g"}).appendTo(nil)
	for _, key := range []string{"", "\x50", "\x50\x00\x00\x00\x00\x00\x00\x00", "\x50\x00\x00\x00\x00\x00\x00\x00\x00\x00"} {
		if err := new(Half).decode([]byte(key), good); !errors.Is(err, codec.ErrMalformed) {
			t.Errorf("key %x: %v", key, err)
		}
	}
}

// What is read must be the same when it is written and read again.
func FuzzRecords(f *testing.F) {
	for _, g := range golden {
		f.Add([]byte(g.bytes))
	}
	f.Add([]byte{recordForm + 1, 1, 1, 1})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if e, err := decodeEnd(payload); err == nil {
			if again, err := decodeEnd(e.Record().Payload); err != nil || again != e {
				t.Fatalf("%+v became %+v, %v", e, again, err)
			}
		}
		var checks []Check
		var err error
		alloctest.AtMost(t, 200*len(payload), func() { checks, err = decodeChecks(payload, nil) })
		if err == nil {
			if again, err := decodeChecks(ChecksRecord(checks).Payload, nil); err != nil || !slices.Equal(again, checks) {
				t.Fatalf("%+v became %+v, %v", checks, again, err)
			}
		}
	})
}

func FuzzRows(f *testing.F) {
	open, parked := Half{Position: 9, Topic: 7, Group: "g"}, Half{Position: 9, Topic: 7, Reason: NoProducer}
	for _, h := range []*Half{&open, &parked} {
		f.Add(keyOf(h), h.appendTo(nil))
	}
	for _, g := range golden {
		f.Add([]byte{byte(kvindex.SpaceHalfCounter)}, []byte(g.bytes))
	}
	f.Fuzz(func(t *testing.T, key, val []byte) {
		var h, again Half
		if h.decode(key, val) == nil {
			if err := again.decode(keyOf(&h), h.appendTo(nil)); err != nil || again != h {
				t.Fatalf("%+v became %+v, %v", h, again, err)
			}
		}
		if c, err := decodeCount(val); err == nil {
			if again, err := decodeCount(appendCount(nil, c)); err != nil || again != c {
				t.Fatalf("%+v became %+v, %v", c, again, err)
			}
		}
		for _, space := range []kvindex.Space{kvindex.SpaceHalf, kvindex.SpaceParked, kvindex.SpaceHalfCheck, kvindex.SpaceHalfCounter} {
			if _, _, text := kvindex.Describe(append([]byte{byte(space)}, key...), val); text == "" {
				t.Fatalf("%v row %x is printed as nothing", space, val)
			}
		}
	})
}

func TestIDs(t *testing.T) {
	for text, want := range map[string]struct {
		at       record.Position
		uniqueID string
	}{
		"00000000000010000A0B0C":                           {4096, "0A0B0C"},
		"0000000000000000x":                                {0, "x"},
		"7FFFFFFFFFFFFFFF01A1FD8C7C88000000000000000000FF": {math.MaxInt64, "01A1FD8C7C88000000000000000000FF"},
		"00000000000000ff ü":                               {255, " ü"}, // which ID writes in capitals
	} {
		at, uniqueID, err := ParseID(text)
		if err != nil || at != want.at || uniqueID != want.uniqueID {
			t.Errorf("%s became %d, %q, %v", text, at, uniqueID, err)
		}
		if got := ID(want.at, want.uniqueID); !strings.EqualFold(got, text) {
			t.Errorf("%+v became %s, want %s", want, got, text)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		at, uniqueID := anyPosition.Draw(t, "position"), rapid.StringN(1, -1, -1).Draw(t, "unique id")
		text := ID(at, uniqueID)
		if gotAt, gotID, err := ParseID(text); err != nil || gotAt != at || gotID != uniqueID {
			t.Fatalf("%d and %q became %q, then %d and %q, %v", at, uniqueID, text, gotAt, gotID, err)
		}
	})
}

func TestWhatIsNoID(t *testing.T) {
	for _, text := range []string{
		"", "x", "0000000000001000", "000000000000100", "8000000000000000x", "FFFFFFFFFFFFFFFFx", "000000000000100Gx", "-000000000001000x",
		"+000000000001000x", "0x00000000001000x", "0_00000000001000x", " 000000000001000x", "000000000001000 x", "000000000001000\x00x", "üüüüüüüüx",
	} {
		if at, uniqueID, err := ParseID(text); !errors.Is(err, ErrID) {
			t.Errorf("%q was read as %d, %q, %v", text, at, uniqueID, err)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add(ID(4096, "0A0B0C"))
	f.Add("00000000000000ffx")
	f.Add("8000000000000000x")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		at, uniqueID, err := ParseID(text)
		if err != nil {
			if !errors.Is(err, ErrID) {
				t.Fatal(err)
			}
			return
		}
		gotAt, gotID, err := ParseID(ID(at, uniqueID))
		if at < 0 || err != nil || gotAt != at || gotID != uniqueID {
			t.Fatalf("%d and %q became %d and %q, %v", at, uniqueID, gotAt, gotID, err)
		}
	})
}
