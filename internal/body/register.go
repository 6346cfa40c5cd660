package body

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zlib"
)

// maxRegistration bounds what a compressed registration may unpack to: about 400,000 topics.
const maxRegistration = 64 << 20

// ErrRegistrationTooLarge says that a compressed registration unpacks to more than is taken.
var ErrRegistrationTooLarge = errors.New("registration unpacks to more than 64 MiB")

// DecodeCompressed reads the compressed form of REGISTER_BROKER's body: a zlib stream of
//
//	┌───────┬─────────────┬──────────┬─────────────────────────────┬───────┬────────────────────┬ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┐
//	│ len 4 │ DataVersion │ topics 4 │ per topic: len 4, text (*)  │ len 4 │ filter servers []  │ static mappings
//	└───────┴─────────────┴──────────┴─────────────────────────────┴───────┴────────────────────┴ ─ ─ ─ ─ ─ ─ ─ ─ ─ ┘
//
// all numbers big-endian; (*) "name readQueues writeQueues perm filterType [attributes as JSON]", separated by one space
// (source: RegisterBrokerBody of rocketmq-remoting 5.5). Static mappings, which brokers before 5.0 leave out, are skipped.
func DecodeCompressed(data []byte) (*RegisterBroker, error) {
	zr, err := zlib.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(zr, maxRegistration+1))
	if err = errors.Join(err, zr.Close()); err != nil {
		return nil, fmt.Errorf("registration: %w", err)
	}
	if len(plain) > maxRegistration {
		return nil, ErrRegistrationTooLarge
	}
	r := &chunks{rest: plain}
	var out RegisterBroker
	if err := json.Unmarshal(r.chunk(), &out.Topics.DataVersion); r.err == nil && err != nil {
		return nil, fmt.Errorf("registration: data version: %w", err)
	}
	out.Topics.TopicConfigTable = map[string]TopicConfig{}
	for n := r.number(); n > 0 && r.err == nil; n-- {
		t, err := parseTopicText(string(r.chunk()))
		if r.err == nil && err != nil {
			return nil, err
		}
		out.Topics.TopicConfigTable[t.TopicName] = t
	}
	if err := json.Unmarshal(r.chunk(), &out.FilterServerList); r.err == nil && err != nil {
		return nil, fmt.Errorf("registration: filter servers: %w", err)
	}
	if r.err != nil {
		return nil, fmt.Errorf("registration: %w", r.err)
	}
	return &out, nil
}

// EncodeCompressed is the inverse of DecodeCompressed; topics are written in name order.
func EncodeCompressed(b *RegisterBroker) ([]byte, error) {
	var plain []byte
	chunk := func(p []byte) { plain = append(binary.BigEndian.AppendUint32(plain, uint32(len(p))), p...) }
	version, err := json.Marshal(b.Topics.DataVersion)
	if err != nil {
		return nil, err
	}
	chunk(version)
	names := make([]string, 0, len(b.Topics.TopicConfigTable))
	for name := range b.Topics.TopicConfigTable {
		names = append(names, name)
	}
	sort.Strings(names)
	plain = binary.BigEndian.AppendUint32(plain, uint32(len(names)))
	for _, name := range names {
		t := b.Topics.TopicConfigTable[name]
		text := fmt.Sprintf("%s %d %d %d %s", name, t.ReadQueueNums, t.WriteQueueNums, t.Perm, t.TopicFilterType)
		if len(t.Attributes) > 0 {
			attrs, err := json.Marshal(t.Attributes)
			if err != nil {
				return nil, err
			}
			text += " " + string(attrs)
		}
		chunk([]byte(text))
	}
	filters := b.FilterServerList
	if filters == nil {
		filters = []string{}
	}
	list, err := json.Marshal(filters)
	if err != nil {
		return nil, err
	}
	chunk(list)
	plain = binary.BigEndian.AppendUint32(plain, 0) // no static mappings
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	if _, err := w.Write(plain); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func parseTopicText(s string) (TopicConfig, error) {
	parts := strings.SplitN(s, " ", 6)
	if len(parts) < 5 {
		return TopicConfig{}, fmt.Errorf("registration: topic %q has %d fields, not 5", s, len(parts))
	}
	t := TopicConfig{TopicName: parts[0], TopicFilterType: parts[4]}
	for i, to := range []*int32{&t.ReadQueueNums, &t.WriteQueueNums, &t.Perm} {
		n, err := strconv.ParseInt(parts[i+1], 10, 32)
		if err != nil {
			return TopicConfig{}, fmt.Errorf("registration: topic %q: %w", s, err)
		}
		*to = int32(n)
	}
	if len(parts) == 6 && strings.TrimSpace(parts[5]) != "" {
		if err := json.Unmarshal([]byte(parts[5]), &t.Attributes); err != nil {
			return TopicConfig{}, fmt.Errorf("registration: attributes of topic %q: %w", t.TopicName, err)
		}
	}
	return t, nil
}

// chunks reads length-prefixed pieces; after the first error it yields nothing.
type chunks struct {
	rest []byte
	err  error
}

func (c *chunks) number() int {
	if c.err != nil || len(c.rest) < 4 {
		c.err = errors.Join(c.err, io.ErrUnexpectedEOF)
		return 0
	}
	n := binary.BigEndian.Uint32(c.rest)
	c.rest = c.rest[4:]
	if n > maxRegistration {
		c.err = fmt.Errorf("a length of %d", n)
		return 0
	}
	return int(n)
}

func (c *chunks) chunk() []byte {
	n := c.number()
	if c.err != nil || n > len(c.rest) {
		c.err = errors.Join(c.err, io.ErrUnexpectedEOF)
		return nil
	}
	p := c.rest[:n]
	c.rest = c.rest[n:]
	return p
}
