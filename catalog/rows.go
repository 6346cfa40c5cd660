package catalog

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

var errMalformed = errors.New("malformed catalog bytes")

// ---- records ----

// encodePut makes the payload of topic-put and group-put. The configuration is copied into the row as it is.
//
//	┌────────────────┬───────┬─────────────────────┐
//	│ name length 2  │ name… │ configuration, JSON │
//	└────────────────┴───────┴─────────────────────┘
func encodePut(name string, config any) []byte {
	js, err := json.Marshal(config)
	if err != nil {
		panic(fmt.Sprintf("catalog: a %T cannot be encoded: %v", config, err)) // plain fields only
	}
	out := make([]byte, 0, 2+len(name)+len(js))
	out = binary.BigEndian.AppendUint16(out, uint16(len(name)))
	return append(append(out, name...), js...)
}

func decodePut(payload []byte) (name, config []byte, err error) {
	name, config, ok := cutString(payload)
	if !ok || len(name) == 0 {
		return nil, nil, fmt.Errorf("put record of %d bytes: %w", len(payload), errMalformed)
	}
	return name, config, nil
}

// encodeTopicDelete names the topic and the groups that have rows on it.
//
//	┌──────────┬──────────────┐
//	│ topic 8  │ group 8 × n  │
//	└──────────┴──────────────┘
func encodeTopicDelete(topic kvindex.ID, groups []kvindex.ID) []byte {
	out := binary.BigEndian.AppendUint64(make([]byte, 0, 8+8*len(groups)), uint64(topic))
	for _, g := range groups {
		out = binary.BigEndian.AppendUint64(out, uint64(g))
	}
	return out
}

func decodeTopicDelete(payload []byte) (topic kvindex.ID, groups []kvindex.ID, err error) {
	if len(payload) < 8 || len(payload)%8 != 0 {
		return 0, nil, fmt.Errorf("topic-delete record of %d bytes: %w", len(payload), errMalformed)
	}
	topic = kvindex.ID(binary.BigEndian.Uint64(payload))
	for rest := payload[8:]; len(rest) > 0; rest = rest[8:] {
		groups = append(groups, kvindex.ID(binary.BigEndian.Uint64(rest)))
	}
	return topic, groups, nil
}

// encodeGroupDelete: clean is 1 when the group's offsets go with it.
//
//	┌──────────┬──────────┐
//	│ group 8  │ clean 1  │
//	└──────────┴──────────┘
func encodeGroupDelete(group kvindex.ID, clean bool) []byte {
	out := binary.BigEndian.AppendUint64(make([]byte, 0, 9), uint64(group))
	if clean {
		return append(out, 1)
	}
	return append(out, 0)
}

func decodeGroupDelete(payload []byte) (group kvindex.ID, clean bool, err error) {
	if len(payload) != 9 || payload[8] > 1 {
		return 0, false, fmt.Errorf("group-delete record of %d bytes: %w", len(payload), errMalformed)
	}
	return kvindex.ID(binary.BigEndian.Uint64(payload)), payload[8] == 1, nil
}

// encodeKVPut: present is 0 when the key is removed; then there is no value.
//
//	┌────────────┬───────────────┬────────────┬──────────────┬──────┬────────┐
//	│ present 1  │ ns length 2   │ namespace… │ key length 2 │ key… │ value… │
//	└────────────┴───────────────┴────────────┴──────────────┴──────┴────────┘
func encodeKVPut(namespace, key, value string, present bool) []byte {
	out := make([]byte, 0, 5+len(namespace)+len(key)+len(value))
	if present {
		out = append(out, 1)
	} else {
		out = append(out, 0)
	}
	out = binary.BigEndian.AppendUint16(out, uint16(len(namespace)))
	out = append(out, namespace...)
	out = binary.BigEndian.AppendUint16(out, uint16(len(key)))
	return append(append(out, key...), value...)
}

func decodeKVPut(payload []byte) (namespace, key, value []byte, present bool, err error) {
	bad := fmt.Errorf("kv-put record of %d bytes: %w", len(payload), errMalformed)
	if len(payload) < 1 || payload[0] > 1 {
		return nil, nil, nil, false, bad
	}
	namespace, rest, ok := cutString(payload[1:])
	if !ok {
		return nil, nil, nil, false, bad
	}
	if key, value, ok = cutString(rest); !ok {
		return nil, nil, nil, false, bad
	}
	return namespace, key, value, payload[0] == 1, nil
}

// cutString takes a string behind its 2-byte length from the front of b.
func cutString(b []byte) (s, rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return nil, nil, false
	}
	return b[2 : 2+n], b[2+n:], true
}

// ---- rows ----

// entryState is what a name's row says of the name.
type entryState byte

const (
	stateLive    entryState = 1
	stateRemnant entryState = 2 // a deleted group whose offsets were kept: the id stays bound to the name
)

// appendEntryRow makes the value of a row in SpaceTopicName and SpaceGroupName. The rows of SpaceTopicID and
// SpaceGroupID hold the bare name.
//
//	┌──────┬──────────────┬──────────┬─────────────────────┐
//	│ id 8 │ created ms 8 │ state 1  │ configuration, JSON │
//	└──────┴──────────────┴──────────┴─────────────────────┘
func appendEntryRow(dst []byte, id kvindex.ID, created int64, state entryState, config []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, uint64(id))
	dst = binary.BigEndian.AppendUint64(dst, uint64(created))
	return append(append(dst, byte(state)), config...)
}

type entryRow struct {
	id      kvindex.ID
	created int64
	state   entryState
	config  []byte // aliases the value
}

func decodeEntryRow(val []byte) (entryRow, error) {
	if len(val) < 17 {
		return entryRow{}, fmt.Errorf("name row of %d bytes: %w", len(val), errMalformed)
	}
	row := entryRow{
		id:      kvindex.ID(binary.BigEndian.Uint64(val)),
		created: int64(binary.BigEndian.Uint64(val[8:])),
		state:   entryState(val[16]),
		config:  val[17:],
	}
	if row.state != stateLive && row.state != stateRemnant {
		return entryRow{}, fmt.Errorf("name row in state %d: %w", row.state, errMalformed)
	}
	return row, nil
}

func decodeTopic(val []byte) (*Topic, error) {
	row, err := decodeEntryRow(val)
	if err != nil {
		return nil, err
	}
	t := &Topic{ID: row.id, Created: row.created}
	if err := json.Unmarshal(row.config, t); err != nil {
		return nil, fmt.Errorf("configuration of topic id %d: %w", row.id, err)
	}
	return t, nil
}

// decodeGroup answers nil for the remnant of a deleted group.
func decodeGroup(val []byte) (*Group, error) {
	row, err := decodeEntryRow(val)
	if err != nil || row.state == stateRemnant {
		return nil, err
	}
	g := &Group{ID: row.id, Created: row.created}
	if err := json.Unmarshal(row.config, g); err != nil {
		return nil, fmt.Errorf("configuration of group id %d: %w", row.id, err)
	}
	return g, nil
}

// countersName is the one row of the catalog in SpaceMeta.
const countersName = "catalog"

// counters are what the catalog counts. The row is read and written with every change, so that the numbers and what
// they count change in one batch.
//
//	┌──────────────┬──────────────┬──────────┬──────────┬────────────┬──────────────────────┐
//	│ last topic 8 │ last group 8 │ topics 8 │ groups 8 │ version 8  │ version's time, ms 8 │
//	└──────────────┴──────────────┴──────────┴──────────┴────────────┴──────────────────────┘
type counters struct {
	lastTopic, lastGroup kvindex.ID
	topics, groups       int64
	version, versionTime int64
}

func (c counters) appendTo(dst []byte) []byte {
	for _, v := range [...]uint64{
		uint64(c.lastTopic), uint64(c.lastGroup), uint64(c.topics), uint64(c.groups), uint64(c.version),
		uint64(c.versionTime),
	} {
		dst = binary.BigEndian.AppendUint64(dst, v)
	}
	return dst
}

func decodeCounters(val []byte) (counters, error) {
	if len(val) != 48 {
		return counters{}, fmt.Errorf("counters row of %d bytes: %w", len(val), errMalformed)
	}
	at := func(i int) uint64 { return binary.BigEndian.Uint64(val[8*i:]) }
	return counters{
		lastTopic: kvindex.ID(at(0)), lastGroup: kvindex.ID(at(1)), topics: int64(at(2)), groups: int64(at(3)),
		version: int64(at(4)), versionTime: int64(at(5)),
	}, nil
}

// ---- making records ----

// PutTopic makes the record that creates or replaces a topic. The caller has validated name and attributes; ID and
// Created are not looked at: the fold keeps those of an existing topic and gives a new one its own.
func (c *Catalog) PutTopic(t Topic) record.Record {
	return record.Record{Kind: record.KindTopicPut, Payload: encodePut(t.Name, &t)}
}

// PutGroup makes the record that creates or replaces a group, on the same terms.
func (c *Catalog) PutGroup(g Group) record.Record {
	return record.Record{Kind: record.KindGroupPut, Payload: encodePut(g.Name, &g)}
}

// DeleteGroup makes the record that deletes a group. Without cleanOffsets a group of the same name that is made later
// goes on where this one stood, with what it had in flight.
func (c *Catalog) DeleteGroup(g *Group, cleanOffsets bool) record.Record {
	return record.Record{Kind: record.KindGroupDelete, Payload: encodeGroupDelete(g.ID, cleanOffsets)}
}

// PutKV makes the record that sets a key of the name server's KV configuration. Namespace and key are at most 65535
// bytes long.
func (c *Catalog) PutKV(namespace, key, value string) record.Record {
	return record.Record{Kind: record.KindKVPut, Payload: encodeKVPut(namespace, key, value, true)}
}

// DeleteKV makes the record that removes a key.
func (c *Catalog) DeleteKV(namespace, key string) record.Record {
	return record.Record{Kind: record.KindKVPut, Payload: encodeKVPut(namespace, key, "", false)}
}
