package catalog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/internal/viewcache"
	"github.com/cairnmq/cairn/kvindex"
)

// Entries that the caches hold at most. A topic in the cache is some 400 bytes; what is idle is not there.
const (
	cachedTopics = 16384
	cachedGroups = 16384
)

// Catalog answers from a bounded cache over the index. Safe for concurrent use; it is also the Fold of its record kinds,
// and that side belongs to the folder's goroutine. Returned pointers are shared and must not be changed.
type Catalog struct {
	engine       kvindex.Reader
	topicsByName *viewcache.Cache[string, *Topic]
	topicsByID   *viewcache.Cache[kvindex.ID, *Topic]
	groupsByName *viewcache.Cache[string, *Group]
	groupsByID   *viewcache.Cache[kvindex.ID, *Group]
	counters     atomic.Pointer[counters] // as published
	reserves     atomic.Int64             // see Reserves
	changes      changes
}

// New returns the catalog of what e holds. Counters that cannot be read show up as an error of the first change.
func New(e kvindex.Engine) *Catalog {
	c := &Catalog{
		engine:       e,
		topicsByName: viewcache.New[string, *Topic](cachedTopics),
		topicsByID:   viewcache.New[kvindex.ID, *Topic](cachedTopics),
		groupsByName: viewcache.New[string, *Group](cachedGroups),
		groupsByID:   viewcache.New[kvindex.ID, *Group](cachedGroups),
	}
	n := counters{}
	if val, ok, err := e.Get(kvindex.AppendMetaKey(nil, countersName), nil); err == nil && ok {
		if read, err := decodeCounters(val); err == nil {
			n = read
		}
	}
	c.counters.Store(&n)
	return c
}

// Reserves rises when a topic's attribute reserve.time may have become another one, so that who works by it looks at everything again.
func (c *Catalog) Reserves() int64 { return c.reserves.Load() }

// Topic finds a topic by name; ErrTopicNotFound when there is none.
func (c *Catalog) Topic(name string) (*Topic, error) {
	t, ok, epoch := c.topicsByName.Get(name)
	if ok {
		return t, nil
	}
	t, err := c.readTopic(name)
	if err == nil {
		c.topicsByName.Fill(name, t, epoch)
	}
	return t, err
}

// TopicByID finds a topic by id; ErrTopicNotFound when there is none any more.
func (c *Catalog) TopicByID(id kvindex.ID) (*Topic, error) {
	t, ok, epoch := c.topicsByID.Get(id)
	if ok {
		return t, nil
	}
	name, ok, err := c.engine.Get(kvindex.AppendTopicIDKey(nil, id), nil)
	if err != nil {
		return nil, fmt.Errorf("catalog: read topic id %d: %w", id, err)
	}
	if !ok {
		return nil, ErrTopicNotFound
	}
	t, err = c.readTopic(string(name))
	if err != nil {
		return nil, err
	}
	if t.ID != id {
		return nil, ErrTopicNotFound // deleted and made anew between the two reads
	}
	c.topicsByID.Fill(id, t, epoch)
	return t, nil
}

func (c *Catalog) readTopic(name string) (*Topic, error) {
	val, ok, err := c.engine.Get(kvindex.AppendTopicNameKey(nil, name), nil)
	if err != nil {
		return nil, fmt.Errorf("catalog: read topic %q: %w", name, err)
	}
	if !ok {
		return nil, ErrTopicNotFound
	}
	return decodeTopic(val)
}

// Group finds a group by name; ErrGroupNotFound when there is none.
func (c *Catalog) Group(name string) (*Group, error) {
	g, ok, epoch := c.groupsByName.Get(name)
	if ok {
		return g, nil
	}
	g, err := c.readGroup(name)
	if err == nil {
		c.groupsByName.Fill(name, g, epoch)
	}
	return g, err
}

// GroupByID finds a group by id; ErrGroupNotFound when there is none any more.
func (c *Catalog) GroupByID(id kvindex.ID) (*Group, error) {
	g, ok, epoch := c.groupsByID.Get(id)
	if ok {
		return g, nil
	}
	name, ok, err := c.engine.Get(kvindex.AppendGroupIDKey(nil, id), nil)
	if err != nil {
		return nil, fmt.Errorf("catalog: read group id %d: %w", id, err)
	}
	if !ok {
		return nil, ErrGroupNotFound
	}
	g, err = c.readGroup(string(name))
	if err != nil {
		return nil, err
	}
	if g.ID != id {
		return nil, ErrGroupNotFound
	}
	c.groupsByID.Fill(id, g, epoch)
	return g, nil
}

func (c *Catalog) readGroup(name string) (*Group, error) {
	val, ok, err := c.engine.Get(kvindex.AppendGroupNameKey(nil, name), nil)
	if err != nil {
		return nil, fmt.Errorf("catalog: read group %q: %w", name, err)
	}
	if !ok {
		return nil, ErrGroupNotFound
	}
	g, err := decodeGroup(val)
	if err == nil && g == nil {
		return nil, ErrGroupNotFound
	}
	return g, err
}

// EachTopic calls f for every topic in name order, as of one moment, until f returns false. It fills no cache.
func (c *Catalog) EachTopic(f func(*Topic) bool) error {
	return c.each([]byte{byte(kvindex.SpaceTopicName)}, func(_, val []byte) (bool, error) {
		t, err := decodeTopic(val)
		return err == nil && f(t), err
	})
}

// EachTopicBehind is EachTopic for the topics whose name begins with a prefix and is behind another name in their order.
func (c *Catalog) EachTopicBehind(prefix, name string, f func(*Topic) bool) error {
	lower := kvindex.AppendTopicNameKey(nil, max(prefix, name))
	return c.eachIn(lower, kvindex.PrefixEnd(kvindex.AppendTopicNameKey(nil, prefix)), func(_, val []byte) (bool, error) {
		t, err := decodeTopic(val)
		return err == nil && (t.Name == name || f(t)), err
	})
}

// EachGroup does the same for groups.
func (c *Catalog) EachGroup(f func(*Group) bool) error {
	return c.each([]byte{byte(kvindex.SpaceGroupName)}, func(_, val []byte) (bool, error) {
		g, err := decodeGroup(val)
		if err == nil && g == nil {
			return true, nil
		}
		return err == nil && f(g), err
	})
}

func (c *Catalog) each(prefix []byte, f func(key, val []byte) (more bool, err error)) error {
	return c.eachIn(prefix, kvindex.PrefixEnd(prefix), f)
}

func (c *Catalog) eachIn(lower, upper []byte, f func(key, val []byte) (more bool, err error)) (err error) {
	it, err := c.engine.NewIter(lower, upper)
	if err != nil {
		return fmt.Errorf("catalog: list: %w", err)
	}
	defer func() {
		if cerr := it.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("catalog: list: %w", cerr)
		}
	}()
	for ok := it.First(); ok; ok = it.Next() {
		more, err := f(it.Key(), it.Value())
		if err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// Counts says how many topics and groups there are. It costs no read.
func (c *Catalog) Counts() (topics, groups int) {
	n := c.counters.Load()
	return int(n.topics), int(n.groups)
}

// Version counts the changes of topics and groups: the DataVersion that is registered at name servers. timestamp is
// that of the last change in ms.
func (c *Catalog) Version() (counter int64, timestamp int64) {
	n := c.counters.Load()
	return n.version, n.versionTime
}

// KV reads a key of the name server's KV configuration.
func (c *Catalog) KV(namespace, key string) (string, bool, error) {
	val, ok, err := c.engine.Get(kvindex.AppendKVConfigKey(nil, namespace, key), nil)
	if err != nil {
		return "", false, fmt.Errorf("catalog: read KV %q %q: %w", namespace, key, err)
	}
	return string(val), ok, nil
}

// KVList reads a namespace; the map is empty when there is none.
func (c *Catalog) KVList(namespace string) (map[string]string, error) {
	out := map[string]string{}
	prefix := kvindex.AppendKVConfigKey(nil, namespace, "")
	err := c.each(prefix, func(key, val []byte) (bool, error) {
		out[string(key[len(prefix):])] = string(val)
		return true, nil
	})
	return out, err
}

// DeleteTopic makes the record that deletes a topic. It lists the groups that have rows on the topic now. When a group
// comes to the topic between this call and the moment the record is applied, a few rows stay behind under an id that
// nothing refers to; a second record made after the first was applied removes them.
func (c *Catalog) DeleteTopic(t *Topic) (record.Record, error) {
	var groups []kvindex.ID
	for _, prefix := range []func([]byte, kvindex.ID, kvindex.ID) []byte{
		kvindex.AppendCursorTopicPrefix, kvindex.AppendCheckpointTopicPrefix, kvindex.AppendCounterKey,
	} {
		var err error
		if groups, err = c.groupsUnder(prefix, t.ID, groups); err != nil {
			return record.Record{}, fmt.Errorf("catalog: list groups of topic %q: %w", t.Name, err)
		}
	}
	slices.Sort(groups)
	groups = slices.Compact(groups)
	return record.Record{Kind: record.KindTopicDelete, Payload: encodeTopicDelete(t.ID, groups)}, nil
}

// groupsUnder appends the groups that have a row for topic in a space whose keys begin with group and topic. It seeks
// from group to group, so that its cost is one step per group in the space, whatever the number of rows.
func (c *Catalog) groupsUnder(prefix func(dst []byte, group, topic kvindex.ID) []byte, topic kvindex.ID,
	dst []kvindex.ID,
) (_ []kvindex.ID, err error) {
	space := prefix(nil, 0, 0)[:1]
	it, err := c.engine.NewIter(space, kvindex.PrefixEnd(space))
	if err != nil {
		return dst, err
	}
	defer func() {
		if cerr := it.Close(); err == nil {
			err = cerr
		}
	}()
	var want []byte
	group := kvindex.ID(0)
	for {
		want = prefix(want[:0], group, topic)
		if !it.SeekGE(want) {
			return dst, it.Error()
		}
		key := it.Key()
		found := kvindex.ID(binary.BigEndian.Uint64(key[1:]))
		switch {
		case found != group:
			group = found
			continue // this group's rows on the topic may lie ahead or behind
		case bytes.HasPrefix(key, want):
			dst = append(dst, group)
		}
		if group++; group == 0 {
			return dst, nil
		}
	}
}
