package delay

import (
	"encoding/base64"
	"errors"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

var (
	anyID    = rapid.Map(rapid.Uint64(), func(v uint64) kvindex.ID { return kvindex.ID(v) })
	anyTime  = rapid.Int64Range(0, math.MaxInt64)
	anyPoint = rapid.Custom(func(t *rapid.T) Point {
		return Point{Due: anyTime.Draw(t, "due"), Origin: record.Position(anyTime.Draw(t, "origin"))}
	})
	anyTimer = rapid.Custom(func(t *rapid.T) Timer {
		timer := Timer{Point: anyPoint.Draw(t, "point"), Topic: anyID.Draw(t, "topic"), TagHash: int64(rapid.Int32().Draw(t, "tag")),
			Queue: rapid.Int32Range(0, math.MaxInt32).Draw(t, "queue"), Size: rapid.Int32Range(0, math.MaxInt32).Draw(t, "size"),
			Level: rapid.Int32Range(0, math.MaxInt32).Draw(t, "level"), Hour: uint32(rapid.Int32Range(0, math.MaxInt32).Draw(t, "hour"))}
		timer.Position = record.Position(rapid.Int64Range(int64(timer.Origin), math.MaxInt64).Draw(t, "position"))
		return timer
	})
)

func TestRowsAndRecordsReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyTimer.Draw(t, "timer")
		var got Timer
		if err := got.decode(want.appendKey(nil), want.appendTo(nil)); err != nil || got != want {
			t.Fatalf("%+v became %+v, %v", want, got, err)
		}
		f := Fire{anyPoint.Draw(t, "from"), anyPoint.Draw(t, "to")}
		if f.To.Before(f.From) {
			f.From, f.To = f.To, f.From
		}
		if got, err := decodeFire(f.Record().Payload); err != nil || got != f {
			t.Fatalf("%+v became %+v, %v", f, got, err)
		}
		r := Recall{want.Point, want.Topic}
		if got, err := decodeRecall(r.Record().Payload); err != nil || got != r {
			t.Fatalf("%+v became %+v, %v", r, got, err)
		}
		n := anyTime.Draw(t, "n")
		if got, err := decodeCounter(appendCounter(nil, n)); err != nil || got != n {
			t.Fatalf("%d became %d, %v", n, got, err)
		}
		c := LevelCount{n, anyTime.Draw(t, "out")}
		if got, err := decodeLevel(appendLevel(nil, c)); err != nil || got != c {
			t.Fatalf("%+v became %+v, %v", c, got, err)
		}
	})
}

// Rows stand in the order in which timers fire.
func TestKeysAreInTheOrderOfPoints(t *testing.T) {
	near := rapid.Custom(func(t *rapid.T) Point {
		return Point{Due: rapid.Int64Range(254, 258).Draw(t, "due"), Origin: record.Position(rapid.Int64Range(254, 258).Draw(t, "origin"))}
	})
	rapid.Check(t, func(t *rapid.T) {
		points := rapid.OneOf(near, anyPoint)
		a, b := points.Draw(t, "a"), points.Draw(t, "b")
		if a.Before(b) != (string(a.appendKey(nil)) < string(b.appendKey(nil))) {
			t.Fatalf("%+v before %+v is %v", a, b, a.Before(b))
		}
	})
}

func TestARangeThatEndsBeforeItBeginsPanics(t *testing.T) {
	for _, f := range []Fire{{Point{2, 1}, Point{1, 9}}, {Point{2, 9}, Point{2, 1}}, {Point{-1, 0}, Point{1, 1}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v became a record", f)
				}
			}()
			f.Record()
		}()
	}
}

// What is read must be the same when it is written and read again.
func FuzzRecords(f *testing.F) {
	f.Add(Fire{Point{1, 2}, Point{300, 4}}.Record().Payload)
	f.Add(Fire{Point{}, Point{math.MaxInt64, math.MaxInt64}}.Record().Payload)
	f.Add(Recall{Point{1, 2}, 3}.Record().Payload)
	f.Add([]byte{recordForm + 1, 1, 1, 1, 1})
	// A range whose end is beyond what a time can be.
	f.Add([]byte{recordForm, 1, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f, 0})
	f.Fuzz(func(t *testing.T, payload []byte) {
		if r, err := decodeFire(payload); err == nil {
			if again, err := decodeFire(r.Record().Payload); err != nil || again != r {
				t.Fatalf("%+v became %+v, %v", r, again, err)
			}
		}
		if r, err := decodeRecall(payload); err == nil {
			if again, err := decodeRecall(r.Record().Payload); err != nil || again != r {
				t.Fatalf("%+v became %+v, %v", r, again, err)
			}
		}
	})
}

func FuzzRows(f *testing.F) {
	timer := Timer{Point: Point{1, 2}, Topic: 3, Queue: 4, Position: 500, Size: 6, TagHash: -7, Level: 8, Hour: 9}
	f.Add(timer.appendKey(nil), timer.appendTo(nil))
	f.Add([]byte{byte(kvindex.SpaceTimerCounter)}, appendCounter(nil, 9))
	f.Add([]byte{byte(kvindex.SpaceDelayLevel)}, appendLevel(nil, LevelCount{9, 300}))
	f.Add(Point{math.MaxInt64, math.MaxInt64}.appendKey(nil), timer.appendTo(nil))
	f.Fuzz(func(t *testing.T, key, val []byte) {
		var timer, again Timer
		if timer.decode(key, val) == nil {
			if err := again.decode(timer.appendKey(nil), timer.appendTo(nil)); err != nil || again != timer {
				t.Fatalf("%+v became %+v, %v", timer, again, err)
			}
		}
		if n, err := decodeCounter(val); err == nil && (n < 0 || string(appendCounter(nil, n)) != string(val)) {
			t.Fatalf("counter %x", val)
		}
		if c, err := decodeLevel(val); err == nil {
			if again, err := decodeLevel(appendLevel(nil, c)); err != nil || again != c {
				t.Fatalf("%+v became %+v, %v", c, again, err)
			}
		}
		for _, space := range []kvindex.Space{kvindex.SpaceTimer, kvindex.SpaceLongTimer, kvindex.SpaceTimerCounter, kvindex.SpaceDelayLevel} {
			if _, _, text := kvindex.Describe(append([]byte{byte(space)}, key...), val); text == "" {
				t.Fatalf("%v row %x is printed as nothing", space, val)
			}
		}
	})
}

func TestHandles(t *testing.T) {
	word := rapid.StringMatching(`[A-Za-z0-9_%-]{1,40}`)
	rapid.Check(t, func(t *rapid.T) {
		h := Handle{Topic: word.Draw(t, "topic"), Broker: word.Draw(t, "broker"), Due: anyTime.Draw(t, "due"), UniqueID: word.Draw(t, "id"),
			Origin: record.Position(rapid.Int64Range(-1, math.MaxInt64).Draw(t, "origin"))}
		if got, err := ParseHandle(h.String()); err != nil || got != h {
			t.Fatalf("%+v became %+v, %v", h, got, err)
		}
		if got, err := ParseHandle(strings.TrimRight(h.String(), "=")); err != nil || got != h {
			t.Fatalf("without its padding %+v became %+v, %v", h, got, err)
		}
	})
	for text, want := range map[string]Handle{
		// "v1 topic broker-a 1795255200000 0A0B0C": five parts, as the reference makes them.
		"djEgdG9waWMgYnJva2VyLWEgMTc5NTI1NTIwMDAwMCAwQTBCMEM=":         {"topic", "broker-a", base, "0A0B0C", -1},
		"djEgdG9waWMgYnJva2VyLWEgMTc5NTI1NTIwMDAwMCAwQTBCMEMgNDA5Ng==": {"topic", "broker-a", base, "0A0B0C", 4096},
	} {
		if got, err := ParseHandle(text); err != nil || got != want || want.String() != text {
			t.Errorf("%s became %+v, %v; %+v became %s", text, got, err, want, want)
		}
	}
}

func TestWhatIsNoHandle(t *testing.T) {
	encode := func(plain string) string { return base64.URLEncoding.EncodeToString([]byte(plain)) }
	for _, text := range []string{
		"", "=", "!", "djE", encode(""), encode("v1"), encode("v1 t b 1"), encode("v2 t b 1 u 2"), encode("v1 t b x u 2"),
		encode("v1 t b -1 u"), encode("v1 t b 1 u -1"), encode("v1 t b 1 u x"), encode("v1 t b 1 u 2 3"), encode("v1 t b 1 u "),
		encode("v1 t b 9223372036854775808 u"), encode("v1 t b 1 u 9223372036854775808"),
	} {
		if got, err := ParseHandle(text); !errors.Is(err, ErrHandle) {
			t.Errorf("%q was read as %+v, %v", text, got, err)
		}
	}
}

func FuzzParseHandle(f *testing.F) {
	f.Add(Handle{"t", "b", 1, "u", 2}.String())
	f.Add(Handle{"t", "b", 1, "u", -1}.String())
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		h, err := ParseHandle(text)
		if err != nil {
			if !errors.Is(err, ErrHandle) {
				t.Fatal(err)
			}
			return
		}
		if again, err := ParseHandle(h.String()); err != nil || again != h {
			t.Fatalf("%+v became %+v, %v", h, again, err)
		}
	})
}

func TestLevels(t *testing.T) {
	levels, err := ParseLevels(DefaultLevels)
	if err != nil || len(levels) != 18 {
		t.Fatal(levels, err)
	}
	for level, want := range map[int32]time.Duration{1: time.Second, 4: 30 * time.Second, 5: time.Minute, 17: time.Hour, 18: 2 * time.Hour} {
		if d, l := levels.Delay(level); d != want || l != level {
			t.Errorf("level %d is %v of level %d", level, d, l)
		}
	}
	if d, l := levels.Delay(19); d != 2*time.Hour || l != 18 {
		t.Errorf("a level beyond the last is %v of level %d", d, l)
	}
	if levels, err = ParseLevels("  1s\t90m 36500d "); err != nil || len(levels) != 3 || levels[1] != 90*time.Minute || levels[2] != 36500*24*time.Hour {
		t.Fatal(levels, err)
	}
	for _, bad := range []string{
		"", "  ", "1", "s", "d", "0s", "-1s", "+1s", "1.5s", "1ms", "1000ms", "1h30m", "1h1d", "1s2d", "36501d", "9223372036854775807d",
		"18446744073709551616s", "1s,2s", "1S",
	} {
		if levels, err := ParseLevels("1s " + bad); err == nil && strings.TrimSpace(bad) != "" {
			t.Errorf("%q was read as %v", bad, levels)
		}
	}
	if levels, err := ParseLevels(" "); err == nil {
		t.Errorf("no levels were read as %v", levels)
	}
}

func FuzzParseLevels(f *testing.F) {
	f.Add(DefaultLevels)
	f.Add("1s 2x")
	f.Fuzz(func(t *testing.T, text string) {
		levels, err := ParseLevels(text)
		if err != nil {
			return
		}
		for i, d := range levels {
			if d < time.Second || d > 100*365*24*time.Hour || d%time.Second != 0 {
				t.Fatalf("%q: level %d is %v", text, i+1, d)
			}
		}
		if len(levels) != len(strings.Fields(text)) {
			t.Fatalf("%q: %v", text, levels)
		}
	})
}
