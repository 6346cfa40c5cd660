package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
)

func TestSendAndReadAcrossARestart(t *testing.T) {
	o := testOptions(newPlace(t), clock.NewFake(epoch))
	s := mustOpen(t, o)
	topic := putTopic(t, s, "orders")
	var want []string
	for i := range 10 {
		var notes []note
		for j := range 30 {
			body := fmt.Sprintf("%d-%d", i, j)
			want = append(want, body)
			notes = append(notes, note{topic: topic, queue: 3, body: body, id: body})
		}
		out := send(t, s, notes...)
		for j, o := range out {
			if o.Refused || o.Offset != int64(i*30+j) {
				t.Fatalf("outcome %+v of message %d", o, i*30+j)
			}
		}
	}
	for range 2 {
		if got := bodies(readAll(t, s, topic, 3, 0, 1000)); !slices.Equal(got, want) {
			t.Fatalf("read %v", got)
		}
		if got := bodies(readAll(t, s, topic, 3, 145, 7)); !slices.Equal(got, want[145:152]) {
			t.Fatalf("read %v from 145", got)
		}
		if low, high, err := s.Bounds(topic, 3); low != 0 || high != 300 || err != nil {
			t.Fatalf("bounds %d, %d, %v", low, high, err)
		}
		mustVerify(t, s)
		mustClose(t, s)
		s = mustOpen(t, o)
	}
	mustClose(t, s)
}

func TestArrivalsAreToldBeforeTheAnswer(t *testing.T) {
	type arrival struct {
		queue int32
		first int64
		tags  []int64
	}
	var mu sync.Mutex
	var got []arrival
	o := testOptions(newPlace(t), clock.NewFake(epoch))
	var topic kvindex.ID
	o.OnApplied = func(as []Arrival) {
		mu.Lock()
		defer mu.Unlock()
		for _, a := range as {
			if a.Topic != topic || a.Count != len(a.TagHashes) {
				t.Errorf("arrival %+v", a)
			}
			got = append(got, arrival{a.Queue, a.First, slices.Clone(a.TagHashes)})
		}
	}
	s := mustOpen(t, o)
	topic = putTopic(t, s, "a")
	send(t, s, note{topic: topic, queue: 2, tag: "x"}, note{topic: topic, queue: 1}, note{topic: topic, queue: 2, tag: "y"},
		note{topic: 99, queue: 0})
	want := []arrival{
		{2, 0, []int64{message.TagHash("x"), message.TagHash("y")}}, {1, 0, []int64{0}},
	}
	check := func() {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if !slices.EqualFunc(got, want, func(a, b arrival) bool {
			return a.queue == b.queue && a.first == b.first && slices.Equal(a.tags, b.tags)
		}) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	}
	check()
	del, err := s.Catalog.DeleteTopic(&catalog.Topic{ID: topic})
	if err != nil {
		t.Fatal(err)
	}
	// What a batch adds to a topic that it deletes never arrives.
	mustAppend(t, s, note{topic: topic, queue: 5}.record(t), del)
	check()
	mustClose(t, s)
	mustClose(t, mustOpen(t, o)) // a recovery tells nobody: nobody waits yet
	check()
}

func TestReadMessagesKeepsToItsBounds(t *testing.T) {
	o := testOptions(newPlace(t), clock.NewFake(epoch))
	s := mustOpen(t, o)
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	// Neighbours, gaps of all sizes, and some twenty segments.
	for i := range 300 {
		filler := note{topic: topic, queue: 1, body: strings.Repeat("f", i*37%9000)}
		send(t, s, note{topic: topic, body: fmt.Sprintf("%04d", i)}, filler)
	}
	entries, err := s.Entries(topic, 0, 0, 1000, nil)
	if err != nil || len(entries) != 300 {
		t.Fatalf("%d entries, %v", len(entries), err)
	}
	size := int(entries[0].Size)
	for _, c := range []struct{ maxBytes, want int }{
		{0, 1}, {size, 1}, {2*size - 1, 1}, {2 * size, 2}, {10*size + 1, 10}, {1 << 30, 300},
	} {
		buf := NewBuffer()
		buf.B = append(buf.B, "before"...)
		ends, err := s.ReadMessages(entries, c.maxBytes, buf)
		if err != nil || len(ends) != c.want || string(buf.B[:6]) != "before" {
			t.Fatalf("%d bytes: %d messages, %v", c.maxBytes, len(ends), err)
		}
		for i := range ends {
			ends[i] -= 6
		}
		for i, m := range decodeAll(t, buf.B[6:], ends) {
			if string(m.Body) != fmt.Sprintf("%04d", i) || m.QueueOffset != int64(i) {
				t.Fatalf("message %d: %+v", i, m)
			}
		}
		buf.Release()
	}
	if ends, err := s.ReadMessages(nil, 100, NewBuffer()); err != nil || len(ends) != 0 {
		t.Fatalf("%v, %v", ends, err)
	}
	for _, at := range []int64{-1, 300, 1 << 60} {
		if _, err := s.StoreTime(topic, 0, at); !errors.Is(err, ErrNotFound) {
			t.Errorf("store time of offset %d: %v", at, err)
		}
	}
	buf := NewBuffer()
	defer buf.Release()
	e := entries[7]
	for at, found := range map[record.Position]bool{
		e.Position: true, e.Position + 1: false, e.Position - 9: false, -1: false, 0: false, 1 << 60: false,
		s.log.Committed(): false, s.log.Committed() - 1: false,
	} {
		if _, err := s.ReadByPosition(at, buf); (err == nil) != found || err != nil && !errors.Is(err, ErrNotFound) {
			t.Errorf("message at %d: %v", at, err)
		}
	}
}

// A body may hold what looks like a record of a message; its position must not pass for one.
func TestARecordInABodyIsNoMessage(t *testing.T) {
	s := mustOpen(t, testOptions(newPlace(t), clock.NewFake(epoch)))
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	send(t, s, note{topic: topic, body: "inner"})
	entries, err := s.Entries(topic, 0, 0, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := s.log.ReadRaw(entries[0].Position, int(entries[0].Size), nil)
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, note{topic: topic, body: string(raw)})
	if entries, err = s.Entries(topic, 0, 1, 1, nil); err != nil {
		t.Fatal(err)
	}
	outer, err := s.log.ReadRaw(entries[0].Position, int(entries[0].Size), nil)
	if err != nil {
		t.Fatal(err)
	}
	at := strings.Index(string(outer), string(raw))
	buf := NewBuffer()
	defer buf.Release()
	if _, err := s.ReadByPosition(entries[0].Position+record.Position(at), buf); at < 0 || !errors.Is(err, ErrNotFound) {
		t.Fatalf("the inner record, %d bytes into the outer one: %v", at, err)
	}
}

func TestAppendLeavesWhenItsContextEnds(t *testing.T) {
	o := testOptions(newPlace(t), clock.NewFake(epoch))
	hold := make(chan struct{})
	var topic kvindex.ID
	o.OnApplied = func(as []Arrival) {
		if len(as) > 0 {
			<-hold
		}
	}
	s := mustOpen(t, o)
	topic = putTopic(t, s, "a")
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	n := note{topic: topic, body: "b"}
	if _, err := s.Append(ctx, n.record(t)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("append: %v", err)
	}
	close(hold)
	if out := send(t, s, n); out[0].Offset != 1 {
		t.Fatalf("outcome %+v: the first one was proposed all the same", out[0])
	}
	mustClose(t, s)
	if _, err := s.Append(context.Background(), n.record(t)); !errors.Is(err, commitlog.ErrClosed) {
		t.Fatalf("append to a closed store: %v", err)
	}
}

// Senders, readers at the tail, topics that come and go, trims and a check of the whole view, all at once.
func TestEverythingAtOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	o := testOptions(newPlace(t), clock.System)
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	topic := putTopic(t, s, "a")
	const senders, each = 3, 400
	var writers, others sync.WaitGroup
	stop := make(chan struct{})
	for q := range int32(senders) {
		writers.Go(func() {
			for i := range each {
				out := send(t, s, note{topic: topic, queue: q, id: fmt.Sprintf("%d-%d", q, i), body: fmt.Sprint(i)})
				if out[0].Offset != int64(i) {
					t.Errorf("message %d of queue %d got offset %d", i, q, out[0].Offset)
				}
				if _, high, err := s.Bounds(topic, q); err != nil || high != int64(i)+1 {
					t.Errorf("queue %d ends at %d after message %d was acknowledged, %v", q, high, i, err)
				}
			}
		})
		writers.Go(func() {
			for next := int64(0); next < each; {
				for _, m := range readAll(t, s, topic, q, next, 32) {
					if string(m.Body) != fmt.Sprint(next) {
						t.Errorf("queue %d: message %d is %q", q, next, m.Body)
						return
					}
					next++
				}
				runtime.Gosched()
			}
		})
	}
	others.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			id := putTopic(t, s, "b")
			send(t, s, note{topic: id, body: "b"}, note{topic: id, body: "c"})
			mustAppend(t, s, record.Record{Kind: record.KindTrim, Payload: encodeTrim([]trim{{id, 0, 1}})})
			if low, high, err := s.Bounds(id, 0); low != 1 || high != 2 || err != nil {
				t.Errorf("topic %d: %d..%d, %v", id, low, high, err)
			}
			del, err := s.Catalog.DeleteTopic(&catalog.Topic{ID: id})
			if err != nil {
				t.Error(err)
				return
			}
			mustAppend(t, s, del)
			if low, high, err := s.Bounds(id, 0); low != 0 || high != 0 || err != nil {
				t.Errorf("deleted topic %d: %d..%d, %v", id, low, high, err)
			}
			if i%20 == 5 {
				if err := s.Verify(context.Background()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	writers.Wait()
	close(stop)
	others.Wait()
	mustVerify(t, s)
	mustClose(t, s)
}

// An idle topic is a few rows: no file, no goroutine, no place in memory beyond the bounded caches.
func TestAnIdleTopicIsAFewRows(t *testing.T) {
	p := newPlace(t)
	o := testOptions(p, clock.NewFake(epoch))
	o.SegmentSize = 64 << 20
	s := mustOpen(t, o)
	files := func() int {
		t.Helper()
		n := 0
		for _, dir := range []string{o.Dir, o.path(logFolder)} {
			names, err := p.fs.List(dir)
			if err != nil {
				t.Fatal(err)
			}
			n += len(names)
		}
		return n
	}
	putTopic(t, s, "first")
	eventually(t, "the next segment to be made", func() bool {
		names, err := p.fs.List(o.path(logFolder))
		return err == nil && len(names) > 1
	})
	rows := func() int { return rowsIn(t, s.engine, kvindex.Spaces()...) }
	rowsBefore, filesBefore, goroutines := rows(), files(), runtime.NumGoroutine()
	const topics = 4000
	for from := 0; from < topics; from += 500 {
		var recs []record.Record
		for i := range 500 {
			recs = append(recs, s.Catalog.PutTopic(catalog.Topic{Name: fmt.Sprintf("t%d", from+i), ReadQueues: 8, WriteQueues: 8}))
		}
		var notes []note
		for _, out := range mustAppend(t, s, recs...) {
			notes = append(notes, note{topic: kvindex.ID(out.Offset), id: fmt.Sprint(out.Offset), body: "b"})
		}
		send(t, s, notes...)
	}
	// Name, id, bounds, run, bucket, unique id; the hour's own row once.
	if n := rows() - rowsBefore; n != 6*topics+1 {
		t.Errorf("%d rows for %d topics", n, topics)
	}
	if n := files() - filesBefore; n != 0 {
		t.Errorf("%d files more", n)
	}
	if n := runtime.NumGoroutine() - goroutines; n > 2 {
		t.Errorf("%d goroutines more", n)
	}
	if n := s.queues.bounds.Len(); n > cachedQueues {
		t.Errorf("%d bounds are cached", n)
	}
	mustVerify(t, s)
	mustClose(t, s)
	if n := len(s.queues.index) + len(s.queues.touched); n != 0 {
		t.Errorf("the fold remembers %d queues of the last batch", n)
	}
}

// The rows that one message costs have a bound.
func TestOnlySoManyKeysAreIndexed(t *testing.T) {
	s := mustOpen(t, testOptions(newPlace(t), clock.NewFake(epoch)))
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	var words []string
	for i := range 3 * indexedWords {
		words = append(words, fmt.Sprint("w", i))
	}
	send(t, s, note{topic: topic, keys: strings.Join(words, " "), id: "id", body: "b"})
	if n := rowsIn(t, s.engine, kvindex.SpaceKeyIndex); n != indexedWords+1 {
		t.Fatalf("%d rows", n)
	}
	for i, want := range map[int]int{0: 1, indexedWords - 1: 1, indexedWords: 0} {
		buf := NewBuffer()
		ends, err := s.Query(topic, kvindex.IndexKey, words[i], 0, 1<<60, 9, buf)
		if err != nil || len(ends) != want {
			t.Errorf("word %d: %d messages, %v", i, len(ends), err)
		}
		buf.Release()
	}
}

// Two keys may share a hash; then the rows of one are found for the other.
func TestQueryComparesTheKeyItself(t *testing.T) {
	s := mustOpen(t, testOptions(newPlace(t), clock.NewFake(epoch)))
	defer mustClose(t, s)
	topic := putTopic(t, s, "a")
	out := send(t, s, note{topic: topic, keys: "k1 k2", id: "id", body: "b"})
	entries, err := s.Entries(topic, 0, out[0].Offset, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	w := s.engine.NewWriter()
	ms := epoch.UnixMilli()
	for kind, key := range map[kvindex.IndexKind]string{kvindex.IndexKey: "k3", kvindex.IndexUniqueID: "id2"} {
		w.Set(kvindex.AppendKeyIndexKey(nil, kvindex.HourOf(ms), topic, kind, kind.Hash(key), ms, int64(entries[0].Position)),
			binary.AppendUvarint([]byte{0}, uint64(entries[0].Size)))
	}
	if err := errors.Join(w.Commit(), w.Close()); err != nil {
		t.Fatal(err)
	}
	buf := NewBuffer()
	defer buf.Release()
	for _, c := range []struct {
		kind kvindex.IndexKind
		key  string
		want int
	}{
		{kvindex.IndexKey, "k1", 1}, {kvindex.IndexKey, "k2", 1}, {kvindex.IndexKey, "k3", 0},
		{kvindex.IndexUniqueID, "id", 1}, {kvindex.IndexUniqueID, "id2", 0},
	} {
		if ends, err := s.Query(topic, c.kind, c.key, 0, 1<<60, 9, buf); err != nil || len(ends) != c.want {
			t.Errorf("%c %s: %d messages, %v", c.kind, c.key, len(ends), err)
		}
	}
}
