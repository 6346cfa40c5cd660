package store

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

// The model is a broker's data as plain maps and slices. TestStoreAgainstTheModel does random things to both and looks at
// everything after each.

type modelQueue struct {
	min  int64
	msgs []modelMessage // from offset 0 on, trimmed ones too
}

type modelMessage struct {
	note
	time     int64 // ms
	position int64
}

type modelTopic struct {
	name   string
	queues map[int32]*modelQueue
}

type model struct {
	topics  map[kvindex.ID]*modelTopic
	groups  map[string]kvindex.ID
	kept    map[string]kvindex.ID // deleted with offsets kept
	kv      map[string]string
	lastID  kvindex.ID
	lastGID kvindex.ID
	sent    int
}

func newModel() *model {
	return &model{
		topics: map[kvindex.ID]*modelTopic{}, groups: map[string]kvindex.ID{}, kept: map[string]kvindex.ID{},
		kv: map[string]string{},
	}
}

func (m *model) topicNamed(name string) kvindex.ID {
	for id, t := range m.topics {
		if t.name == name {
			return id
		}
	}
	return 0
}

// ids lists live topics and one that does not exist.
func (m *model) ids() []kvindex.ID {
	return append(slices.Sorted(maps.Keys(m.topics)), 1<<50)
}

// change is one record and what it does to the model, which says the expected outcome.
type change struct {
	rec   record.Record
	apply func(ms int64, at record.Position) record.Outcome
}

type machine struct {
	t     *rapid.T
	tb    *testing.T
	place place
	clock *clock.Fake
	opts  Options
	s     *Store
	m     *model
}

var (
	topicNames = rapid.SampledFrom([]string{"a", "b", "c"})
	keyWords   = rapid.SampledFrom([]string{"", "k1", "k2", "k1 k3", " k2  k2 "})
	tags       = rapid.SampledFrom([]string{"", "red", "grün"})
)

func (x *machine) putTopic() change {
	name := topicNames.Draw(x.t, "name")
	return change{x.s.Catalog.PutTopic(catalog.Topic{Name: name, ReadQueues: 4, WriteQueues: 4}), func(int64, record.Position) record.Outcome {
		id := x.m.topicNamed(name)
		if id == 0 {
			x.m.lastID++
			id = x.m.lastID
			x.m.topics[id] = &modelTopic{name: name, queues: map[int32]*modelQueue{}}
		}
		return record.Outcome{Offset: int64(id)}
	}}
}

func (x *machine) deleteTopic() change {
	id := rapid.SampledFrom(x.m.ids()).Draw(x.t, "id")
	rec, err := x.s.Catalog.DeleteTopic(&catalog.Topic{ID: id})
	if err != nil {
		x.t.Fatal(err)
	}
	return change{rec, func(int64, record.Position) record.Outcome {
		_, ok := x.m.topics[id]
		delete(x.m.topics, id)
		return record.Outcome{Offset: int64(id), Refused: !ok}
	}}
}

func (x *machine) message() change {
	x.m.sent++
	n := note{
		topic: rapid.SampledFrom(x.m.ids()).Draw(x.t, "topic"), queue: rapid.Int32Range(0, 3).Draw(x.t, "queue"),
		id: fmt.Sprintf("id%d", x.m.sent%50), keys: keyWords.Draw(x.t, "keys"), tag: tags.Draw(x.t, "tag"),
		body: fmt.Sprintf("body %d %s", x.m.sent, make([]byte, rapid.SampledFrom([]int{0, 10, 3000}).Draw(x.t, "size"))),
	}
	return change{n.record(x.tb), func(ms int64, at record.Position) record.Outcome {
		topic, ok := x.m.topics[n.topic]
		if !ok {
			return record.Outcome{Refused: true}
		}
		q := topic.queues[n.queue]
		if q == nil {
			q = &modelQueue{}
			topic.queues[n.queue] = q
		}
		q.msgs = append(q.msgs, modelMessage{n, ms, int64(at)})
		return record.Outcome{Offset: int64(len(q.msgs)) - 1}
	}}
}

func (x *machine) trim() change {
	k := trim{
		topic: rapid.SampledFrom(x.m.ids()).Draw(x.t, "topic"), queue: rapid.Int32Range(0, 3).Draw(x.t, "queue"),
		min: rapid.Int64Range(0, 300).Draw(x.t, "min"),
	}
	return change{record.Record{Kind: record.KindTrim, Payload: encodeTrim([]trim{k})}, func(int64, record.Position) record.Outcome {
		if topic, ok := x.m.topics[k.topic]; ok && topic.queues[k.queue] != nil {
			q := topic.queues[k.queue]
			if to := min(k.min, int64(len(q.msgs))); to > q.min {
				q.min = to
				return record.Outcome{Offset: 1}
			}
		}
		return record.Outcome{Refused: true}
	}}
}

func (x *machine) group() change {
	name := topicNames.Draw(x.t, "group")
	if id, ok := x.m.groups[name]; ok && rapid.Bool().Draw(x.t, "delete") {
		clean := rapid.Bool().Draw(x.t, "clean")
		return change{x.s.Catalog.DeleteGroup(&catalog.Group{ID: id}, clean), func(int64, record.Position) record.Outcome {
			out := record.Outcome{Offset: int64(id)}
			switch {
			case x.m.groups[name] == id:
				delete(x.m.groups, name)
				if !clean {
					x.m.kept[name] = id
				}
			case x.m.kept[name] == id && clean:
				delete(x.m.kept, name)
			default:
				out.Refused = true
			}
			return out
		}}
	}
	return change{x.s.Catalog.PutGroup(catalog.DefaultGroup(name)), func(int64, record.Position) record.Outcome {
		if _, ok := x.m.groups[name]; !ok {
			id, ok := x.m.kept[name]
			if !ok {
				x.m.lastGID++
				id = x.m.lastGID
			}
			delete(x.m.kept, name)
			x.m.groups[name] = id
		}
		return record.Outcome{Offset: int64(x.m.groups[name])}
	}}
}

func (x *machine) kv() change {
	key := topicNames.Draw(x.t, "key")
	if rapid.Bool().Draw(x.t, "delete") {
		return change{x.s.Catalog.DeleteKV("ns", key), func(int64, record.Position) record.Outcome {
			_, ok := x.m.kv[key]
			delete(x.m.kv, key)
			return record.Outcome{Refused: !ok}
		}}
	}
	value := tags.Draw(x.t, "value")
	return change{x.s.Catalog.PutKV("ns", key, value), func(int64, record.Position) record.Outcome {
		x.m.kv[key] = value
		return record.Outcome{}
	}}
}

// commit proposes the steps as one proposal and compares outcomes.
func (x *machine) commit(steps []change) {
	var recs []record.Record
	for _, st := range steps {
		recs = append(recs, st.rec)
	}
	p, err := x.s.log.Append(context.Background(), recs)
	if err != nil {
		x.t.Fatal(err)
	}
	for i, st := range steps {
		if want := st.apply(p.Timestamp, p.Positions[i]); p.Outcomes[i] != want {
			x.t.Fatalf("outcome %+v of %v, want %+v", p.Outcomes[i], st.rec.Kind, want)
		}
	}
}

func (x *machine) mixed() {
	kinds := []func() change{x.message, x.message, x.message, x.message, x.putTopic, x.deleteTopic, x.trim, x.group, x.kv}
	var steps []change
	for range rapid.IntRange(1, 12).Draw(x.t, "records") {
		steps = append(steps, rapid.SampledFrom(kinds).Draw(x.t, "kind")())
	}
	x.commit(steps)
}

// flood makes runs that are split, and several of them in a segment.
func (x *machine) flood() {
	var steps []change
	for range rapid.IntRange(100, 400).Draw(x.t, "messages") {
		steps = append(steps, x.message())
	}
	x.commit(steps)
}

func (x *machine) advance() {
	x.clock.Advance(rapid.SampledFrom([]time.Duration{
		time.Millisecond, time.Second, 20 * time.Minute, time.Hour,
	}).Draw(x.t, "by"))
}

// expire does what Store.Expire should: what is stored in an hour that ended before the retention is gone.
func (x *machine) expire() {
	now := x.clock.Now()
	if err := x.s.Expire(context.Background(), now); err != nil {
		x.t.Fatal(err)
	}
	cutoff := kvindex.HourOf(now.Add(-x.opts.Retention).UnixMilli())
	for _, topic := range x.m.topics {
		for _, q := range topic.queues {
			for q.min < int64(len(q.msgs)) && kvindex.HourOf(q.msgs[q.min].time) < cutoff {
				q.min++
			}
		}
	}
}

// restart closes the store, or lets it crash where the place allows that: with the log synced before each
// acknowledgement nothing that the model knows may be missing.
func (x *machine) restart() {
	if fs, ok := x.place.fs.(*vfs.MemFS); ok && rapid.Bool().Draw(x.t, "crash") {
		seed := rapid.Uint64().Draw(x.t, "seed")
		clone := fs.CrashClone(vfs.CrashCloneCfg{
			UnsyncedDataPercent: rapid.SampledFrom([]int{0, 50, 100}).Draw(x.t, "unsynced"),
			RNG:                 rand.New(rand.NewPCG(seed, 1)),
		})
		mustClose(x.tb, x.s)
		x.place.fs, x.opts.FS = clone, clone
	} else {
		mustVerify(x.t, x.s)
		mustClose(x.t, x.s)
	}
	x.s = mustOpen(x.t, x.opts)
	mustVerify(x.t, x.s)
}

func (x *machine) check() {
	topics, groups := map[string]kvindex.ID{}, map[string]kvindex.ID{}
	err := x.s.Catalog.EachTopic(func(t *catalog.Topic) bool { topics[t.Name] = t.ID; return true })
	if err == nil {
		err = x.s.Catalog.EachGroup(func(g *catalog.Group) bool { groups[g.Name] = g.ID; return true })
	}
	kv, kvErr := x.s.Catalog.KVList("ns")
	if err != nil || kvErr != nil {
		x.t.Fatal(err, kvErr)
	}
	want := map[string]kvindex.ID{}
	for id, t := range x.m.topics {
		want[t.name] = id
	}
	if !maps.Equal(topics, want) || !maps.Equal(groups, x.m.groups) || !maps.Equal(kv, x.m.kv) {
		x.t.Fatalf("topics %v groups %v kv %v, want %v %v %v", topics, groups, kv, want, x.m.groups, x.m.kv)
	}
	if nTopics, nGroups := x.s.Catalog.Counts(); nTopics != len(want) || nGroups != len(x.m.groups) {
		x.t.Fatalf("counts %d and %d, want %d and %d", nTopics, nGroups, len(want), len(x.m.groups))
	}
	for id, topic := range x.m.topics {
		for queue := range int32(4) {
			q := topic.queues[queue]
			if q == nil {
				q = &modelQueue{}
			}
			x.checkQueue(id, queue, q)
		}
	}
}

func (x *machine) checkQueue(topic kvindex.ID, queue int32, q *modelQueue) {
	end := int64(len(q.msgs))
	if low, high, err := x.s.Bounds(topic, queue); err != nil || low != q.min || high != end {
		x.t.Fatalf("bounds %d..%d, %v, want %d..%d", low, high, err, q.min, end)
	}
	entries, err := x.s.Entries(topic, queue, 0, 1<<20, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	if rows, err := x.s.rowEntries(queueKey{topic, queue}, 0, 1<<20, nil); err != nil || !slices.Equal(entries, rows) {
		x.t.Fatalf("topic %d queue %d: entries %v, rows %v, %v", topic, queue, entries, rows, err)
	}
	got := readAll(x.t, x.s, topic, queue, 0, 1<<20)
	live := q.msgs[q.min:]
	if len(got) != len(live) {
		x.t.Fatalf("topic %d queue %d: %d messages, want %d", topic, queue, len(got), len(live))
	}
	for i, m := range got {
		w := live[i]
		if m.QueueOffset != q.min+int64(i) || m.PhysicalOffset != w.position || m.StoreTimestamp != w.time || string(m.Body) != w.body {
			x.t.Fatalf("message %d is %+v, want %+v", i, m, w)
		}
	}
	for _, ms := range []int64{0, 1 << 60, x.clock.Now().UnixMilli(), epoch.UnixMilli() + rapid.Int64Range(-1, 5000).Draw(x.t, "ms")} {
		lower, upper := end, q.min
		for i := end - 1; i >= q.min; i-- {
			if q.msgs[i].time >= ms {
				lower = i
			}
		}
		for i := q.min; i < end; i++ {
			if q.msgs[i].time <= ms {
				upper = i
			}
		}
		if gotLower, err := x.s.OffsetByTime(topic, queue, ms, Lower); err != nil || gotLower != lower {
			x.t.Fatalf("lower(%d) = %d, %v, want %d", ms, gotLower, err, lower)
		}
		if gotUpper, err := x.s.OffsetByTime(topic, queue, ms, Upper); err != nil || gotUpper != upper {
			x.t.Fatalf("upper(%d) = %d, %v, want %d", ms, gotUpper, err, upper)
		}
	}
}

// query compares a search by key and one by unique id, and a read by position.
func (x *machine) query() {
	topic := rapid.SampledFrom(x.m.ids()).Draw(x.t, "topic")
	key := rapid.SampledFrom([]string{"k1", "k2", "k3", "k4"}).Draw(x.t, "key")
	id := fmt.Sprintf("id%d", rapid.IntRange(0, 49).Draw(x.t, "id"))
	limit := rapid.IntRange(1, 40).Draw(x.t, "limit")
	now := x.clock.Now().UnixMilli()
	begin, end := now-rapid.Int64Range(0, 4*3600_000).Draw(x.t, "ago"), now-rapid.Int64Range(0, 3600_000).Draw(x.t, "until")
	var all []modelMessage
	if t, ok := x.m.topics[topic]; ok {
		for _, q := range t.queues {
			all = append(all, q.msgs[q.min:]...)
		}
	}
	slices.SortFunc(all, func(a, b modelMessage) int { return int(b.position - a.position) })
	x.compare(topic, kvindex.IndexKey, key, begin, end, limit, all, func(m modelMessage) bool {
		found := false
		eachWord([]byte(m.keys), func(w []byte) bool { found = found || string(w) == key; return true })
		return found
	})
	x.compare(topic, kvindex.IndexUniqueID, id, begin, end, limit, all, func(m modelMessage) bool { return m.id == id })
	if len(all) > 0 {
		m := rapid.SampledFrom(all).Draw(x.t, "message")
		buf := NewBuffer()
		got, err := x.s.ReadByPosition(record.Position(m.position), buf)
		if err != nil || string(message.BodyOf(got)) != m.body {
			x.t.Fatalf("message at %d: %q, %v", m.position, got, err)
		}
		buf.Release()
	}
}

func (x *machine) compare(topic kvindex.ID, kind kvindex.IndexKind, key string, begin, end int64, limit int,
	all []modelMessage, match func(modelMessage) bool,
) {
	var want []string
	for _, m := range all {
		if m.time >= begin && m.time <= end && len(want) < limit && match(m) {
			want = append(want, m.body)
		}
	}
	buf := NewBuffer()
	defer buf.Release()
	ends, err := x.s.Query(topic, kind, key, begin, end, limit, buf)
	if err != nil {
		x.t.Fatal(err)
	}
	if got := bodies(decodeAll(x.t, buf.B, ends)); !slices.Equal(got, want) {
		x.t.Fatalf("%c %s in %d..%d: %q, want %q", kind, key, begin, end, got, want)
	}
}

func TestStoreAgainstTheModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := newPlace(t)
		c := clock.NewFake(epoch)
		o := testOptions(p, c)
		o.Retention = 2 * time.Hour
		x := &machine{t: rt, tb: t, place: p, clock: c, opts: o, s: mustOpen(t, o), m: newModel()}
		defer func() { mustClose(t, x.s) }()
		x.commit([]change{x.putTopic(), x.message()})
		rt.Repeat(map[string]func(*rapid.T){
			"mixed":   func(rt *rapid.T) { x.t = rt; x.mixed() },
			"mixed2":  func(rt *rapid.T) { x.t = rt; x.mixed() },
			"flood":   func(rt *rapid.T) { x.t = rt; x.flood() },
			"advance": func(rt *rapid.T) { x.t = rt; x.advance() },
			"expire":  func(rt *rapid.T) { x.t = rt; x.expire() },
			"restart": func(rt *rapid.T) { x.t = rt; x.restart() },
			"query":   func(rt *rapid.T) { x.t = rt; x.query() },
			"":        func(rt *rapid.T) { x.t = rt; x.check() },
		})
		mustVerify(rt, x.s)
	})
}
