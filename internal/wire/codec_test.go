package wire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func javaFrames(t testing.TB) map[string][]byte {
	t.Helper()
	text, err := os.ReadFile("testdata/java-frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	frames := map[string][]byte{}
	for _, line := range strings.Split(string(text), "\n") {
		name, digits, ok := strings.Cut(line, " ")
		if !ok || strings.HasPrefix(line, "#") {
			continue
		}
		if frames[name], err = hex.DecodeString(digits); err != nil {
			t.Fatal(err)
		}
	}
	return frames
}

const sendProperties = "KEYS\x01k1 k2\x02UNIQ_KEY\x017F0000010BFA251A69D759A1B2C30000\x02WAIT\x01true\x02" +
	"TAGS\x01ä中😀\"\\/\x02"

// Frames of the Java codec are read as what was put in, and written back byte for byte.
func TestJavaFrames(t *testing.T) {
	for name, frame := range javaFrames(t) {
		t.Run(name, func(t *testing.T) {
			c, err := Decode(bytes.Clone(frame[4:]))
			if err != nil {
				t.Fatal(err)
			}
			if got := c.AppendEncode(nil); !bytes.Equal(got, frame) {
				t.Fatalf("encoded\n%q, want\n%q", got, frame)
			}
			if c.Language != Java || c.Version != Version5_5_0 {
				t.Errorf("language %v, version %d", c.Language, c.Version)
			}
			codec, what, _ := strings.Cut(name, ":")
			if c.Serialize.String() != codec {
				t.Errorf("serialize %v", c.Serialize)
			}
			switch what {
			case "send":
				checkSend(t, c)
			case "pull":
				next, err := c.Fields.Int64("nextBeginOffset")
				if c.Code != 0 || !c.IsResponse() || c.Remark != "FOUND" || next != 12 || err != nil || len(c.Body) != 3 {
					t.Errorf("%+v", c)
				}
			case "pop":
				if c.Code != PopMessage || c.Fields.Text("consumerGroup") != "G" || c.Body != nil {
					t.Errorf("%+v", c)
				}
			case "oneway":
				if !c.IsOneWay() || c.Remark != "tab\tquote\"" || len(c.Fields) != 0 {
					t.Errorf("%+v", c)
				}
			default:
				t.Errorf("unknown frame")
			}
		})
	}
}

func checkSend(t *testing.T, c *Command) {
	t.Helper()
	if c.Code != SendMessageV2 || c.Opaque != 7 || c.IsResponse() || c.IsOneWay() || string(c.Body) != "hello" {
		t.Errorf("%+v", c)
	}
	want := Fields{
		{"a", "producers"}, {"b", "TopicTest"}, {"c", "TBW102"}, {"d", "4"}, {"e", "3"}, {"f", "0"}, {"g", "1795000000123"}, {"h", "0"},
		{"i", sendProperties}, {"j", "0"}, {"k", "false"}, {"m", "false"}, {"bname", "broker-a"},
	}
	for _, f := range want {
		if got, ok := c.Fields.Get(f.Key); !ok || got != f.Value {
			t.Errorf("%s = %q, want %q", f.Key, got, f.Value)
		}
	}
}

func jsonFrame(header string) []byte {
	n := len(header)
	return append([]byte{0, byte(n >> 16), byte(n >> 8), byte(n)}, header...)
}

func TestJSONTolerance(t *testing.T) {
	c, err := Decode(jsonFrame(` { "code" : "10" , "flag":0,"version":317,"language":"GO","unknown":{"a":[1,{"b":"\u0041"}]},
		"extFields":{"n":12,"f":-1.5e3,"t":true,"z":null,"s":"\u00e4\ud83d\ude00\ud83dx\/","o":{"k" : [1]},"d":"1","d":"2"},
		"opaque":-3,"remark":null,"serializeTypeCurrentRPC":"JSON"}` + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Code != 10 || c.Version != 317 || c.Language != Go || c.Opaque != -3 || c.Remark != "" {
		t.Errorf("%+v", c)
	}
	want := map[string]string{"n": "12", "f": "-1.5e3", "t": "true", "s": "ä😀\uFFFDx/", "o": `{"k" : [1]}`, "d": "2"}
	for k, v := range want {
		if got, ok := c.Fields.Get(k); !ok || got != v {
			t.Errorf("%s = %q, want %q", k, got, v)
		}
	}
	if _, ok := c.Fields.Get("z"); ok {
		t.Error("null is there")
	}
	for name, header := range map[string]string{
		"language by number": `{"code":1,"language":12}`, "language unknown": `{"language":"ZIG"}`, "null numbers": `{"code":null}`,
		"no fields": `{"extFields":null}`, "empty": `{}`, "raw control character": "{\"remark\":\"a\x01b\"}",
	} {
		if _, err := Decode(jsonFrame(header)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMalformed(t *testing.T) {
	deep := strings.Repeat("[", 100) + strings.Repeat("]", 100)
	many := `{"extFields":{` + strings.Repeat(`"k":"v",`, maxFields) + `"k":"v"}}`
	headers := []string{
		``, `{`, `[]`, `{"code"}`, `{"code":}`, `{"code":1,}`, `{"code":1}x`, `{"code":1.5}`, `{"code":99999999999}`, `{"code":"x"}`,
		`{"code":01}`, `{"a":-}`, `{"a":1.}`, `{"a":1e}`, `{"a":tru}`, `{"a":"\x"}`, `{"a":"\u12g4"}`, `{"a":"\u12`, `{"a":"x`, `{"a":"\`,
		`{"extFields":5}`, `{"extFields":{"a"}}`, `{"extFields":{"a":"\q"}}`, `{"x":` + deep + `}`, many, `{code:1}`, `{'code':1}`,
	}
	for _, h := range headers {
		if _, err := Decode(jsonFrame(h)); !errors.Is(err, ErrHeader) {
			t.Errorf("%.40q: %v", h, err)
		}
	}
	for _, f := range [][]byte{nil, {0, 0, 0}, {0, 0, 0, 1}, {2, 0, 0, 0}, {0, 0xFF, 0xFF, 0xFF, '{', '}'}} {
		if _, err := Decode(f); !errors.Is(err, ErrFrame) {
			t.Errorf("%v: %v", f, err)
		}
	}
	good := javaFrames(t)["ROCKETMQ:send"][4:]
	header := int(good[2])<<8 | int(good[3])
	for n := 0; n < header; n++ {
		cut := append([]byte{1, 0, byte(n >> 8), byte(n)}, good[4:4+n]...)
		if _, err := Decode(cut); !errors.Is(err, ErrHeader) {
			t.Fatalf("a binary header of %d of %d bytes: %v", n, header, err)
		}
	}
}

// Binary codes have 16 bits: those of POP come back, those of responses are left as they are.
func TestCutCodes(t *testing.T) {
	for code := PopMessage; code <= BatchAckMessage; code++ {
		c := &Command{Code: code, Serialize: Binary}
		got, err := Decode(c.AppendEncode(nil)[4:])
		if err != nil || got.Code != code {
			t.Fatalf("%d came as %d, %v", code, got.Code, err)
		}
	}
	c := &Command{Code: cutFirst, Serialize: Binary, Flag: flagResponse}
	if got, err := Decode(c.AppendEncode(nil)[4:]); err != nil || got.Code != cutFirst {
		t.Fatalf("a response of code %d came as %+v, %v", cutFirst, got, err)
	}
}

func TestFieldErrors(t *testing.T) {
	f := Fields{{"n", "12"}, {"big", "3000000000"}, {"bad", "x"}, {"yes", "true"}, {"empty", ""}}
	var fe *FieldError
	if _, err := f.Int32("none"); !errors.As(err, &fe) || !fe.Missing || fe.Field != "none" {
		t.Error(err)
	}
	if _, err := f.Int32("big"); !errors.As(err, &fe) || fe.Missing || fe.Type != "int32" || fe.Value != "3000000000" {
		t.Error(err)
	}
	if _, err := f.Bool("bad"); !errors.As(err, &fe) || fe.Type != "bool" {
		t.Error(err)
	}
	if n, err := f.Int64("big"); n != 3000000000 || err != nil {
		t.Error(n, err)
	}
	if n, err := f.Int32Or("empty", 7); n != 7 || err != nil {
		t.Error(n, err)
	}
	if n, err := f.Int64Or("bad", 7); err == nil {
		t.Error(n)
	}
	if b, err := f.BoolOr("yes", false); !b || err != nil {
		t.Error(b, err)
	}
	if _, err := f.Need("empty"); !errors.As(err, &fe) || !fe.Missing {
		t.Error(err)
	}
	f.Set("n", "13")
	f.Set("new", "1")
	if f.Text("n") != "13" || f.Text("new") != "1" || len(f) != 6 {
		t.Error(f)
	}
}

func genCommand() *rapid.Generator[*Command] {
	return rapid.Custom(func(t *rapid.T) *Command {
		c := &Command{
			Code:      int(rapid.Int16Range(0, 3000).Draw(t, "code")),
			Language:  Language(rapid.IntRange(0, int(NodeJS)).Draw(t, "language")),
			Version:   rapid.IntRange(0, 1000).Draw(t, "version"),
			Opaque:    rapid.Int32().Draw(t, "opaque"),
			Flag:      rapid.Int32Range(0, 3).Draw(t, "flag"),
			Remark:    rapid.String().Draw(t, "remark"),
			Serialize: Serialize(rapid.IntRange(0, 1).Draw(t, "serialize")),
			Body:      rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "body"),
		}
		for i, n := 0, rapid.IntRange(0, 20).Draw(t, "fields"); i < n; i++ {
			c.Fields.Set(rapid.String().Draw(t, "key"), rapid.String().Draw(t, "value"))
		}
		return c
	})
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genCommand().Draw(t, "command")
		frame := c.AppendEncode(nil)
		if n := int(frame[0])<<24 | int(frame[1])<<16 | int(frame[2])<<8 | int(frame[3]); n != len(frame)-4 {
			t.Fatalf("the length is %d of %d", n, len(frame)-4)
		}
		got, err := Decode(bytes.Clone(frame[4:]))
		if err != nil {
			t.Fatal(err)
		}
		defer got.Release()
		checkEqual(t, got, c)
	})
}

func checkEqual(t interface{ Fatalf(string, ...any) }, got, want *Command) {
	if got.Code != want.Code || got.Language != want.Language || got.Version != want.Version || got.Opaque != want.Opaque ||
		got.Flag != want.Flag || got.Remark != want.Remark || got.Serialize != want.Serialize || !bytes.Equal(got.Body, want.Body) {
		t.Fatalf("%+v, want %+v", got, want)
	}
	if len(got.Fields) != len(want.Fields) {
		t.Fatalf("%d fields, want %d", len(got.Fields), len(want.Fields))
	}
	for i := range want.Fields {
		if got.Fields[i] != want.Fields[i] {
			t.Fatalf("field %d: %q, want %q", i, got.Fields[i], want.Fields[i])
		}
	}
}

// oracle reads a header with encoding/json by the rules that decodeJSON states.
func oracle(header []byte) (*Command, bool) {
	var top map[string]json.RawMessage
	if !json.Valid(header) || json.Unmarshal(header, &top) != nil || top == nil {
		return nil, false
	}
	c := &Command{}
	text := func(raw json.RawMessage) string {
		var s string
		if len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, &s) == nil {
			return s
		}
		return string(raw)
	}
	ok := true
	integer := func(key string) int {
		raw := top[key]
		if raw == nil || string(raw) == "null" {
			return 0
		}
		n, err := strconv.ParseInt(text(raw), 10, 32)
		ok = ok && err == nil
		return int(n)
	}
	c.Code, c.Version = integer("code"), integer("version")
	c.Opaque, c.Flag = int32(integer("opaque")), int32(integer("flag"))
	if raw := top["language"]; raw != nil && string(raw) != "null" {
		if n, err := strconv.ParseInt(text(raw), 10, 64); err == nil && n >= 0 && n < 256 {
			c.Language = Language(n)
		} else {
			c.Language = languageOf([]byte(text(raw)))
		}
	}
	if raw := top["remark"]; raw != nil && string(raw) != "null" {
		c.Remark = text(raw)
	}
	if raw := top["extFields"]; raw != nil && string(raw) != "null" {
		var fields map[string]json.RawMessage
		if json.Unmarshal(raw, &fields) != nil {
			return nil, false
		}
		for k, v := range fields {
			if string(v) != "null" {
				c.Fields.Add(k, text(v))
			}
		}
	}
	return c, ok
}

// The scanner and encoding/json agree on every header that encoding/json accepts; what only the scanner accepts has raw
// control characters, the escape \' or a number with many digits in a field that must be a small one.
func FuzzJSON(f *testing.F) {
	for name, frame := range javaFrames(f) {
		if strings.HasPrefix(name, "JSON") {
			f.Add(frame[8 : 8+int(frame[6])<<8+int(frame[7])])
		}
	}
	f.Add([]byte(`{"code":"1","extFields":{"a":1.5,"b":null,"c":[{}],"d":"\ud83d\ude00\ud800"},"remark":null,"x":{"y":[true,false]}}`))
	f.Fuzz(func(t *testing.T, header []byte) {
		if len(header) > 1<<16 {
			return
		}
		want, valid := oracle(header)
		got := &Command{}
		err := got.decodeJSON(bytes.Clone(header))
		if !utf8.Valid(header) || hasDuplicates(got.Fields) || duplicateTop(header) {
			return // encoding/json replaces bytes, and keeps a nulled duplicate
		}
		switch {
		case valid && err != nil:
			// Digits beyond 18, and nesting beyond maxDepth, are ours to refuse.
			if !bytes.Contains(header, []byte("0000000000")) && bytes.Count(header, []byte("["))+bytes.Count(header, []byte("{")) < maxDepth {
				t.Fatalf("refused %q: %v", header, err)
			}
		case err == nil && !valid:
			if json.Valid(header) {
				t.Fatalf("accepted %q", header)
			}
			if !bytes.ContainsFunc(header, func(r rune) bool { return r < ' ' }) && !bytes.Contains(header, []byte(`\'`)) {
				t.Fatalf("accepted what is not JSON: %q", header)
			}
		case err == nil:
			compare(t, header, got, want)
		}
	})
}

func hasDuplicates(f Fields) bool {
	seen := map[string]bool{}
	for _, x := range f {
		if seen[x.Key] {
			return true
		}
		seen[x.Key] = true
	}
	return false
}

// duplicateTop is true when a key of the header may come twice, in whatever spelling.
func duplicateTop(header []byte) bool {
	var top map[string]json.RawMessage
	if json.Unmarshal(header, &top) != nil {
		return false
	}
	colons := bytes.Count(header, []byte(":"))
	n := len(top)
	var fields map[string]json.RawMessage
	if json.Unmarshal(top["extFields"], &fields) == nil {
		n += len(fields)
	}
	return colons != n
}

func compare(t *testing.T, header []byte, got, want *Command) {
	t.Helper()
	if got.Code != want.Code || got.Language != want.Language || got.Version != want.Version || got.Opaque != want.Opaque ||
		got.Flag != want.Flag || got.Remark != want.Remark || len(got.Fields) != len(want.Fields) {
		t.Fatalf("%q: %+v, want %+v", header, got, want)
	}
	for _, f := range want.Fields {
		if v, ok := got.Fields.Get(f.Key); !ok || v != f.Value {
			t.Fatalf("%q: %s is %q, want %q", header, f.Key, v, f.Value)
		}
	}
}

// Whatever is accepted as a binary header is read again as the same after it was written.
func FuzzBinary(f *testing.F) {
	for name, frame := range javaFrames(f) {
		if strings.HasPrefix(name, "ROCKETMQ") {
			f.Add(frame[4:])
		}
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < 4 {
			return
		}
		frame = append([]byte{1}, frame[1:]...)
		got, err := Decode(bytes.Clone(frame))
		if err != nil {
			if !errors.Is(err, ErrFrame) && !errors.Is(err, ErrHeader) {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		again, err := Decode(got.AppendEncode(nil)[4:])
		if err != nil {
			t.Fatal(err)
		}
		checkEqual(t, again, got)
	})
}

func BenchmarkDecodeSendV2(b *testing.B) {
	for _, name := range []string{"JSON:send", "ROCKETMQ:send"} {
		b.Run(name, func(b *testing.B) {
			frame := javaFrames(b)[name][4:]
			buf := make([]byte, len(frame))
			b.ReportAllocs()
			b.SetBytes(int64(len(frame)))
			for b.Loop() {
				copy(buf, frame)
				c, err := Decode(buf)
				if err != nil {
					b.Fatal(err)
				}
				c.Release()
			}
		})
	}
}

func BenchmarkEncodeSendResponse(b *testing.B) {
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		c := NewRequest(Success)
		c.Fields.Add("queueId", "3")
		c.Fields.Add("TRACE_ON", "true")
		c.Fields.Add("MSG_REGION", "DefaultRegion")
		c.Fields.Add("msgId", "7F00000100002A9F00000000000003D5")
		c.Fields.AddInt("queueOffset", 1234567)
		buf = c.AppendEncode(buf[:0])
		c.Release()
	}
}
