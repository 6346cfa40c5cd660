package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// raw is a client that writes frames as it likes.
type raw struct {
	testing.TB
	nc net.Conn
	*http2.Framer
	block bytes.Buffer
	table *hpack.Encoder
}

func newRaw(t testing.TB, nc net.Conn) *raw {
	t.Helper()
	c := &raw{TB: t, nc: nc, Framer: http2.NewFramer(nc, nc)}
	c.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	c.table = hpack.NewEncoder(&c.block)
	t.Cleanup(func() { nc.Close() })
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	c.must(c.WriteSettings())
	return c
}

func (r *rig) raw() *raw {
	r.Helper()
	nc, err := net.Dial("tcp", r.addr)
	if err != nil {
		r.Fatal(err)
	}
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		r.Fatal(err)
	}
	return newRaw(r, nc)
}

func (c *raw) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

// fields of a call, and what differs from a usual one as "name: value"; "-name" leaves a field out.
func (c *raw) fields(name string, differ ...string) []byte {
	fields := []string{":method: POST", ":scheme: http", ":path: /" + serviceName + "/" + name, ":authority: here", "content-type: application/grpc", "te: trailers"}
	for _, d := range differ {
		if left, out := strings.CutPrefix(d, "-"); out {
			for i, f := range fields {
				if strings.HasPrefix(f, left+": ") {
					fields = append(fields[:i], fields[i+1:]...)
					break
				}
			}
			continue
		}
		fields = append(fields, d)
	}
	c.block.Reset()
	for _, f := range fields {
		i := strings.Index(f[1:], ": ") + 1
		c.must(c.table.WriteField(hpack.HeaderField{Name: f[:i], Value: f[i+2:]}))
	}
	return c.block.Bytes()
}

func (c *raw) open(id uint32, name string, differ ...string) {
	c.Helper()
	c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(name, differ...), EndHeaders: true}))
}

// request is a message as it is sent.
func request(value []byte) []byte {
	b, err := proto.Marshal(wrapperspb.Bytes(value))
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b))), b...)
}

// next is the next frame that tells something, in words.
func (c *raw) next() string {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.SettingsFrame, *http2.WindowUpdateFrame:
		case *http2.GoAwayFrame:
			return "go away: " + f.ErrCode.String()
		case *http2.RSTStreamFrame:
			return fmt.Sprintf("reset %d: %s", f.StreamID, f.ErrCode)
		case *http2.DataFrame:
			return fmt.Sprintf("data %d: %d", f.StreamID, f.Length)
		case *http2.PingFrame:
			return fmt.Sprintf("ping %v", f.IsAck())
		case *http2.MetaHeadersFrame:
			words := []string{fmt.Sprintf("header %d:", f.StreamID)}
			for _, h := range f.Fields {
				if h.Name == ":status" && h.Value != "200" || h.Name == "grpc-status" {
					words = append(words, h.Name+"="+h.Value)
				}
			}
			return strings.Join(words, " ")
		default:
			return fmt.Sprintf("%v", f)
		}
	}
}

func (c *raw) want(words ...string) {
	c.Helper()
	for _, want := range words {
		if got := c.next(); got != want {
			c.Fatalf("%q, want %q", got, want)
		}
	}
}

func TestFramesOfACall(t *testing.T) {
	c := newRig(t).raw()
	c.open(1, "Echo")
	whole := request([]byte("abc"))
	for _, b := range whole { // a byte in each frame, with padding
		c.must(c.WriteDataPadded(1, false, []byte{b}, make([]byte, 5)))
	}
	c.must(c.WriteData(1, true, nil))
	c.want("header 1:", fmt.Sprintf("data 1: %d", len(whole)), "header 1: grpc-status=0")
	// the header in pieces
	block := bytes.Clone(c.fields("Echo", "x-long: "+strings.Repeat("x", 5000)))
	c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block[:10]}))
	c.must(c.WriteContinuation(3, false, block[10:3000]))
	c.must(c.WriteContinuation(3, true, block[3000:]))
	c.must(c.WriteData(3, true, whole))
	c.want("header 3:", fmt.Sprintf("data 3: %d", len(whole)), "header 3: grpc-status=0")
	// ended by trailers
	c.open(5, "Echo")
	c.must(c.WriteData(5, false, whole))
	c.block.Reset()
	c.must(c.table.WriteField(hpack.HeaderField{Name: "x-trailer", Value: "1"}))
	c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 5, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: true}))
	c.want("header 5:", fmt.Sprintf("data 5: %d", len(whole)), "header 5: grpc-status=0")
	// the last message of several has the end with it
	c.open(7, "Chat")
	c.must(c.WriteData(7, false, whole))
	c.must(c.WriteData(7, true, append(bytes.Clone(whole), whole...)))
	each := fmt.Sprintf("data 7: %d", len(whole))
	c.want("header 7:", each, each, each, "header 7: grpc-status=0")
	c.must(c.WritePing(false, [8]byte{1}))
	c.want("ping true")
}

// What is wrong with a call ends that call, and no other.
func TestBadCalls(t *testing.T) {
	c := newRig(t).raw()
	id := uint32(1)
	begin := func(differ ...string) {
		t.Helper()
		c.open(id, "Echo", differ...)
	}
	expect := func(words ...string) {
		t.Helper()
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "ID", fmt.Sprint(id))
		}
		c.want(words...)
		id += 2
	}
	begin("-:method", ":method: GET")
	expect("reset ID: PROTOCOL_ERROR") // after another field
	c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, EndStream: true, BlockFragment: func() []byte {
		c.block.Reset()
		for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}} {
			c.must(c.table.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
		}
		return c.block.Bytes()
	}()}))
	expect("header ID: :status=405 grpc-status=13")
	begin("-content-type", "content-type: text/plain")
	expect("header ID: :status=415 grpc-status=3", "reset ID: NO_ERROR")
	begin("grpc-timeout: soon")
	expect("header ID: grpc-status=13", "reset ID: NO_ERROR")
	for _, differ := range []string{"-:path", "-:scheme", "-:method", ":method: POST", ":other: 1", "Upper: 1", "connection: close", "te: gzip"} {
		begin(differ)
		expect("reset ID: PROTOCOL_ERROR")
	}
	begin("x-long: "+strings.Repeat("x", 9000), "x-more: "+strings.Repeat("y", 9000)) // more than is taken
	expect("reset ID: ENHANCE_YOUR_CALM")
	whole := request([]byte("abc"))
	begin()
	c.must(c.WriteData(id, true, nil))
	expect("header ID: grpc-status=13") // no request
	begin()
	c.must(c.WriteData(id, true, whole[:6]))
	expect("header ID: grpc-status=13") // half of one
	begin()
	c.must(c.WriteData(id, true, append(whole, whole...)))
	expect("header ID: grpc-status=13") // two
	begin()
	c.must(c.WriteData(id, true, []byte{7, 0, 0, 0, 0}))
	expect("header ID: grpc-status=13")
	begin("grpc-encoding: snappy")
	c.must(c.WriteData(id, true, append([]byte{1}, whole[1:]...)))
	expect("header ID: grpc-status=12")
	begin()
	c.must(c.WriteData(id, true, []byte{0, 0, 0, 0, 1, 0xff}))
	expect("header ID: grpc-status=13") // no protobuf
	begin()
	c.must(c.WriteData(id, false, []byte{0, 0xff, 0, 0, 0}))
	expect("header ID: grpc-status=8", "reset ID: NO_ERROR") // longer than any may be
	begin()
	c.must(c.WriteWindowUpdate(id, maxWindow))
	expect("reset ID: FLOW_CONTROL_ERROR")
	begin()
	c.must(c.WriteData(id, true, whole))
	expect("header ID:", fmt.Sprintf("data ID: %d", len(whole)), "header ID: grpc-status=0")
}

// What is wrong with a connection ends it, with the reason.
func TestBadConnections(t *testing.T) {
	r := newRig(t)
	for name, do := range map[string]func(c *raw) (why string){
		"an even id": func(c *raw) string {
			c.open(2, "Echo")
			return "PROTOCOL_ERROR"
		},
		"data of no call": func(c *raw) string {
			c.must(c.WriteData(1, true, []byte("x")))
			return "PROTOCOL_ERROR"
		},
		"the end of no call": func(c *raw) string {
			c.must(c.WriteRSTStream(1, http2.ErrCodeCancel))
			return "PROTOCOL_ERROR"
		},
		"a window of no call": func(c *raw) string {
			c.must(c.WriteWindowUpdate(1, 1))
			return "PROTOCOL_ERROR"
		},
		"a window too wide": func(c *raw) string {
			c.must(c.WriteWindowUpdate(0, maxWindow))
			return "FLOW_CONTROL_ERROR"
		},
		"a call twice": func(c *raw) string {
			c.open(1, "Echo")
			c.must(c.WriteRSTStream(1, http2.ErrCodeCancel))
			c.open(1, "Echo")
			return "STREAM_CLOSED"
		},
		"a header that cannot be read": func(c *raw) string {
			c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0xff, 0xff, 0xff, 0xff, 0xff}, EndHeaders: true}))
			return "COMPRESSION_ERROR"
		},
		"a header that does not end": func(c *raw) string {
			c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 10_000)}))
			c.must(c.WriteContinuation(1, false, make([]byte, 10_000)))
			return "ENHANCE_YOUR_CALM"
		},
		"another frame in a header": func(c *raw) string {
			c.must(c.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: make([]byte, 10)}))
			c.must(c.WritePing(false, [8]byte{}))
			return "PROTOCOL_ERROR"
		},
		"a frame too large": func(c *raw) string {
			c.AllowIllegalWrites = true
			c.must(c.WriteRawFrame(http2.FramePing, 0, 0, make([]byte, maxFrame+1)))
			return "FRAME_SIZE_ERROR"
		},
		"a setting that cannot be": func(c *raw) string {
			c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 31}))
			return "FLOW_CONTROL_ERROR"
		},
		"a promise": func(c *raw) string {
			c.must(c.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: []byte{}, EndHeaders: true}))
			return "PROTOCOL_ERROR"
		},
		"pings without end": func(c *raw) string {
			for range maxStrikes + 2 {
				c.must(c.WritePing(false, [8]byte{}))
			}
			c.want("ping true", "ping true", "ping true")
			return "ENHANCE_YOUR_CALM"
		},
		"more than the window": func(c *raw) string {
			c.open(1, "Wait")
			for range connWindow/maxFrame + 1 { // of a call that is over
				if c.WriteData(1, false, make([]byte, maxFrame)) != nil {
					break
				}
			}
			c.want("header 1: grpc-status=13", "reset 1: NO_ERROR")
			return ""
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := r.raw()
			c.TB = t
			why := do(c)
			if why == "" {
				return
			}
			c.want("go away: "+why, "closed")
		})
	}
	if _, err := invoke(r.ctx(), r.client(), "Echo", 10); err != nil {
		t.Errorf("another client: %v", err)
	}
}

// A client that begins calls and takes them back at once has no more handlers than calls that it may have.
func TestRapidReset(t *testing.T) {
	free := make(chan struct{})
	r := newRig(t, func(o *Options) { o.MaxCalls = 5 })
	r.freed = free
	c := r.raw()
	const calls = 200
	refused := 0
	for i := range uint32(calls) {
		c.open(2*i+1, "Wait")
		c.must(c.WriteData(2*i+1, true, request(nil)))
		c.must(c.WriteRSTStream(2*i+1, http2.ErrCodeCancel))
	}
	c.must(c.WritePing(false, [8]byte{}))
	for got := c.next(); got != "ping true"; got = c.next() {
		if !strings.HasSuffix(got, ": REFUSED_STREAM") {
			t.Fatal(got)
		}
		refused++
	}
	eventually(t, "handlers run", func() bool { return r.waiting.Load() == 5 })
	if refused != calls-5 {
		t.Errorf("%d of %d were refused", refused, calls)
	}
	close(free)
	eventually(t, "handlers have ended", func() bool { return r.waiting.Load() == 0 })
	eventually(t, "calls are taken again", func() bool {
		n, err := invoke(r.ctx(), r.client(), "Echo", 10)
		return err == nil && n == 10
	})
}

// A client that asks for answers and reads none has the server stop reading, and costs it no more than that.
func TestClientThatReadsNothing(t *testing.T) {
	r := newRig(t, func(o *Options) { o.LeastPing = 0 })
	c := r.raw()
	if err := c.nc.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var err error
	n := 0
	for ; err == nil && n < 10_000_000; n++ {
		err = c.WritePing(false, [8]byte{})
	}
	if !errors.Is(err, errTimeout(err)) {
		t.Errorf("%d pings were taken, then %v", n, err)
	}
	r.srv.mu.Lock()
	defer r.srv.mu.Unlock()
	for k := range r.srv.mu.conns {
		k.mu.Lock()
		if len(k.mu.bytes) > 2*maxQueued {
			t.Errorf("%d bytes wait for the client", len(k.mu.bytes))
		}
		k.mu.Unlock()
	}
}

// errTimeout is err when it is a time-out.
func errTimeout(err error) error {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return err
	}
	return errors.New("a time-out")
}

// Windows that shrink and grow while a call is under way are kept to.
func TestWindowsOfTheClient(t *testing.T) {
	c := newRig(t).raw()
	c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}))
	c.open(1, "Echo")
	whole := request(make([]byte, 95)) // 102 bytes
	c.must(c.WriteData(1, true, whole))
	c.want("header 1:", "data 1: 10")
	c.must(c.WriteWindowUpdate(1, 5))
	c.want("data 1: 5")
	c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})) // ten less
	c.must(c.WriteWindowUpdate(1, 17))
	c.want("data 1: 7")
	c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1000}))
	c.want(fmt.Sprintf("data 1: %d", len(whole)-22), "header 1: grpc-status=0")
}

// A client that has no room for an answer does not keep the reader from hearing that it has.
func TestPromptAnswerWithoutRoom(t *testing.T) {
	c := newRig(t).raw()
	c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}))
	whole := request(make([]byte, 95))
	for _, id := range []uint32{1, 3} {
		c.open(id, "Prompt")
		c.must(c.WriteData(id, true, whole))
		c.want(fmt.Sprintf("header %d:", id), fmt.Sprintf("data %d: 10", id))
	}
	c.must(c.WriteWindowUpdate(3, 1000))
	c.want(fmt.Sprintf("data 3: %d", len(whole)-10), "header 3: grpc-status=0")
	c.must(c.WriteWindowUpdate(1, 1000))
	c.want(fmt.Sprintf("data 1: %d", len(whole)-10), "header 1: grpc-status=0")
}

// together sends calls in one piece, and what else there is.
func (c *raw) together(name string, rest []byte, ids ...uint32) {
	c.Helper()
	var all bytes.Buffer
	out := http2.NewFramer(&all, nil)
	for _, id := range ids {
		c.must(out.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(name), EndHeaders: true}))
		c.must(out.WriteData(id, true, request(nil)))
	}
	all.Write(rest)
	if _, err := c.nc.Write(all.Bytes()); err != nil {
		c.Fatal(err)
	}
}

// What is put off is done for all requests that came together, and waits for no other.
func TestPutOff(t *testing.T) {
	r := newRig(t)
	c := r.raw()
	c.open(1, "Echo") // the preface is read when this is answered
	c.must(c.WriteData(1, true, request(nil)))
	c.want("header 1:", "data 1: 5", "header 1: grpc-status=0")
	c.together("Gather", nil, 3, 5, 7)
	for _, id := range []int{3, 5, 7} {
		c.want(fmt.Sprintf("header %d:", id), fmt.Sprintf("data %d: 10", id), fmt.Sprintf("header %d: grpc-status=0", id))
	}
	c.together("Gather", nil, 9)
	c.want("header 9:", "data 9: 8", "header 9: grpc-status=0")
	c.together("Gather", []byte{0, 0, 9, 0, 0}, 11) // and half of a frame's head
	c.want("header 11:", "data 11: 8", "header 11: grpc-status=0")
}

// It is done as well when the connection ends before its reader waits again.
func TestPutOffBeforeTheEnd(t *testing.T) {
	r := newRig(t)
	c := r.raw()
	c.together("Gather", []byte{0, 0, 0, 0, 0, 0, 0, 0, 0}, 1, 3) // data for no call
	for c.next() != "closed" {                                    // the answers may come in time, or not
	}
	eventually(t, "calls are flushed", func() bool { return r.flushed.Load() == 2 })
}

func FuzzConnection(f *testing.F) {
	seed := func(do func(c *raw)) {
		client, server := net.Pipe()
		var said bytes.Buffer
		read := make(chan struct{})
		go func() {
			_, _ = io.Copy(&said, server)
			close(read)
		}()
		c := newRaw(f, client)
		do(c)
		client.Close()
		<-read
		f.Add(said.Bytes()[len(http2.ClientPreface):])
	}
	seed(func(c *raw) {
		c.open(1, "Echo")
		c.must(c.WriteData(1, true, request([]byte("abc"))))
	})
	seed(func(c *raw) {
		c.open(1, "Chat")
		c.must(c.WriteData(1, false, request([]byte("abc"))))
		c.open(3, "Repeat")
		c.must(c.WriteData(3, true, request([]byte("a"))))
		c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10}))
		c.must(c.WriteWindowUpdate(0, 100))
		c.must(c.WriteWindowUpdate(3, 100))
		c.must(c.WriteRSTStream(1, http2.ErrCodeCancel))
		c.must(c.WritePing(false, [8]byte{1}))
		c.must(c.WriteGoAway(0, http2.ErrCodeNo, nil))
	})
	seed(func(c *raw) {
		c.must(c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 3}))
		for i, name := range []string{"Later", "Prompt", "Gather", "Later"} {
			c.open(uint32(2*i+1), name)
			c.must(c.WriteData(uint32(2*i+1), true, request([]byte("abc"))))
		}
		c.must(c.WriteRSTStream(1, http2.ErrCodeCancel))
		c.must(c.WriteWindowUpdate(3, 100))
	})
	o := Options{Codec: protobuf{}, Prompt: []string{"/" + serviceName + "/Prompt", "/" + serviceName + "/Gather"}, MaxRequest: 1 << 20, MaxHeaders: 16 << 10, MaxCalls: 10, Workers: 2, Idle: time.Minute, Ping: time.Minute, Pong: time.Minute}
	srv := New(o)
	srv.RegisterService(&trialDesc, &trial{ended: make(chan error, 1<<20)})
	f.Fuzz(func(t *testing.T, data []byte) {
		client, server := net.Pipe()
		done := make(chan struct{})
		c := newConn(srv, server)
		go func() {
			defer close(done)
			if c.greet() == nil {
				c.serve()
			}
		}()
		go func() { _, _ = io.Copy(io.Discard, client) }()
		_, _ = io.WriteString(client, http2.ClientPreface)
		_, _ = client.Write(data)
		client.Close()
		<-done // no handler is left behind
		if c.mu.active != 0 || len(c.mu.calls) != 0 {
			t.Fatalf("%d calls are active and %d known after the end", c.mu.active, len(c.mu.calls))
		}
	})
}
