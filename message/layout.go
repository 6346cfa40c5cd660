package message

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"net/netip"
)

// The stored layout, big-endian. H is the length of a host: 8 (IPv4 4, port 4) or 20 (IPv6 16, port 4), as SysFlag says
// for each of the two.
//
//	 0  total size      4   of the whole record
//	 4  magic           4   MagicV1, or MagicV2 when the topic's length takes two bytes
//	 8  body CRC        4   CRC-32 (IEEE) of the body & 0x7FFFFFFF
//	12  queue id        4
//	16  flag            4
//	20  queue offset    8
//	28  physical offset 8
//	36  sysFlag         4
//	40  born time       8   ms
//	48  born host       H
//	 …  store time      8   ms
//	 …  store host      H
//	 …  reconsume times 4
//	 …  prepared offset 8
//	 …  body length     4,  body
//	 …  topic length    1 (V1) or 2 (V2), topic
//	 …  properties len  2,  properties
const (
	offMagic          = 4
	offBodyCRC        = 8
	offQueueID        = 12
	offFlag           = 16
	offQueueOffset    = 20
	offPhysicalOffset = 28
	offSysFlag        = 36
	offBornTimestamp  = 40
	offBornHost       = 48

	hostV4, hostV6 = 8, 20
	fixedRest      = 8 + 4 + 8 + 4 // store time, reconsume times, prepared offset, body length; without hosts

	// minRecord is a V1 record with IPv4 hosts and nothing in it.
	minRecord = offBornHost + 2*hostV4 + fixedRest + 1 + 2
)

// Magic numbers of the stored layout, and the bounds that its length fields set (Java reads them as signed numbers).
const (
	MagicV1 uint32 = 0xDAA320A7
	MagicV2 uint32 = 0xDAA320AB
	// MagicBlank marks what is no message: in Java the filling at a file's end, here also a record that Clear took.
	MagicBlank uint32 = 0xCBD43194

	MaxTopicV1    = math.MaxInt8  // bytes; a longer topic makes the record V2
	MaxTopic      = math.MaxInt16 // bytes
	MaxProperties = math.MaxInt16 // bytes
	MaxRecord     = math.MaxInt32 // bytes
)

// BodyCRC is the checksum that a record holds for its body.
func BodyCRC(body []byte) uint32 { return crc32.ChecksumIEEE(body) & 0x7FFFFFFF }

func hostSize(v6 bool) int {
	if v6 {
		return hostV6
	}
	return hostV4
}

// isV6 tells how a host is written: a mapped address (::ffff:10.0.0.1, which dual-stack sockets report) is IPv4.
func isV6(host netip.AddrPort) bool { return host.Addr().Is6() && !host.Addr().Is4In6() }

// EncodedSize is the length in bytes of what AppendEncode appends.
func (m *Message) EncodedSize() int {
	size := minRecord - 2*hostV4 + hostSize(isV6(m.BornHost)) + hostSize(isV6(m.StoreHost)) +
		len(m.Body) + len(m.Topic) + len(m.Properties)
	if len(m.Topic) > MaxTopicV1 {
		size++
	}
	return size
}

// AppendEncode appends the stored layout and returns the extended slice; dst must not overlap Body or Properties. BodyCRC
// and the two IPv6 bits are computed here, whatever m says of them; an unset host is written as 0.0.0.0:0. The error is
// ErrTooLarge, and dst is then returned as it came.
func (m *Message) AppendEncode(dst []byte) ([]byte, error) {
	size := m.EncodedSize()
	switch {
	case len(m.Topic) > MaxTopic:
		return dst, fmt.Errorf("encode message: topic of %d bytes (most %d): %w", len(m.Topic), MaxTopic, ErrTooLarge)
	case len(m.Properties) > MaxProperties:
		return dst, fmt.Errorf("encode message: properties of %d bytes (most %d): %w", len(m.Properties), MaxProperties,
			ErrTooLarge)
	case size > MaxRecord:
		return dst, fmt.Errorf("encode message: record of %d bytes (most %d): %w", size, MaxRecord, ErrTooLarge)
	}
	magic, sysFlag := MagicV1, m.SysFlag&^(FlagBornHostV6|FlagStoreHostV6)
	if len(m.Topic) > MaxTopicV1 {
		magic = MagicV2
	}
	if isV6(m.BornHost) {
		sysFlag |= FlagBornHostV6
	}
	if isV6(m.StoreHost) {
		sysFlag |= FlagStoreHostV6
	}
	be := binary.BigEndian
	dst = be.AppendUint32(dst, uint32(size))
	dst = be.AppendUint32(dst, magic)
	dst = be.AppendUint32(dst, BodyCRC(m.Body))
	dst = be.AppendUint32(dst, uint32(m.QueueID))
	dst = be.AppendUint32(dst, uint32(m.Flag))
	dst = be.AppendUint64(dst, uint64(m.QueueOffset))
	dst = be.AppendUint64(dst, uint64(m.PhysicalOffset))
	dst = be.AppendUint32(dst, uint32(sysFlag))
	dst = be.AppendUint64(dst, uint64(m.BornTimestamp))
	dst = appendHost(dst, m.BornHost)
	dst = be.AppendUint64(dst, uint64(m.StoreTimestamp))
	dst = appendHost(dst, m.StoreHost)
	dst = be.AppendUint32(dst, uint32(m.ReconsumeTimes))
	dst = be.AppendUint64(dst, uint64(m.PreparedOffset))
	dst = be.AppendUint32(dst, uint32(len(m.Body)))
	dst = append(dst, m.Body...)
	if magic == MagicV2 {
		dst = be.AppendUint16(dst, uint16(len(m.Topic)))
	} else {
		dst = append(dst, byte(len(m.Topic)))
	}
	dst = append(dst, m.Topic...)
	dst = be.AppendUint16(dst, uint16(len(m.Properties)))
	return append(dst, m.Properties...), nil
}

func appendHost(dst []byte, host netip.AddrPort) []byte {
	if isV6(host) {
		ip := host.Addr().As16()
		dst = append(dst, ip[:]...)
	} else {
		var ip [4]byte
		if host.IsValid() {
			ip = host.Addr().Unmap().As4()
		}
		dst = append(dst, ip[:]...)
	}
	return binary.BigEndian.AppendUint32(dst, uint32(host.Port()))
}

// readHost reads a host that fills b, which is hostV4 or hostV6 long; ok is false when its port is over 65535.
func readHost(b []byte) (host netip.AddrPort, ok bool) {
	port := binary.BigEndian.Uint32(b[len(b)-4:])
	ip := netip.AddrFrom4([4]byte(b))
	if len(b) == hostV6 {
		ip = netip.AddrFrom16([16]byte(b))
	}
	return netip.AddrPortFrom(ip, uint16(port)), port <= math.MaxUint16
}

// shape is where the variable parts of a record lie, and its length.
type shape struct {
	storeTimestamp, afterHosts int // afterHosts: reconsume times
	body, bodyEnd              int
	topic, topicEnd            int
	properties, total          int
}

// shapeOf reads every length of the record at the front of b and checks that together they fill it exactly.
func shapeOf(b []byte) (s shape, err error) {
	if len(b) < 8 {
		return s, fmt.Errorf("decode message: %d bytes: %w", len(b), ErrTruncated)
	}
	magic := binary.BigEndian.Uint32(b[offMagic:])
	if magic != MagicV1 && magic != MagicV2 {
		return s, fmt.Errorf("decode message: magic %#08x: %w", magic, ErrCorrupt)
	}
	total := binary.BigEndian.Uint32(b)
	if total < minRecord || total > MaxRecord {
		return s, fmt.Errorf("decode message: size %d: %w", total, ErrCorrupt)
	}
	if uint64(total) > uint64(len(b)) {
		return s, fmt.Errorf("decode message: %d of %d bytes: %w", len(b), total, ErrTruncated)
	}
	s.total = int(total)
	s.storeTimestamp = storeTimestampAt(b)
	s.afterHosts = afterHostsOf(b)
	s.body = s.afterHosts + 4 + 8 + 4
	topicPrefix, maxTopic := 1, MaxTopicV1
	if magic == MagicV2 {
		topicPrefix, maxTopic = 2, MaxTopic
	}
	// What is left for the three variable parts: each length is compared with it before it is used.
	left := s.total - s.body - topicPrefix - 2
	if left < 0 {
		return s, fmt.Errorf("decode message: size %d is under its fixed part: %w", total, ErrCorrupt)
	}
	body := binary.BigEndian.Uint32(b[s.body-4:])
	if uint64(body) > uint64(left) {
		return s, fmt.Errorf("decode message: body of %d bytes in a record of %d: %w", body, total, ErrCorrupt)
	}
	s.bodyEnd = s.body + int(body)
	left -= int(body)
	s.topic, s.topicEnd = topicOf(b)
	topic := s.topicEnd - s.topic
	if topic > left || topic > maxTopic {
		return s, fmt.Errorf("decode message: topic of %d bytes in a record of %d: %w", topic, total, ErrCorrupt)
	}
	left -= topic
	s.properties = s.topicEnd + 2
	if n := int(binary.BigEndian.Uint16(b[s.topicEnd:])); n != left || n > MaxProperties {
		return s, fmt.Errorf("decode message: properties of %d bytes where %d are left: %w", n, left, ErrCorrupt)
	}
	return s, nil
}

// Decode reads one record from the front of b and says how long it is. Body and Properties alias b and cannot be appended
// to in place; only the topic is allocated (see DecodeAs). The body's checksum is not compared: the log has its own over
// the whole record. The error is ErrTruncated or ErrCorrupt.
func Decode(b []byte) (m Message, n int, err error) { return DecodeAs(b, "") }

// DecodeAs is Decode without an allocation when the record's topic is the expected one, which m.Topic then shares.
func DecodeAs(b []byte, topic string) (m Message, n int, err error) {
	s, err := shapeOf(b)
	if err != nil {
		return m, 0, err
	}
	be := binary.BigEndian
	m.BodyCRC = be.Uint32(b[offBodyCRC:])
	m.QueueID = QueueIDOf(b)
	m.Flag = int32(be.Uint32(b[offFlag:]))
	m.QueueOffset = QueueOffsetOf(b)
	m.PhysicalOffset = PhysicalOffsetOf(b)
	m.SysFlag = SysFlagOf(b)
	m.BornTimestamp = BornTimestampOf(b)
	born, ok := readHost(b[offBornHost:s.storeTimestamp])
	store, ok2 := readHost(b[s.storeTimestamp+8 : s.afterHosts])
	if !ok || !ok2 {
		return Message{}, 0, fmt.Errorf("decode message: port of a host over 65535: %w", ErrCorrupt)
	}
	m.BornHost, m.StoreHost = born, store
	m.StoreTimestamp = int64(be.Uint64(b[s.storeTimestamp:]))
	m.ReconsumeTimes = int32(be.Uint32(b[s.afterHosts:]))
	m.PreparedOffset = int64(be.Uint64(b[s.afterHosts+4:]))
	m.Body = b[s.body:s.bodyEnd:s.bodyEnd]
	m.Topic = topic
	if name := b[s.topic:s.topicEnd]; string(name) != topic {
		m.Topic = string(name)
	}
	m.Properties = b[s.properties:s.total:s.total]
	return m, s.total, nil
}

// The functions below take a record that AppendEncode made or Decode has accepted, and panic or read nonsense otherwise.

// PatchQueueOffset, PatchPhysicalOffset and the like set a fixed-width field of an encoded record in place.
func PatchQueueOffset(rec []byte, offset int64) {
	binary.BigEndian.PutUint64(rec[offQueueOffset:], uint64(offset))
}

// PatchPhysicalOffset sets the record's position in the log.
func PatchPhysicalOffset(rec []byte, position int64) {
	binary.BigEndian.PutUint64(rec[offPhysicalOffset:], uint64(position))
}

// PatchStoreTimestamp sets the time of storing in ms.
func PatchStoreTimestamp(rec []byte, ms int64) {
	binary.BigEndian.PutUint64(rec[storeTimestampAt(rec):], uint64(ms))
}

// PatchQueueID sets the queue.
func PatchQueueID(rec []byte, queue int32) {
	binary.BigEndian.PutUint32(rec[offQueueID:], uint32(queue))
}

// PatchReconsumeTimes sets how often the message has been sent back.
func PatchReconsumeTimes(rec []byte, times int32) {
	binary.BigEndian.PutUint32(rec[afterHostsOf(rec):], uint32(times))
}

// PatchPreparedOffset sets the physical offset of the half message that this one commits.
func PatchPreparedOffset(rec []byte, position int64) {
	binary.BigEndian.PutUint64(rec[afterHostsOf(rec)+4:], uint64(position))
}

// PatchTransaction sets the transaction bits of sysFlag to one of FlagPrepared, FlagCommit, FlagRollback or 0. The other
// bits stay: the ones for IPv6 decide where the fields lie.
func PatchTransaction(rec []byte, flag int32) {
	binary.BigEndian.PutUint32(rec[offSysFlag:], uint32(SysFlagOf(rec)&^FlagTransactionMask|flag&FlagTransactionMask))
}

// QueueIDOf and the like read one field of an encoded record; slices alias rec.
func QueueIDOf(rec []byte) int32 { return int32(binary.BigEndian.Uint32(rec[offQueueID:])) }

// QueueOffsetOf is the record's place in its queue.
func QueueOffsetOf(rec []byte) int64 { return int64(binary.BigEndian.Uint64(rec[offQueueOffset:])) }

// PhysicalOffsetOf is the record's position in the log.
func PhysicalOffsetOf(rec []byte) int64 {
	return int64(binary.BigEndian.Uint64(rec[offPhysicalOffset:]))
}

// SysFlagOf is the set of Flag… bits.
func SysFlagOf(rec []byte) int32 { return int32(binary.BigEndian.Uint32(rec[offSysFlag:])) }

// BornTimestampOf is the sender's time in ms.
func BornTimestampOf(rec []byte) int64 { return int64(binary.BigEndian.Uint64(rec[offBornTimestamp:])) }

// StoreTimestampOf is the broker's time in ms.
func StoreTimestampOf(rec []byte) int64 {
	return int64(binary.BigEndian.Uint64(rec[storeTimestampAt(rec):]))
}

// ReconsumeTimesOf says how often the message has been sent back.
func ReconsumeTimesOf(rec []byte) int32 {
	return int32(binary.BigEndian.Uint32(rec[afterHostsOf(rec):]))
}

// BodyOf is the body as stored, possibly compressed.
func BodyOf(rec []byte) []byte {
	start, end := bodyOf(rec)
	return rec[start:end:end]
}

// TopicOf is the topic; string(TopicOf(rec)) in a comparison or a map lookup does not allocate.
func TopicOf(rec []byte) []byte {
	start, end := topicOf(rec)
	return rec[start:end:end]
}

// PropertiesOf is the encoded properties.
func PropertiesOf(rec []byte) []byte {
	_, at := topicOf(rec)
	start := at + 2
	end := start + int(binary.BigEndian.Uint16(rec[at:]))
	return rec[start:end:end]
}

func storeTimestampAt(rec []byte) int {
	return offBornHost + hostSize(SysFlagOf(rec)&FlagBornHostV6 != 0)
}

func afterHostsOf(rec []byte) int {
	return storeTimestampAt(rec) + 8 + hostSize(SysFlagOf(rec)&FlagStoreHostV6 != 0)
}

func bodyOf(rec []byte) (start, end int) {
	at := afterHostsOf(rec) + 4 + 8
	return at + 4, at + 4 + int(binary.BigEndian.Uint32(rec[at:]))
}

func topicOf(rec []byte) (start, end int) {
	_, at := bodyOf(rec)
	if binary.BigEndian.Uint32(rec[offMagic:]) == MagicV2 {
		return at + 2, at + 2 + int(binary.BigEndian.Uint16(rec[at:]))
	}
	return at + 1, at + 1 + int(rec[at])
}

// Clear takes away what a record says, and leaves its size, queue, place and times: body, topic and properties become one body of
// zeros. It is no message any more to Decode.
func Clear(rec []byte) {
	binary.BigEndian.PutUint32(rec[offMagic:], MagicBlank)
	binary.BigEndian.PutUint32(rec[offBodyCRC:], 0)
	at := afterHostsOf(rec) + 4 + 8
	clear(rec[at:])
	binary.BigEndian.PutUint32(rec[at:], uint32(len(rec)-at-4-1-2)) // no topic, no properties
}

// Cleared says whether a record is one that Clear took.
func Cleared(rec []byte) bool { return binary.BigEndian.Uint32(rec[offMagic:]) == MagicBlank }
