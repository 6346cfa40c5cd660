// Package body is the JSON of the Remoting protocol's request and response bodies, in both dialects that clients read.
//
// The protocol's older dialect (fastjson's) writes map keys as they are: integers unquoted, {"brokerAddrs":{0:"…"}}, and whole
// objects, {"offsetTable":{{"brokerName":"b","queueId":0,"topic":"t"}:{…}}}. Java clients from 4.9.4 on read standard JSON for
// routes; everything with object keys exists in the older dialect only. Facts: RocketMQ 5.5 remoting, see each type.
package body

import (
	"bytes"
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
)

// MessageQueue names one queue of one broker. As a map key it is written as an object.
type MessageQueue struct {
	BrokerName string `json:"brokerName"`
	QueueID    int32  `json:"queueId"`
	Topic      string `json:"topic"`
}

func (q MessageQueue) less(o MessageQueue) bool {
	if q.Topic != o.Topic {
		return q.Topic < o.Topic
	}
	if q.BrokerName != o.BrokerName {
		return q.BrokerName < o.BrokerName
	}
	return q.QueueID < o.QueueID
}

// QueueMap is a map whose keys are message queues. It is written in the older dialect, which is not standard JSON, so
// it and everything that holds it is marshalled by Marshal and read by Unmarshal of this package.
type QueueMap[V any] map[MessageQueue]V

// keyMark stands for an object key while the rest is made by encoding/json: a string that no name can contain.
const keyMark = "\x00queue\x00"

// Keys are the queues by topic, broker and number.
func (m QueueMap[V]) Keys() []MessageQueue {
	keys := make([]MessageQueue, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool { return keys[i].less(keys[j]) })
	return keys
}

// MarshalJSON writes keys as marked strings; Marshal turns them into objects.
func (m QueueMap[V]) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, k := range m.Keys() {
		if i > 0 {
			b.WriteByte(',')
		}
		key, err := json.Marshal(k)
		if err != nil {
			return nil, err
		}
		marked, err := json.Marshal(keyMark + string(key))
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(m[k])
		if err != nil {
			return nil, err
		}
		b.Write(marked)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads keys that Unmarshal has turned into strings.
func (m *QueueMap[V]) UnmarshalJSON(data []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return err
	}
	out := make(QueueMap[V], len(raw))
	for k, v := range raw {
		var q MessageQueue
		if err := json.Unmarshal([]byte(k), &q); err != nil {
			return fmt.Errorf("queue key %q: %w", k, err)
		}
		var value V
		if err := json.Unmarshal(v, &value); err != nil {
			return err
		}
		out[q] = value
	}
	*m = out
	return nil
}

// Marshal writes v in the dialect that every client reads: standard JSON but for object keys.
func Marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	marked, err := json.Marshal(keyMark)
	if err != nil {
		return nil, err
	}
	marked = marked[:len(marked)-1] // without the closing quote: what follows is the key
	if !bytes.Contains(b, marked) {
		return b, nil
	}
	var out bytes.Buffer
	for {
		i := bytes.Index(b, marked)
		if i < 0 {
			out.Write(b)
			return out.Bytes(), nil
		}
		out.Write(b[:i])
		end := i + 1 + endOfString(b[i+1:])
		var key string
		if err := json.Unmarshal(b[i:end], &key); err != nil {
			return nil, err
		}
		out.WriteString(key[len(keyMark):])
		b = b[end:]
	}
}

// MarshalLegacy is Marshal with integer map keys unquoted, for clients that read only the older dialect.
func MarshalLegacy(v any) ([]byte, error) {
	b, err := Marshal(v)
	if err != nil {
		return nil, err
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); {
		if b[i] != '"' {
			out = append(out, b[i])
			i++
			continue
		}
		end := i + 1 + endOfString(b[i+1:])
		inner := b[i+1 : end-1]
		if end < len(b) && b[end] == ':' && isInteger(inner) {
			out = append(out, inner...)
		} else {
			out = append(out, b[i:end]...)
		}
		i = end
	}
	return out, nil
}

// endOfString is the index after the closing quote of a JSON string whose opening quote has been passed.
func endOfString(b []byte) int {
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

func isInteger(b []byte) bool {
	_, err := strconv.ParseInt(string(b), 10, 64)
	return err == nil
}

// Unmarshal reads either dialect.
func Unmarshal(data []byte, v any) error {
	std, err := standard(data)
	if err != nil {
		return err
	}
	return json.Unmarshal(std, v)
}

// maxDepth bounds the nesting of what is read.
const maxDepth = 64

// standard rewrites the older dialect as standard JSON: unquoted and object keys become strings.
func standard(data []byte) ([]byte, error) {
	s := scanner{in: data, out: make([]byte, 0, len(data)+len(data)/8)}
	s.space()
	if err := s.value(0); err != nil {
		return nil, err
	}
	s.space()
	if s.at != len(s.in) {
		return nil, fmt.Errorf("body: %d bytes after the end of the JSON value", len(s.in)-s.at)
	}
	return s.out, nil
}

type scanner struct {
	in, out []byte
	at      int
	inKey   bool
}

func (s *scanner) space() {
	for s.at < len(s.in) && (s.in[s.at] == ' ' || s.in[s.at] == '\t' || s.in[s.at] == '\n' || s.in[s.at] == '\r') {
		s.at++
	}
}

func (s *scanner) errorf(format string, args ...any) error {
	return fmt.Errorf("body: at byte %d: %s", s.at, fmt.Sprintf(format, args...))
}

func (s *scanner) peek() byte {
	if s.at < len(s.in) {
		return s.in[s.at]
	}
	return 0
}

func (s *scanner) value(depth int) error {
	if depth > maxDepth {
		return s.errorf("nested deeper than %d", maxDepth)
	}
	switch c := s.peek(); c {
	case '{':
		return s.members(depth, '}', true)
	case '[':
		return s.members(depth, ']', false)
	case '"':
		return s.str()
	default:
		return s.literal()
	}
}

// members reads an object's or an array's members.
func (s *scanner) members(depth int, closing byte, keyed bool) error {
	s.out = append(s.out, s.in[s.at])
	s.at++
	for first := true; ; first = false {
		s.space()
		if s.peek() == closing {
			s.at++
			s.out = append(s.out, closing)
			return nil
		}
		if !first {
			if s.peek() != ',' {
				return s.errorf("a comma or %q is missing", closing)
			}
			s.at++
			s.out = append(s.out, ',')
			s.space()
		}
		if keyed {
			if err := s.key(depth); err != nil {
				return err
			}
			s.space()
			if s.peek() != ':' {
				return s.errorf("a colon is missing")
			}
			s.at++
			s.out = append(s.out, ':')
			s.space()
		}
		if err := s.value(depth + 1); err != nil {
			return err
		}
	}
}

// key reads a key, which may be a string, a number or an object, and writes a string. Within such an object keys are strings: no
// body has it otherwise, and each further level would double what is written.
func (s *scanner) key(depth int) error {
	if s.peek() == '"' {
		return s.str()
	}
	if s.inKey {
		return s.errorf("a key within a key is not a string")
	}
	mark := len(s.out)
	s.inKey = true
	err := s.value(depth + 1)
	s.inKey = false
	if err != nil {
		return err
	}
	quoted, err := json.Marshal(string(s.out[mark:]))
	if err != nil {
		return err
	}
	s.out = append(s.out[:mark], quoted...)
	return nil
}

func (s *scanner) str() error {
	n := endOfString(s.in[s.at+1:])
	end := s.at + 1 + n
	if n < 1 || s.in[end-1] != '"' || n == 1 && s.in[end-1] != '"' {
		return s.errorf("a string does not end")
	}
	s.out = append(s.out, s.in[s.at:end]...)
	s.at = end
	return nil
}

func (s *scanner) literal() error {
	from := s.at
	for s.at < len(s.in) {
		switch c := s.in[s.at]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '+', c == '.':
			s.at++
			continue
		}
		break
	}
	if s.at == from {
		return s.errorf("a value is missing")
	}
	s.out = append(s.out, s.in[from:s.at]...)
	return nil
}
