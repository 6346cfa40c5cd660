// Package message is what a RocketMQ message is: its stored layout, properties, flags, ids, batch bodies and compression.
//
// Read layout.go first (the record that the log holds and that Remoting clients receive), then properties.go and batch.go
// (what clients send), ids.go (what they call a message) and compress.go. Rules: nothing here looks at configuration or
// touches a file; decoders take bytes from strangers, so each checks every length before it reads and returns one of the
// errors below; slices that come out alias what went in unless their function says otherwise.
package message

import (
	"errors"
	"net/netip"
)

// Errors that callers decide on; they come wrapped with what was being read or written.
var (
	// ErrTruncated says that the bytes end before what they announce: more of them may help.
	ErrTruncated = errors.New("truncated")
	// ErrCorrupt says that the bytes contradict themselves: more of them will not help.
	ErrCorrupt = errors.New("corrupt")
	// ErrTooLarge says that a field or a body is over the bound of its format.
	ErrTooLarge = errors.New("too large")
	// ErrBadID says that a string is no message id of the wanted form.
	ErrBadID = errors.New("not a message id")
	// ErrBadProperty says that a property's key or value cannot be written so that a reader finds it again.
	ErrBadProperty = errors.New("property cannot be encoded")
	// ErrCompression says that sysFlag names a compression that does not exist.
	ErrCompression = errors.New("unknown compression type")
)

// Message is the decoded form of a stored record. Body and Properties alias the buffer that it was decoded from.
type Message struct {
	Topic          string
	QueueID        int32
	Flag           int32 // the sender's own; the broker hands it on
	SysFlag        int32 // Flag… bits
	QueueOffset    int64
	PhysicalOffset int64
	BodyCRC        uint32 // of the body as stored, see BodyCRC
	BornTimestamp  int64  // ms since 1970, the sender's clock
	BornHost       netip.AddrPort
	StoreTimestamp int64 // ms since 1970, the broker's clock
	StoreHost      netip.AddrPort
	ReconsumeTimes int32
	PreparedOffset int64 // physical offset of the half message that this one commits
	Body           []byte
	Properties     []byte // key 0x01 value 0x02 …, see Property
}

// Bits of SysFlag. Bits 8 to 10 hold the CompressionType.
const (
	FlagCompressed      int32 = 1
	FlagMultiTags       int32 = 2
	FlagTransactionMask int32 = 12
	FlagPrepared        int32 = 4
	FlagCommit          int32 = 8
	FlagRollback        int32 = 12
	FlagBornHostV6      int32 = 16
	FlagStoreHostV6     int32 = 32
	FlagNeedUnwrap      int32 = 64
	FlagInnerBatch      int32 = 128
)
