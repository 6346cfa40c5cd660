package message

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"
)

// An offset id says where a record lies, big-endian, in upper-case hex:
//
//	store host's address 4 or 16 · port 4 · physical offset 8      32 or 56 digits
const (
	offsetIDV4 = 2 * (hostV4 + 8)
	offsetIDV6 = 2 * (hostV6 + 8)
)

const upperHex = "0123456789ABCDEF"

// appendHex appends b in upper-case hex.
func appendHex(dst, b []byte) []byte {
	for _, c := range b {
		dst = append(dst, upperHex[c>>4], upperHex[c&15])
	}
	return dst
}

// OffsetID is the offset message id: 32 upper-case hex digits when the broker's address is IPv4 (or unset), 56 for IPv6.
func OffsetID(storeHost netip.AddrPort, position int64) string {
	var raw [hostV6 + 8]byte
	b := appendHost(raw[:0], storeHost)
	b = binary.BigEndian.AppendUint64(b, uint64(position))
	var digits [offsetIDV6]byte
	return string(appendHex(digits[:0], b))
}

// ParseOffsetID reads what OffsetID writes, in either case. The error is ErrBadID.
func ParseOffsetID(id string) (storeHost netip.AddrPort, position int64, err error) {
	if len(id) != offsetIDV4 && len(id) != offsetIDV6 {
		return netip.AddrPort{}, 0, fmt.Errorf("offset id of %d characters: %w", len(id), ErrBadID)
	}
	var raw [hostV6 + 8]byte
	b := raw[:len(id)/2]
	if _, err := hex.Decode(b, []byte(id)); err != nil {
		return netip.AddrPort{}, 0, fmt.Errorf("offset id %q: not hex: %w", id, ErrBadID)
	}
	host, ok := readHost(b[:len(b)-8])
	at := binary.BigEndian.Uint64(b[len(b)-8:])
	if !ok || at > math.MaxInt64 {
		return netip.AddrPort{}, 0, fmt.Errorf("offset id %q: no such port or position: %w", id, ErrBadID)
	}
	return host, int64(at), nil
}

// A unique id is what its sender calls a message, in upper-case hex. Remoting clients make
//
//	sender's address 4 or 16 · pid 2 · hash of its class loader 4 · ms since the month began there 4 · counter 2
//
// which is 32 or 56 digits; gRPC clients make 34:
//
//	version 1 (1) · MAC 6 · pid 2 · seconds since 2021-01-01T00:00:00Z 4 · sequence 4
const (
	uniqueIDV4   = 32
	uniqueIDV6   = 56
	uniqueIDGRPC = 34

	grpcVersion = 1
	grpcSeconds = 1 + 6 + 2  // where the seconds stand
	grpcEpoch   = 1609459200 // 2021-01-01T00:00:00Z in seconds since 1970
)

// idMaker makes unique ids: one for the process, others in tests.
type idMaker struct {
	now   func() time.Time
	fixed [10]byte // address, pid, and random bytes instead of the class loader's hash

	mu struct {
		sync.Mutex
		month, nextMonth int64 // ms since 1970, local time as clients do
		counter          uint16
	}
}

func newIDMaker(now func() time.Time) *idMaker {
	g := &idMaker{now: now}
	rand.Read(g.fixed[:]) // never fails; the address stays random when this host has none
	if ip, ok := localIPv4(); ok {
		copy(g.fixed[:4], ip[:])
	}
	binary.BigEndian.PutUint16(g.fixed[4:], uint16(os.Getpid()))
	return g
}

// localIPv4 is this host's first IPv4 address that others can reach.
func localIPv4() (ip [4]byte, ok bool) {
	addrs, _ := net.InterfaceAddrs() // none when they cannot be listed
	for _, a := range addrs {
		prefix, err := netip.ParsePrefix(a.String())
		if err == nil && prefix.Addr().Is4() && prefix.Addr().IsGlobalUnicast() {
			return prefix.Addr().As4(), true
		}
	}
	return ip, false
}

func (g *idMaker) next() string {
	now := g.now()
	ms := now.UnixMilli()
	g.mu.Lock()
	if ms >= g.mu.nextMonth {
		month := monthOf(now)
		g.mu.month, g.mu.nextMonth = month.UnixMilli(), month.AddDate(0, 1, 0).UnixMilli()
	}
	span := max(ms-g.mu.month, 0) // a clock that was set back over the month's start stays in the new month
	counter := g.mu.counter
	g.mu.counter++
	g.mu.Unlock()

	var raw [uniqueIDV4 / 2]byte
	copy(raw[:], g.fixed[:])
	binary.BigEndian.PutUint32(raw[10:], uint32(span))
	binary.BigEndian.PutUint16(raw[14:], counter)
	var digits [uniqueIDV4]byte
	return string(appendHex(digits[:0], raw[:]))
}

// monthOf is when t's month began, in t's time zone.
func monthOf(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, t.Location())
}

var processIDs = sync.OnceValue(func() *idMaker { return newIDMaker(time.Now) })

// NewUniqueID makes a 32-digit unique id as the Java client does. No two of this process are equal as long as it makes
// at most 65536 of them in a millisecond; those of other processes differ in the address, the pid or the random part.
func NewUniqueID() string { return processIDs().next() }

// UniqueIDTime reads from a unique id when it was made, in ms since 1970, see UniqueIDTimeAt; now is the present and the
// time zone is this process's.
func UniqueIDTime(id string) (ms int64, ok bool) { return UniqueIDTimeAt(id, time.Now()) }

// How far a sender's clock may be ahead of ours before its id is taken for one of the month before.
const clockLead = 10 * time.Minute

// UniqueIDTimeAt reads from a unique id when it was made, in ms since 1970; ok is false when it is none. A gRPC id has the
// second. The other ids have the millisecond, but only since a month's start: the month is now's, or the one before when
// the time would lie ahead, and the sender is taken to be in now's time zone.
func UniqueIDTimeAt(id string, now time.Time) (ms int64, ok bool) {
	var raw [uniqueIDV6 / 2]byte
	if len(id) > uniqueIDV6 {
		return 0, false
	}
	if n, err := hex.Decode(raw[:], []byte(id)); err != nil || 2*n != len(id) {
		return 0, false
	}
	at := 10
	switch len(id) {
	case uniqueIDGRPC:
		seconds := int64(binary.BigEndian.Uint32(raw[grpcSeconds:]))
		return (grpcEpoch + seconds) * 1000, raw[0] == grpcVersion
	case uniqueIDV4:
	case uniqueIDV6:
		at = 22
	default:
		return 0, false
	}
	span := time.Duration(binary.BigEndian.Uint32(raw[at:])) * time.Millisecond
	if span >= 32*24*time.Hour { // no month is that long, whatever its clocks did
		return 0, false
	}
	month := monthOf(now)
	made := month.Add(span)
	if made.After(now.Add(clockLead)) {
		made = month.AddDate(0, -1, 0).Add(span)
	}
	return made.UnixMilli(), true
}
