package broker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/filter"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/message"
)

func sqlFilter(t testing.TB, expression string) *filter.Expr {
	t.Helper()
	f, err := filter.ParseSQL(expression)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// sendNumbered stores n messages in queue 0, one batch for each 500, with their number as body and as property n.
func (tb *testBroker) sendNumbered(t testing.TB, topic string, n, size int) {
	t.Helper()
	var messages []message.Message
	for i := range n {
		body := strconv.Itoa(i)
		messages = append(messages, plain(body+strings.Repeat(" ", size), "n", body))
		if len(messages) == min(500, 1+(1<<20)/(size+1)) || i == n-1 {
			tb.send(t, topic, 0, messages...)
			messages = messages[:0]
		}
	}
}

// pulledFrom pulls once, and answers the offsets that it got.
func (tb *testBroker) pulledFrom(t testing.TB, req PullRequest) (*PullResult, []int64) {
	t.Helper()
	req.Group, req.Topic, req.CommitOffset = "g", "t", -1
	res, err := tb.Pull(context.Background(), &req)
	if err != nil {
		t.Fatal(err)
	}
	var offsets []int64
	if res.Buffer != nil {
		for _, m := range decodeAll(t, res.Buffer.B, res.Ends) {
			offsets = append(offsets, m.QueueOffset)
		}
		res.Buffer.Release()
	}
	return res, offsets
}

func TestPullFiltersByProperties(t *testing.T) {
	b := openBroker(t)
	b.sendNumbered(t, "t", 1000, 0)
	for _, c := range []struct {
		expression string
		offset     int64
		most       int
		status     PullStatus
		want       []int64
		next       int64
	}{
		{"n BETWEEN 500 AND 503", 0, 32, PullFound, []int64{500, 501, 502, 503}, 1000},
		{"n BETWEEN 500 AND 503", 0, 3, PullFound, []int64{500, 501, 502}, 503},
		{"n BETWEEN 500 AND 503", 0, 4, PullFound, []int64{500, 501, 502, 503}, 504},
		{"n BETWEEN 500 AND 503", 502, 4, PullFound, []int64{502, 503}, 1000},
		{"n BETWEEN 500 AND 503", 504, 4, PullNoMatch, nil, 1000},
		{"n = '0' OR n = '999'", 0, 4, PullFound, []int64{0, 999}, 1000},
		{"n >= 0", 996, 32, PullFound, []int64{996, 997, 998, 999}, 1000},
		{"TAGS IS NOT NULL", 0, 4, PullNoMatch, nil, 1000},
		{"TRUE", 1000, 4, PullNoNewMessage, nil, 1000},
	} {
		f := sqlFilter(t, c.expression)
		res, offsets := b.pulledFrom(t, PullRequest{Offset: c.offset, MaxMessages: c.most, Filter: f})
		if res.Status != c.status || !slices.Equal(offsets, c.want) || res.NextOffset != c.next {
			t.Errorf("%s from %d: status %d, %v, next %d, want %+v", c.expression, c.offset, res.Status, offsets, res.NextOffset, c)
		}
	}
}

// TestSiftingFindsAll pulls through a queue with messages of all sizes, and compares with all of it.
func TestSiftingFindsAll(t *testing.T) {
	b := openBroker(t)
	const n = 600
	for i := range n {
		b.send(t, "t", 0, plain(strings.Repeat("x", (i%7)*(i%11)*(i%13)*100), "n", strconv.Itoa(i), "tens", strconv.Itoa(i/10%10)))
	}
	rapid.Check(t, func(rt *rapid.T) {
		low, tens := rapid.IntRange(0, n).Draw(rt, "low"), rapid.IntRange(0, 20).Draw(rt, "tens")
		f := sqlFilter(t, fmt.Sprintf("n > %d AND tens < %d", low, tens))
		req := PullRequest{
			Filter: f, MaxMessages: rapid.IntRange(0, 40).Draw(rt, "most"), MaxBytes: rapid.IntRange(0, 300<<10).Draw(rt, "bytes"),
		}
		var want, got []int64
		for i := range n {
			if i > low && i/10%10 < tens {
				want = append(want, int64(i))
			}
		}
		for req.Offset < n {
			res, offsets := b.pulledFrom(t, req)
			if res.NextOffset <= req.Offset || (res.Status == PullFound) != (len(offsets) > 0) {
				rt.Fatalf("from %d: %+v, %v", req.Offset, res, offsets)
			}
			if bytes := res.Ends; len(bytes) > 1 && req.MaxBytes > 0 && bytes[len(bytes)-1] > req.MaxBytes {
				rt.Fatalf("%d bytes, at most %d", bytes[len(bytes)-1], req.MaxBytes)
			}
			got = append(got, offsets...)
			req.Offset = res.NextOffset
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%s: %v, want %v", f, got, want)
		}
	})
}

func TestSiftingIsBounded(t *testing.T) {
	b := openBroker(t)
	const n, size = 400, 100 << 10
	b.sendNumbered(t, "t", n, size)
	f := sqlFilter(t, fmt.Sprintf("n = %d", n-1))
	var offset, pulls int64
	for {
		res, offsets := b.pulledFrom(t, PullRequest{Offset: offset, Filter: f})
		pulls++
		if looked := res.NextOffset - offset; looked*size > maxSift+size {
			t.Fatalf("one look read %d messages of %d bytes", looked, size)
		}
		if offset = res.NextOffset; len(offsets) > 0 {
			break
		}
		if res.Status != PullNoMatch || offset >= n {
			t.Fatalf("pull %d: %+v", pulls, res)
		}
	}
	if least := int64(n*size/maxSift) + 1; offset != n || pulls > least {
		t.Errorf("%d pulls to offset %d, want %d", pulls, offset, least)
	}
	// An expression that is dear to evaluate counts for what it costs.
	long := sqlFilter(t, "n = 'x'"+strings.Repeat(" OR n CONTAINS 'x'", 500))
	b.send(t, "dear", 0, slices.Repeat([]message.Message{plain("", "n", strings.Repeat("0", 20000))}, 10)...)
	res, err := b.Pull(context.Background(), &PullRequest{Group: "g", Topic: "dear", Filter: long, CommitOffset: -1})
	if err != nil || res.Status != PullNoMatch || res.NextOffset != 1 {
		t.Errorf("a dear one: %+v, %v", res, err)
	}
}

// What comes before a damaged message is answered; the message itself says so, whether it is wanted or not.
func TestSiftingUpToADamagedMessage(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	r.send(t, "t", 0, plain("good", "n", "0"), plain("DAMAGED-1", "n", "1"), plain("good", "n", "2"), plain("DAMAGED-2"))
	r.damage(t, "DAMAGED-1")
	r.damage(t, "DAMAGED-2")
	res, offsets := r.pulledFrom(t, PullRequest{Filter: sqlFilter(t, "n >= 0")})
	if !slices.Equal(offsets, []int64{0}) || res.NextOffset != 1 {
		t.Errorf("what is wanted: %v, next %d", offsets, res.NextOffset)
	}
	if res, _ = r.pulledFrom(t, PullRequest{Filter: sqlFilter(t, "n = 2")}); res.Status != PullNoMatch || res.NextOffset != 1 {
		t.Errorf("what is not: %+v", res)
	}
	var corrupt *commitlog.CorruptError
	_, err := r.Pull(context.Background(), &PullRequest{
		Group: "g", Topic: "t", Offset: 1, Filter: sqlFilter(t, "n = 2"), CommitOffset: -1,
	})
	if !errors.As(err, &corrupt) {
		t.Errorf("the damaged one: %v", err)
	}
	if _, offsets = r.pulledFrom(t, PullRequest{Offset: 2, Filter: sqlFilter(t, "n = 2")}); !slices.Equal(offsets, []int64{2}) {
		t.Errorf("behind it: %v", offsets)
	}
	r.repair(t)
}

// A message whose segment was deleted is passed over.
func TestSiftingWhatIsGone(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	for i := range 8 {
		r.send(t, "t", 0, plain(strings.Repeat("x", 300_000), "n", strconv.Itoa(i)))
	}
	r.clock.Advance(80 * time.Hour)
	r.send(t, "t", 0, plain("young", "n", "8"))
	if err := r.store.Expire(context.Background(), r.clock.Now()); err != nil {
		t.Fatal(err)
	}
	req := PullRequest{Filter: sqlFilter(t, "n <> 5")}
	res, offsets := r.pulledFrom(t, req)
	if res.Status != PullOffsetMoved || res.NextOffset == 0 {
		t.Fatalf("from the beginning: %+v", res)
	}
	for req.Offset = res.NextOffset; len(offsets) == 0; req.Offset = res.NextOffset {
		if res, offsets = r.pulledFrom(t, req); res.NextOffset <= req.Offset {
			t.Fatalf("from %d: %+v", req.Offset, res)
		}
	}
	if last := offsets[len(offsets)-1]; last > 8 {
		t.Errorf("offsets %v", offsets)
	}
}

func TestPullGoesOnWaitingBehindWhatItDoesNotWant(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	b.topicOf(t, "t", 1)
	b.group(t, "g")
	b.send(t, "t", 0, plain("old", "n", "1"))
	req := PullRequest{Group: "g", Topic: "t", Suspend: 15 * time.Second, Filter: sqlFilter(t, "n > 5")}
	waiting, _ := b.suspended(t, req)
	late, _ := b.suspended(t, PullRequest{Group: "g", Topic: "t", Suspend: 15 * time.Second, Filter: sqlFilter(t, "n > 9")})
	cancelled, cancel := b.suspended(t, req)
	for i := range 5 {
		b.send(t, "t", 0, plain("unwanted", "n", strconv.Itoa(i)), plain("without"))
		wantSilence(t, "unwanted", waiting)
	}
	cancel()
	if got := receive(t, cancelled); got.err != nil || got.res.Status == PullFound {
		t.Errorf("cancelled: %+v, %v", got.res, got.err)
	}
	b.send(t, "t", 0, plain("wanted", "n", "6"))
	got := receive(t, waiting)
	if got.err != nil || got.res.Status != PullFound || got.res.NextOffset != 12 ||
		!slices.Equal(bodies(decodeAll(t, got.res.Buffer.B, got.res.Ends)), []string{"wanted"}) {
		t.Fatalf("woken: %+v, %v", got.res, got.err)
	}
	got.res.Buffer.Release()
	wantSilence(t, "before its deadline", late)
	c.Advance(15 * time.Second)
	if got := receive(t, late); got.err != nil || got.res.Status != PullNoMatch || got.res.NextOffset != 12 {
		t.Errorf("at the deadline: %+v, %v", got.res, got.err)
	}
	wantSilence(t, "second answer", waiting)
}

func TestPopFiltersByProperties(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	r.sendNumbered(t, "t", 40000, 300)
	req := popOf(5)
	req.Filter = sqlFilter(t, "n ENDSWITH '7000' OR n IN ('8', '39999')")
	var got []string
	for len(got) < 6 {
		bodies, _ := r.popBodies(t, req)
		if len(bodies) == 0 {
			t.Fatalf("nothing after %v, though there is more", got)
		}
		for _, b := range bodies {
			got = append(got, strings.TrimSpace(b))
		}
	}
	wantBodies(t, "a few of many", got, "8", "7000", "17000", "27000", "37000", "39999")
	if bodies, _ := r.popBodies(t, req); bodies != nil {
		t.Errorf("behind all: %v", bodies)
	}
	// What was not settled comes again, by the filter of who asks.
	r.clock.Advance(time.Minute)
	req.Filter = sqlFilter(t, "n < 20000")
	bodies, handles := r.popBodies(t, req)
	if len(bodies) != 3 || len(handles) != 3 {
		t.Errorf("again: %v", bodies)
	}
}

func TestPopGoesOnWaitingBehindWhatItDoesNotWant(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	req := waitingPop(4)
	req.Filter = sqlFilter(t, "n > 5")
	over := r.popLater(context.Background(), req)
	for i := range 5 {
		r.send(t, "t", 0, plain("unwanted", "n", strconv.Itoa(i)))
	}
	r.send(t, "t", 0, plain("wanted", "n", "6"))
	got := <-over
	if got.err != nil {
		t.Fatal(got.err)
	}
	wantBodies(t, "woken", bodiesOf(t, got.res), "wanted")
}

// A pop whose time is over does not go on through a long queue; the next one begins where it ended.
func TestPopEndsInTimeOnALongWay(t *testing.T) {
	r := newPopRig(t)
	r.topicOf(t, "t", 1)
	r.group(t, "g")
	r.sendNumbered(t, "t", 3*maxSift/(100<<10), 100<<10)
	req := popOf(1)
	req.Filter = sqlFilter(t, "n < 0")
	looks := 0
	for {
		p := &popping{b: r.Broker, p: r.pop, ctx: context.Background(), req: &req, deadline: r.clock.Now()}
		if res, err := p.look(); res != nil || err != nil {
			t.Fatal(res, err)
		}
		s, err := r.pop.stand(r.placeOf(t, 0))
		if err != nil {
			t.Fatal(err)
		}
		if looks++; s.next == s.high {
			break
		}
	}
	if looks < 3 || looks > 4 {
		t.Errorf("%d looks", looks)
	}
}

// A word may be a tag or an expression: those that wait for one and the other want different messages.
func TestFiltersOfOneTextAreNotTheSame(t *testing.T) {
	r := newWaitRig(10)
	r.add(t, "tag", waiter{topic: 1, group: 1, queue: -1, filter: tags(t, "TRUE")})
	r.add(t, "SQL", waiter{topic: 1, group: 1, queue: -1, filter: sqlFilter(t, "TRUE")})
	r.arrived(arrival(1, 0, "FALSE"))
	r.wantWoken(t, "another tag", "SQL")
	r.arrived(arrival(1, 0, "TRUE"))
	r.wantWoken(t, "the tag", "tag")
}

// BenchmarkPullFiltered pulls through a queue of which one in a thousand matches.
func BenchmarkPullFiltered(b *testing.B) {
	br := &testBroker{Broker: openOnDisk(b)}
	const n = 20000
	br.sendNumbered(b, "t", n, 300)
	f := sqlFilter(b, "n ENDSWITH '000' AND n >= 0")
	b.ReportAllocs()
	got, offset := 0, int64(0)
	for b.Loop() {
		res, err := br.Pull(context.Background(), &PullRequest{Group: "g", Topic: "t", Offset: offset, Filter: f, CommitOffset: -1})
		if err != nil {
			b.Fatal(err)
		}
		got += len(res.Ends)
		if res.Buffer != nil {
			res.Buffer.Release()
		}
		if offset = res.NextOffset; offset >= n {
			offset = 0
		}
	}
	b.ReportMetric(float64(got)/float64(b.N), "messages/op")
}
