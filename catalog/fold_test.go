package catalog

import (
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/internal/alloctest"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// host applies records to a catalog, one batch at a time.
type host struct {
	engine kvindex.Engine
	c      *Catalog
	batch  *kvindex.Batch
	n      uint64
}

type failer interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
	Cleanup(func())
}

func newHost(t failer) *host {
	t.Helper()
	e, err := kvindex.Open(kvindex.Options{FS: vfs.NewMem(), Dir: "index", Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{engine: e, c: New(e), batch: kvindex.NewBatch(e)}
	t.Cleanup(func() {
		if err := errors.Join(h.batch.Close(), e.Close()); err != nil {
			t.Fatal(err)
		}
	})
	return h
}

// timeOf is the timestamp of batch n.
func timeOf(n uint64) int64 { return int64(1_000 * n) }

// commit applies recs as one batch, without publishing.
func (h *host) commit(t failer, recs ...record.Record) []record.Outcome {
	t.Helper()
	h.n++
	h.batch.Begin(record.Position(h.n*100), h.n, timeOf(h.n))
	var out []record.Outcome
	for _, r := range recs {
		o, err := h.c.Apply(h.batch, record.Position(h.n*100-50), r)
		if err != nil {
			t.Fatalf("apply %v: %v", r.Kind, err)
		}
		out = append(out, o)
	}
	if err := errors.Join(h.c.Finish(h.batch), h.batch.Commit()); err != nil {
		t.Fatal(err)
	}
	return out
}

func (h *host) apply(t failer, recs ...record.Record) []record.Outcome {
	t.Helper()
	out := h.commit(t, recs...)
	h.c.Publish()
	return out
}

func (h *host) topic(t failer, name string) *Topic {
	t.Helper()
	topic, err := h.c.Topic(name)
	if err != nil {
		t.Fatalf("topic %s: %v", name, err)
	}
	return topic
}

func TestADeletedTopicIsMadeAnewUnderANewID(t *testing.T) {
	h := newHost(t)
	out := h.apply(t, h.c.PutTopic(Topic{Name: "a", ReadQueues: 4}), h.c.PutTopic(Topic{Name: "b"}))
	a := h.topic(t, "a")
	if a.ID != 1 || out[0].Offset != 1 || out[1].Offset != 2 || a.Created != timeOf(1) || a.ReadQueues != 4 {
		t.Fatalf("made %+v, outcomes %+v", a, out)
	}
	h.apply(t, h.c.PutTopic(Topic{Name: "a", ReadQueues: 8, Attributes: map[string]string{AttrMessageType: "FIFO"}}))
	if b := h.topic(t, "a"); b.ID != 1 || b.Created != timeOf(1) || b.ReadQueues != 8 || b.MessageType() != "FIFO" {
		t.Fatalf("changed %+v", b)
	}
	del, err := h.c.DeleteTopic(a)
	if err != nil {
		t.Fatal(err)
	}
	// Deleted, made anew and deleted under its old id again, all in one batch.
	out = h.apply(t, del, h.c.PutTopic(Topic{Name: "a"}), del)
	if out[0].Refused || out[0].Offset != 1 || out[1].Offset != 3 || !out[2].Refused {
		t.Fatalf("outcomes %+v", out)
	}
	if a := h.topic(t, "a"); a.ID != 3 || a.Created != timeOf(3) || a.MessageType() != "NORMAL" {
		t.Fatalf("made anew %+v", a)
	}
	if _, err := h.c.TopicByID(1); !errors.Is(err, ErrTopicNotFound) {
		t.Fatalf("the old id: %v", err)
	}
	if a, err := h.c.TopicByID(3); err != nil || a.Name != "a" {
		t.Fatalf("the new id: %+v, %v", a, err)
	}
	if topics, groups := h.c.Counts(); topics != 2 || groups != 0 {
		t.Fatalf("%d topics, %d groups", topics, groups)
	}
	if v, at := h.c.Version(); v != 5 || at != timeOf(3) {
		t.Fatalf("version %d at %d", v, at)
	}
	if again := New(h.engine); *again.counters.Load() != *h.c.counters.Load() {
		t.Fatalf("counters %+v after a restart, %+v before", *again.counters.Load(), *h.c.counters.Load())
	}
}

// rowsUnder counts the rows whose keys begin with prefix.
func rowsUnder(t failer, e kvindex.Reader, prefix []byte) (n int) {
	t.Helper()
	it, err := e.NewIter(prefix, kvindex.PrefixEnd(prefix))
	if err != nil {
		t.Fatal(err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		n++
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		t.Fatal(err)
	}
	return n
}

// plant writes rows as the queue and pop folds have them: for each group and topic a queue, a run, a cursor, a
// checkpoint, a counter and a line.
func plant(t failer, e kvindex.Engine, groups, topics []kvindex.ID) {
	t.Helper()
	w := e.NewWriter()
	for _, topic := range topics {
		w.Set(kvindex.AppendQueueKey(nil, topic, 0), []byte("x"))
		w.Set(kvindex.AppendConsumeQueueKey(nil, topic, 7, 1<<40), []byte("x"))
		for _, g := range groups {
			for q := range int32(3) {
				w.Set(kvindex.AppendCursorKey(nil, g, topic, q), []byte("x"))
			}
			w.Set(kvindex.AppendCheckpointKey(nil, g, topic, 99, 0, 5), []byte("x"))
			w.Set(kvindex.AppendCounterKey(nil, g, topic), []byte("x"))
			w.Set(kvindex.AppendOrderLineKey(nil, g, topic, kvindex.OrderLine, 0, 1), []byte("x"))
		}
	}
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
}

var groupSpaces = []kvindex.Space{kvindex.SpaceCursor, kvindex.SpaceCheckpoint, kvindex.SpaceCounter, kvindex.SpaceOrder}

func TestDeletingATopicTakesItsRowsAndNobodyElses(t *testing.T) {
	h := newHost(t)
	h.apply(t, h.c.PutTopic(Topic{Name: "a"}), h.c.PutTopic(Topic{Name: "b"}), h.c.PutTopic(Topic{Name: "c"}))
	plant(t, h.engine, []kvindex.ID{1, 5, 1 << 60}, []kvindex.ID{1, 2, 3})
	plant(t, h.engine, []kvindex.ID{3, 4}, []kvindex.ID{1})
	plant(t, h.engine, []kvindex.ID{6}, []kvindex.ID{3})
	del, err := h.c.DeleteTopic(h.topic(t, "b"))
	if err != nil {
		t.Fatal(err)
	}
	topic, groups, err := decodeTopicDelete(del.Payload)
	if err != nil || topic != 2 || !slices.Equal(groups, []kvindex.ID{1, 5, 1 << 60}) {
		t.Fatalf("the record lists topic %d and groups %v, %v", topic, groups, err)
	}
	h.apply(t, del)
	for space, want := range map[kvindex.Space]int{
		kvindex.SpaceQueue: 2, kvindex.SpaceConsumeQueue: 2, kvindex.SpaceCursor: 3 * (3*2 + 2 + 1),
		kvindex.SpaceCheckpoint: 3*2 + 2 + 1, kvindex.SpaceCounter: 3*2 + 2 + 1,
		kvindex.SpaceOrder:     3*2 + 2 + 1,
		kvindex.SpaceTopicName: 2, kvindex.SpaceTopicID: 2,
	} {
		if n := rowsUnder(t, h.engine, []byte{byte(space)}); n != want {
			t.Errorf("%v: %d rows left, want %d", space, n, want)
		}
	}
	for _, g := range []kvindex.ID{1, 5, 1 << 60} {
		if n := rowsUnder(t, h.engine, kvindex.AppendCursorTopicPrefix(nil, g, 2)); n != 0 {
			t.Errorf("group %d has %d cursors on the deleted topic", g, n)
		}
	}
	// A group that came to the topic in between is caught by a second record.
	plant(t, h.engine, []kvindex.ID{9}, []kvindex.ID{2})
	again, err := h.c.DeleteTopic(&Topic{ID: 2, Name: "b"})
	if err != nil {
		t.Fatal(err)
	}
	if out := h.apply(t, again); !out[0].Refused {
		t.Errorf("outcome %+v", out[0])
	}
	for _, prefix := range [][]byte{
		kvindex.AppendCursorTopicPrefix(nil, 9, 2), kvindex.AppendCheckpointTopicPrefix(nil, 9, 2),
		kvindex.AppendCounterKey(nil, 9, 2), kvindex.AppendOrderTopicPrefix(nil, 9, 2),
	} {
		if n := rowsUnder(t, h.engine, prefix); n != 0 {
			t.Errorf("%d late rows left under %x", n, prefix)
		}
	}
}

func TestDeletingAGroupKeepsItsOffsetsUnlessAsked(t *testing.T) {
	h := newHost(t)
	h.apply(t, h.c.PutGroup(DefaultGroup("g")), h.c.PutGroup(DefaultGroup("h")))
	plant(t, h.engine, []kvindex.ID{1, 2}, []kvindex.ID{1, 2})
	g, err := h.c.Group("g")
	if err != nil || g.ID != 1 || g.RetryMaxTimes != 16 {
		t.Fatalf("%+v, %v", g, err)
	}
	rows := func() (n int) {
		for _, space := range groupSpaces {
			n += rowsUnder(t, h.engine, []byte{byte(space)})
		}
		return n
	}
	all := rows()
	if out := h.apply(t, h.c.DeleteGroup(g, false)); out[0].Refused || out[0].Offset != 1 {
		t.Fatalf("outcome %+v", out[0])
	}
	if _, err := h.c.Group("g"); !errors.Is(err, ErrGroupNotFound) {
		t.Fatalf("after the deletion: %v", err)
	}
	if _, err := h.c.GroupByID(1); !errors.Is(err, ErrGroupNotFound) {
		t.Fatalf("by id, after the deletion: %v", err)
	}
	if _, groups := h.c.Counts(); groups != 1 || rows() != all {
		t.Fatalf("%d groups, %d of %d rows", groups, rows(), all)
	}
	if out := h.apply(t, h.c.DeleteGroup(g, false)); !out[0].Refused {
		t.Fatal("a group was deleted twice")
	}
	out := h.apply(t, h.c.PutGroup(DefaultGroup("g")))
	if g, err = h.c.Group("g"); err != nil || g.ID != 1 || out[0].Offset != 1 || g.Created != timeOf(h.n) {
		t.Fatalf("made anew: %+v, %v", g, err)
	}
	h.apply(t, h.c.DeleteGroup(g, true))
	if rows() != all/2 {
		t.Fatalf("%d of %d rows left", rows(), all)
	}
	h.apply(t, h.c.PutGroup(DefaultGroup("g")))
	if g, err = h.c.Group("g"); err != nil || g.ID != 3 {
		t.Fatalf("made anew after its offsets went: %+v, %v", g, err)
	}
}

func TestKVConfiguration(t *testing.T) {
	h := newHost(t)
	out := h.apply(t, h.c.PutKV("ns", "k", "1"), h.c.PutKV("ns", "l", ""), h.c.PutKV("nsk", "", "2"),
		h.c.DeleteKV("ns", "none"), h.c.PutKV("n", "sk", "3"))
	if !out[3].Refused || out[0].Refused {
		t.Fatalf("outcomes %+v", out)
	}
	if got, err := h.c.KVList("ns"); err != nil || !maps.Equal(got, map[string]string{"k": "1", "l": ""}) {
		t.Fatalf("%v, %v", got, err)
	}
	if v, ok, err := h.c.KV("nsk", ""); v != "2" || !ok || err != nil {
		t.Fatalf("%q, %v, %v", v, ok, err)
	}
	h.apply(t, h.c.DeleteKV("ns", "k"))
	if _, ok, err := h.c.KV("ns", "k"); ok || err != nil {
		t.Fatalf("%v, %v", ok, err)
	}
	if v, _ := h.c.Version(); v != 0 {
		t.Fatal("KV configuration counts as a change of topics")
	}
}

// A lookup that began before a change and ends after it must not leave the old value in the cache.
func TestASlowLookupDoesNotBringAnOldTopicBack(t *testing.T) {
	h := newHost(t)
	h.apply(t, h.c.PutTopic(Topic{Name: "a", ReadQueues: 1}))
	_, _, epoch := h.c.topicsByName.Get("a")
	old, err := h.c.readTopic("a")
	if err != nil {
		t.Fatal(err)
	}
	h.apply(t, h.c.PutTopic(Topic{Name: "a", ReadQueues: 2}))
	h.c.topicsByName.Fill("a", old, epoch)
	if got := h.topic(t, "a"); got.ReadQueues != 2 {
		t.Fatalf("%+v", got)
	}
}

func TestLookupsFollowPublicationUnderLoad(t *testing.T) {
	h := newHost(t)
	h.apply(t, h.c.PutTopic(Topic{Name: "a"}))
	var published atomic.Int32
	var wg sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				floor := published.Load()
				a, err := h.c.Topic("a")
				byID, err2 := h.c.TopicByID(1)
				if err := errors.Join(err, err2); err != nil || a.ReadQueues < floor || byID.ReadQueues < floor {
					t.Errorf("%+v, %+v, %v after %d was published", a, byID, err, floor)
					return
				}
			}
		})
	}
	for i := int32(1); i <= 2000; i++ {
		h.apply(t, h.c.PutTopic(Topic{Name: "a", ReadQueues: i}))
		published.Store(i)
	}
	close(stop)
	wg.Wait()
}

func TestUnknownNamesAreNotCached(t *testing.T) {
	h := newHost(t)
	for range 3 {
		if _, err := h.c.Topic("none"); !errors.Is(err, ErrTopicNotFound) {
			t.Fatal(err)
		}
		if _, err := h.c.GroupByID(77); !errors.Is(err, ErrGroupNotFound) {
			t.Fatal(err)
		}
	}
	if n := h.c.topicsByName.Len() + h.c.groupsByID.Len(); n != 0 {
		t.Fatalf("%d entries for names that do not exist", n)
	}
}

// Random changes against a map.
func TestCatalogAgainstAModel(t *testing.T) {
	type entry struct {
		id     kvindex.ID
		queues int32
	}
	rapid.Check(t, func(t *rapid.T) {
		h := newHost(t)
		model := map[string]entry{}
		last := kvindex.ID(0)
		changes := int64(0)
		name := rapid.SampledFrom([]string{"a", "b", "c", "%RETRY%g"})
		for range rapid.IntRange(1, 30).Draw(t, "batches") {
			var recs []record.Record
			var want []record.Outcome
			for range rapid.IntRange(1, 4).Draw(t, "records") {
				n := name.Draw(t, "name")
				if rapid.Bool().Draw(t, "put") {
					queues := rapid.Int32Range(0, 9).Draw(t, "queues")
					recs = append(recs, h.c.PutTopic(Topic{Name: n, ReadQueues: queues}))
					e, ok := model[n]
					if !ok {
						last++
						e.id = last
					}
					e.queues = queues
					model[n] = e
					changes++
					want = append(want, record.Outcome{Offset: int64(e.id)})
					continue
				}
				id := kvindex.ID(rapid.IntRange(1, 20).Draw(t, "id"))
				del, err := h.c.DeleteTopic(&Topic{ID: id})
				if err != nil {
					t.Fatal(err)
				}
				recs = append(recs, del)
				o := record.Outcome{Offset: int64(id), Refused: true}
				for n, e := range model {
					if e.id == id {
						o.Refused = false
						changes++
						delete(model, n)
					}
				}
				want = append(want, o)
			}
			if got := h.apply(t, recs...); !slices.Equal(got, want) {
				t.Fatalf("outcomes %+v, want %+v", got, want)
			}
			seen := map[string]entry{}
			if err := h.c.EachTopic(func(topic *Topic) bool {
				seen[topic.Name] = entry{topic.ID, topic.ReadQueues}
				return true
			}); err != nil {
				t.Fatal(err)
			}
			if !maps.Equal(seen, model) {
				t.Fatalf("topics %+v, want %+v", seen, model)
			}
			for n, e := range model {
				byName, err := h.c.Topic(n)
				byID, err2 := h.c.TopicByID(e.id)
				if err := errors.Join(err, err2); err != nil || byName.ID != e.id || byID.ReadQueues != e.queues {
					t.Fatalf("%s: %+v, %+v, %v", n, byName, byID, err)
				}
			}
			version, _ := h.c.Version()
			if topics, _ := h.c.Counts(); topics != len(model) || version != changes {
				t.Fatalf("%d topics, version %d; want %d, %d", topics, version, len(model), changes)
			}
		}
	})
}

func FuzzDecodeRecords(f *testing.F) {
	c := &Catalog{}
	f.Add(c.PutTopic(Topic{Name: "a"}).Payload)
	f.Add(c.DeleteGroup(&Group{ID: 3}, true).Payload)
	f.Add(c.PutKV("n", "k", "v").Payload)
	f.Add(encodeTopicDelete(1, []kvindex.ID{2, 3}))
	f.Add(appendEntryRow(nil, 1, 2, stateLive, []byte(`{"topicName":"a"}`)))
	f.Add(counters{lastTopic: 1}.appendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		alloctest.AtMost(t, 100*len(b), func() {
			_, _, _ = decodePut(b)
			_, _, _ = decodeTopicDelete(b)
			_, _, _ = decodeGroupDelete(b)
			_, _, _, _, _ = decodeKVPut(b)
		})
		if n, err := decodeCounters(b); err == nil && string(n.appendTo(nil)) != string(b) {
			t.Errorf("counters %x came back as %x", b, n.appendTo(nil))
		}
		if row, err := decodeEntryRow(b); err == nil &&
			string(appendEntryRow(nil, row.id, row.created, row.state, row.config)) != string(b) {
			t.Errorf("row %x did not come back", b)
		}
		_, _ = decodeTopic(b)
		_, _ = decodeGroup(b)
	})
}
