package javaimport

import (
	"strings"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/message"
)

// retryOf is whose a topic is to which the Java broker copies what was popped and not acknowledged in time. Cairn has no such
// topics: the message itself comes again.
type retryOf struct{ group, topic string }

// retries are the messages of those topics that their groups have not acknowledged, as far as the log has been read.
type retries struct {
	of map[string]retryOf
	// ids are the unique ids of the messages in each queue, by offset.
	ids map[place]map[int64]string
}

// again is a message that a group is to get again, by its unique id.
type again struct {
	retryOf
	id        string
	visibleAt int64 // ms; 0: now
}

// newRetries finds the retry topics of POP among a store's topics. They are %RETRY%group_topic, or %RETRY%group+topic since 5.2.
func newRetries(f *javastore.Folder) *retries {
	r := &retries{of: map[string]retryOf{}, ids: map[place]map[int64]string{}}
	topics, groups := map[string]bool{}, map[string]bool{}
	for i := range f.Topics {
		topics[f.Topics[i].Name] = true
	}
	for i := range f.Groups.Groups {
		groups[f.Groups.Groups[i].Name] = true
	}
	for name := range topics {
		rest, ok := strings.CutPrefix(name, catalog.RetryPrefix)
		if !ok || groups[rest] {
			continue
		}
		if group, topic, ok := strings.Cut(rest, "+"); ok {
			r.of[name] = retryOf{group, topic}
			continue
		}
		for i, c := range rest {
			if c == '_' && groups[rest[:i]] && topics[rest[i+1:]] {
				r.of[name] = retryOf{rest[:i], rest[i+1:]}
				break
			}
		}
	}
	return r
}

// see notes a message; false when its topic is none of them.
func (r *retries) see(m *javastore.Message) bool {
	if _, ok := r.of[m.Topic]; !ok {
		return false
	}
	at := place{m.Topic, m.QueueID}
	if r.ids[at] == nil {
		r.ids[at] = map[int64]string{}
	}
	id, _ := message.Property(m.Properties, message.PropUniqueKey)
	r.ids[at][m.QueueOffset] = string(id)
	return true
}

// open lists what groups are to get again: what they have not popped of these topics yet, and what of flights is in these topics. It
// answers the other flights.
func (r *retries) open(flights []flight, committed func(group, topic string, queue int32) int64) (others []flight, open []again) {
	for at, ids := range r.ids {
		of := r.of[at.topic]
		from := committed(of.group, at.topic, at.queue)
		for offset, id := range ids {
			if offset >= from {
				open = append(open, again{retryOf: of, id: id})
			}
		}
	}
	for _, f := range flights {
		of, ok := r.of[f.at.topic]
		if !ok {
			others = append(others, f)
			continue
		}
		if id := r.ids[f.at][f.offset]; id != "" {
			open = append(open, again{retryOf: of, id: id, visibleAt: f.visibleAt})
		}
	}
	return others, open
}
