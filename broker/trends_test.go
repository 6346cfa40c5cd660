package broker

import (
	"context"
	"testing"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/kvindex"
)

// A window reaches back at least as far as its name says, once the counting is that old.
func TestTrendWindows(t *testing.T) {
	at, shown := epoch, count{}
	tr := newTrend(at)
	tick := func(messages int64) {
		at = at.Add(sampleEvery)
		shown = count{shown.requests + 1, shown.messages + messages, shown.bytes + 100*messages}
		tr.add(countAt{at, shown})
	}
	now := func() Traffic { return tr.read(countAt{at, shown}) }

	for range 3 {
		tick(5)
	}
	young := Window{Requests: 3, Messages: 15, Bytes: 1500, Span: 30 * time.Second}
	if got := now(); got != (Traffic{young, young, young}) {
		t.Fatalf("young: %+v", got)
	}
	for range 26 * 360 { // 26 hours
		tick(1)
	}
	got := now()
	if got.Minute.Messages != 6 || got.Minute.Span != time.Minute || got.Minute.TPS() != 0.1 {
		t.Errorf("minute: %+v", got.Minute)
	}
	if got.Hour.Span < time.Hour || got.Hour.Span >= time.Hour+hourEvery || got.Hour.Messages != int64(got.Hour.Span/sampleEvery) {
		t.Errorf("hour: %+v", got.Hour)
	}
	if got.Day.Span < 24*time.Hour || got.Day.Span >= 24*time.Hour+dayEvery || got.Day.Messages != int64(got.Day.Span/sampleEvery) {
		t.Errorf("day: %+v", got.Day)
	}
	if n := cap(tr.minute) + cap(tr.hour) + cap(tr.day); n > 2*(minuteCount+hourCount+dayCount) {
		t.Errorf("room for %d samples is kept", n)
	}
	shown = count{messages: 2}
	if got := now(); got.Minute.Messages != 2 || got.Day.Messages != 2 {
		t.Errorf("a meter that began anew: %+v", got)
	}
}

// What was counted shows at once, before it is sampled, and goes when topic or group go.
func TestTraffic(t *testing.T) {
	c := clock.NewFake(epoch)
	b := openBroker(t, withClock(c))
	if _, ok := b.TopicTraffic("t"); ok {
		t.Error("traffic of a topic that is not there")
	}
	b.topicOf(t, "t", 1)
	if _, ok := b.TopicTraffic("t"); ok {
		t.Error("traffic of a topic that was never sent to")
	}
	b.group(t, "g")
	c.Advance(2 * time.Second)
	res := b.sendBodies(t, "t", 0, 4)
	got, ok := b.TopicTraffic("t")
	if w := got.Minute; !ok || w.Messages != 4 || w.Requests != 1 || w.Bytes <= 4 || w.TPS() != 2 || got.Hour != w || got.Day != w {
		t.Errorf("%+v %v", got, ok)
	}
	if _, ok := b.GroupTraffic("g", "t"); ok {
		t.Error("traffic of a group that got nothing")
	}
	b.pull(t, "g", "t", 0, 0).Buffer.Release()
	if got, ok := b.GroupTraffic("g", "t"); !ok || got.Minute.Messages != 4 || got.Minute.Requests != 1 || got.Minute.Bytes <= 4 {
		t.Errorf("%+v %v", got, ok)
	}
	for _, level := range []int32{0, -1} {
		if err := b.SendBack(context.Background(), &SendBackRequest{Group: "g", Position: res[0].Position, DelayLevel: level, MaxReconsume: -1}); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok := b.SentBack("g", "t"); !ok || got.Minute.Messages != 2 {
		t.Errorf("%+v %v", got, ok)
	}
	if got, ok := b.DeadLetters("g", "t"); !ok || got.Minute.Messages != 1 {
		t.Errorf("%+v %v", got, ok)
	}
	if in, out := b.Traffic(); in.Minute.Messages != 6 || out.Minute.Messages != 4 || out.Minute.Requests != 1 {
		t.Errorf("in %+v out %+v", in, out)
	}

	b.rates.sample()
	c.Advance(time.Minute)
	b.rates.sample()
	if got, ok := b.TopicTraffic("t"); !ok || got.Minute.Messages != 0 || got.Hour.Messages != 4 {
		t.Errorf("a minute later: %+v %v", got, ok)
	}
	if err := b.DeleteTopic(context.Background(), "t"); err != nil {
		t.Fatal(err)
	}
	b.meters.forget(b.store)
	b.rates.sample()
	if n := len(b.rates.trends.mu.topics); n != 2 { // of the retry and the dead-letter topic
		t.Errorf("%d trends of topics are kept", n)
	}
	if n := len(b.rates.trends.mu.outs); n != 0 {
		t.Errorf("%d trends of groups are kept", n)
	}
}

// Sampling as many meters as there may be is quick, and finds each again.
func TestTrendsOfManyTopics(t *testing.T) {
	c := clock.NewFake(epoch)
	r := newRates(c)
	m := newMeters(r, func(string) bool { return false })
	for id := kvindex.ID(1); id <= maxSeries+5; id++ {
		m.topic(&catalog.Topic{ID: id, Name: "t"}).countIn(kindNormal, int64(id))
	}
	c.Advance(sampleEvery)
	r.sample()
	if n := len(r.trends.mu.topics); n != maxSeries {
		t.Fatalf("%d trends", n)
	}
	if got, ok := trafficOf(&m.topics, r.trends.mu.topics, 7, epoch, c.Now()); !ok || got.Minute.Bytes != 7 {
		t.Errorf("%+v %v", got, ok)
	}
}

func TestMorningsAndTimes(t *testing.T) {
	noon := time.Date(2026, 5, 4, 12, 0, 0, 0, time.Local)
	c := clock.NewFake(noon)
	r := newRates(c)
	day := func(puts int) { // from noon to noon
		for range 12 {
			r.put(puts, puts, 20*time.Millisecond)
			c.Advance(time.Hour)
			r.sample()
		}
		for range 12 {
			c.Advance(time.Hour)
			r.sample()
		}
	}
	if got := r.read(); got.PutToday != 0 || got.PutYesterday != 0 {
		t.Errorf("at the start: %+v", got)
	}
	day(1)
	if got := r.read(); got.PutToday != 12 || got.PutYesterday != 0 {
		t.Errorf("first morning: %+v", got)
	}
	day(10)
	if got := r.read(); got.PutToday != 132 || got.PutYesterday != 12 {
		t.Errorf("second morning: %+v", got)
	}
	r.get(3, 30)
	r.looked(true, 7*time.Millisecond)
	r.looked(false, 5*time.Millisecond)
	r.looked(false, time.Millisecond)
	c.Advance(10 * time.Second)
	got := r.read()
	if got.GetMaxLatency != 7*time.Millisecond || got.FoundTPS[0] != 0.1 || got.MissTPS[0] != 0.2 {
		t.Errorf("%+v", got)
	}

	r = newRates(c)
	for _, took := range []time.Duration{0, 999 * time.Microsecond, time.Millisecond, 9 * time.Millisecond, 10 * time.Millisecond, time.Minute} {
		r.put(1, 1, took)
	}
	want := [len(putClasses)]int64{2, 2, 1, 12: 1}
	for range 2 * samplesPerMinute { // the first sample is of the start
		if got := r.read().PutTimes; got != want {
			t.Fatalf("%v", got)
		}
		r.sample()
		if r.mu.taken == 0 {
			want = r.mu.putTimes
		}
	}
	r.sample()
	if got := r.read().PutTimes; got != [len(putClasses)]int64{} {
		t.Errorf("after two quiet minutes: %v", got)
	}
}
