// Package wire is RocketMQ's Remoting protocol as bytes: frames and their two header codecs, a server for connections
// that carry them, and a client.
//
// Read command.go and fields.go (what a frame holds), then json.go and binary.go (the two headers), then conn.go (one
// connection, either end), server.go and client.go.
//
// Ownership, in one place:
//   - Strings of a decoded Command are ordinary strings and may be kept. Body aliases the connection's read buffer and
//     Fields a pooled slice: both are valid until the Command is released.
//   - A handler owns the Command that it is given and ends with exactly one of Conn.Respond (which releases request and
//     response) or Command.Release.
//   - A Body given to Respond, OneWay or Invoke belongs to the connection until BodyDone is called, or for good.
package wire

import (
	"fmt"
	"sync"
	"time"
)

// Flag bits of a command.
const (
	flagResponse int32 = 1
	flagOneWay   int32 = 2
)

// Serialize is how a header is written. A peer may use either in every frame.
type Serialize uint8

// The two header codecs, by their number on the wire.
const (
	JSON   Serialize = 0
	Binary Serialize = 1
)

func (s Serialize) String() string {
	switch s {
	case JSON:
		return "JSON"
	case Binary:
		return "ROCKETMQ"
	}
	return fmt.Sprintf("Serialize(%d)", uint8(s))
}

// Language is what a peer is written in.
type Language uint8

// Languages by their number on the wire.
const (
	Java Language = iota
	CPP
	DotNet
	Python
	Delphi
	Erlang
	Ruby
	Other
	HTTP
	Go
	PHP
	OMS
	Rust
	NodeJS
)

var languageNames = [...]string{
	"JAVA", "CPP", "DOTNET", "PYTHON", "DELPHI", "ERLANG", "RUBY", "OTHER", "HTTP", "GO", "PHP", "OMS", "RUST", "NODE_JS",
}

func (l Language) String() string {
	if int(l) < len(languageNames) {
		return languageNames[l]
	}
	return "OTHER"
}

// languageOf is Other for a name that is not known.
func languageOf(name []byte) Language {
	for i, n := range languageNames {
		if string(name) == n {
			return Language(i)
		}
	}
	return Other
}

// Versions of RocketMQ by their number on the wire, where behaviour depends on them.
const (
	Version4_9_4 = 401
	Version5_0_0 = 413
	Version5_3_1 = 475
	Version5_5_0 = 513
)

// Version is what we say that we are: the release whose behaviour the doors follow.
const Version = Version5_5_0

// Command is one frame: a request or a response.
type Command struct {
	Code      int
	Language  Language
	Version   int
	Opaque    int32 // the request's number, repeated in its response
	Flag      int32 // bit 0 response, bit 1 one-way
	Remark    string
	Fields    Fields
	Body      []byte
	Serialize Serialize

	// BodyDone, if set, is called exactly once when Body was written or will not be. It must not block. It is called by
	// Respond, OneWay, Invoke or later by the connection's writer, and by Release when none of these took it over.
	BodyDone func()

	// Received is when a request was read, of a connection that tells who is answered; Waited may be set by who holds it back until
	// there is something to answer with.
	Received time.Time
	Waited   bool

	pooled bool
	chunk  *chunk // that Body aliases
	conn   *Conn  // that counts this request as under way
	spans  []span // scratch of the JSON decoder
}

// NewRequest makes a request of our own language and version.
func NewRequest(code int) *Command {
	c := getCommand()
	c.Code = code
	c.Language = Go
	c.Version = Version
	return c
}

// Reply makes the response to c, to be filled in and given to Conn.Respond.
func (c *Command) Reply(code int, remark string) *Command {
	r := NewRequest(code)
	r.Remark = remark
	r.Opaque = c.Opaque
	r.Flag = flagResponse
	r.Serialize = c.Serialize
	return r
}

// IsResponse tells responses from requests.
func (c *Command) IsResponse() bool { return c.Flag&flagResponse != 0 }

// IsOneWay is true for requests whose sender waits for no response.
func (c *Command) IsOneWay() bool { return c.Flag&(flagResponse|flagOneWay) == flagOneWay }

// Release gives a decoded or made Command back; it and its Body must not be used afterwards. On a Command that was
// declared by the caller it only calls BodyDone.
func (c *Command) Release() {
	c.bodyDone()
	if !c.pooled {
		return
	}
	if c.chunk != nil {
		c.chunk.release()
	}
	if c.conn != nil {
		c.conn.requestDone()
	}
	if cap(c.Fields) > maxPooledFields {
		c.Fields, c.spans = nil, nil
	}
	clear(c.Fields)
	*c = Command{Fields: c.Fields[:0], spans: c.spans[:0]}
	commands.Put(c)
}

func (c *Command) bodyDone() {
	if f := c.BodyDone; f != nil {
		c.BodyDone = nil
		f()
	}
}

const maxPooledFields = 64

var commands = sync.Pool{New: func() any { return &Command{Fields: make(Fields, 0, 16), spans: make([]span, 0, 16)} }}

func getCommand() *Command {
	c := commands.Get().(*Command)
	c.pooled = true
	return c
}
