package message

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
	"unsafe"
)

// Properties are pairs in UTF-8, each ended by a separator:
//
//	key 0x01 value 0x02 key 0x01 value 0x02 …
//
// Clients up to 4.9.2 leave out the last 0x02. A piece between separators without a 0x01, or with nothing on one side of
// its first 0x01, is no pair and is passed over; of pairs with the same key the last one counts.
const (
	keyEnd  = 0x01
	pairEnd = 0x02
)

// nextPair splits off the first piece. ok tells whether it is a pair.
func nextPair(props []byte) (key, value, rest []byte, ok bool) {
	piece := props
	if end := bytes.IndexByte(props, pairEnd); end >= 0 {
		piece, rest = props[:end:end], props[end+1:]
	}
	at := bytes.IndexByte(piece, keyEnd)
	if at <= 0 || at == len(piece)-1 {
		return nil, nil, rest, false
	}
	return piece[:at:at], piece[at+1 : len(piece) : len(piece)], rest, true
}

// Property finds one property; ok is false when it is absent. It does not allocate; the value aliases props.
func Property(props []byte, key string) (value []byte, ok bool) {
	for len(props) > 0 {
		k, v, rest, pair := nextPair(props)
		if pair && string(k) == key {
			value, ok = v, true
		}
		props = rest
	}
	return value, ok
}

// EachProperty calls f for each pair as it lies in props, duplicates too, until f returns false. Key and value alias props.
func EachProperty(props []byte, f func(key, value []byte) bool) {
	for len(props) > 0 {
		key, value, rest, pair := nextPair(props)
		if pair && !f(key, value) {
			return
		}
		props = rest
	}
}

// CheckProperty returns ErrBadProperty when a reader would not find the pair again as it is: the key is empty or has one of
// the separators in it, or the value is empty or has a 0x02. Doors call it on what users send, for a value with a separator
// in it could otherwise pass for a property that only the broker may set.
func CheckProperty(key, value string) error {
	if key == "" || strings.IndexByte(key, keyEnd) >= 0 || strings.IndexByte(key, pairEnd) >= 0 {
		return fmt.Errorf("key %q: %w", key, ErrBadProperty)
	}
	if value == "" || strings.IndexByte(value, pairEnd) >= 0 {
		return fmt.Errorf("value %q of %s: %w", value, key, ErrBadProperty)
	}
	return nil
}

// AppendProperty appends key and value; the caller has made sure that key is not there (see SetProperty, DropProperty) and
// that the pair can be encoded (see CheckProperty). Like append it may use the room behind props.
func AppendProperty(props []byte, key, value string) []byte {
	if n := len(props); n > 0 && props[n-1] != pairEnd {
		props = append(props, pairEnd)
	}
	props = append(props, key...)
	props = append(props, keyEnd)
	props = append(props, value...)
	return append(props, pairEnd)
}

// SetProperty adds the pair, in place of what there was under the key. It returns props itself when nothing changes, else
// a new slice; it never writes into props.
func SetProperty(props []byte, key, value string) []byte {
	if old, ok := Property(props, key); ok && string(old) == value {
		return props
	}
	out := make([]byte, 0, len(props)+len(key)+len(value)+3)
	return AppendProperty(appendWithout(out, props, key), key, value)
}

// DropProperty removes the key. It returns props itself when the key is not there, else a new slice; it never writes into
// props.
func DropProperty(props []byte, key string) []byte {
	if _, ok := Property(props, key); !ok {
		return props
	}
	return appendWithout(make([]byte, 0, len(props)), props, key)
}

// appendWithout copies props to dst piece by piece, pairs and others, but the pairs of one key.
func appendWithout(dst, props []byte, key string) []byte {
	for len(props) > 0 {
		k, _, rest, pair := nextPair(props)
		if !pair || string(k) != key {
			dst = append(dst, props[:len(props)-len(rest)]...)
		}
		props = rest
	}
	return dst
}

// EncodeProperties writes the pairs in the order of their keys, so that one map has one encoding. Each should pass
// CheckProperty: what does not is written all the same, as Java does, and readers make of it what they can.
func EncodeProperties(m map[string]string) []byte {
	size := 0
	for key, value := range m {
		size += len(key) + len(value) + 2
	}
	props := make([]byte, 0, size)
	for _, key := range slices.Sorted(maps.Keys(m)) {
		props = AppendProperty(props, key, m[key])
	}
	return props
}

// DecodeProperties is the inverse of EncodeProperties; of two pairs with the same key the later wins. The map is never nil.
func DecodeProperties(props []byte) map[string]string {
	m := make(map[string]string, bytes.Count(props, []byte{pairEnd})+1)
	for len(props) > 0 {
		key, value, rest, pair := nextPair(props)
		if pair {
			m[string(key)] = string(value)
		}
		props = rest
	}
	return m
}

// TagHash is Java's String.hashCode of the tag as a long, computed over its UTF-16 code units; 0 for the empty tag. Bytes
// that are no UTF-8 count as U+FFFD each.
func TagHash(tag string) int64 {
	var h int32
	for i := 0; i < len(tag); i++ {
		if tag[i] >= utf8.RuneSelf {
			return hashRunes(h, tag[i:])
		}
		h = 31*h + int32(tag[i])
	}
	return int64(h)
}

func hashRunes(h int32, s string) int64 {
	for _, r := range s {
		if r >= 0x10000 { // two code units: a surrogate pair
			r -= 0x10000
			h = 31*h + (0xD800 + r>>10)
			r = 0xDC00 + r&0x3FF
		}
		h = 31*h + r
	}
	return int64(h)
}

// TagHashOf is the TagHash of the message's tag, without an allocation.
func TagHashOf(props []byte) int64 {
	tag, _ := Property(props, PropTags)
	return TagHash(unsafe.String(unsafe.SliceData(tag), len(tag))) // TagHash keeps nothing of it
}
