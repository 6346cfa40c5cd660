package broker

import (
	"fmt"
	"sync"
	"testing"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/kvindex"
)

func TestMetersAreBounded(t *testing.T) {
	m := newMeters(newRates(clock.NewFake(epoch)), func(string) bool { return false })
	for i := range maxSeries + 100 {
		m.topic(&catalog.Topic{ID: kvindex.ID(i + 1), Name: fmt.Sprint("t", i)}).countIn(kindFIFO, 10)
	}
	var names, messages int64
	m.topics.each(func(t *topicMeter) {
		names++
		messages += t.kinds[kindFIFO].messages.Load()
	})
	if names != maxSeries+1 || messages != maxSeries+100 {
		t.Errorf("%d names with %d messages, want %d with %d", names, messages, maxSeries+1, maxSeries+100)
	}
	if n := m.topics.other.kinds[kindFIFO].messages.Load(); n != 100 {
		t.Errorf("%d messages without a name, want 100", n)
	}
	m.topics.keep(func(id kvindex.ID) bool { return id > 50 })
	if got := m.topic(&catalog.Topic{ID: 9999, Name: "new"}); got.topic != "new" {
		t.Errorf("after topics went a new one is counted as %q", got.topic)
	}
}

func TestMetersFromManyGoroutines(t *testing.T) {
	m := newMeters(newRates(clock.NewFake(epoch)), func(string) bool { return false })
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for i := range 500 {
				id := kvindex.ID(i%50 + 1)
				m.topic(&catalog.Topic{ID: id, Name: fmt.Sprint(id)}).countIn(kindNormal, int64(i))
				m.countOut(&catalog.Group{ID: id, Name: "g"}, &catalog.Topic{ID: id, Name: "t"}, 1, 2)
			}
		})
	}
	all.Wait()
	var in, out int64
	m.topics.each(func(t *topicMeter) { in += t.kinds[kindNormal].messages.Load() })
	m.outs.each(func(o *outMeter) { out += o.messages.Load() })
	if in != 4000 || out != 4000 {
		t.Errorf("%d in and %d out were counted, want 4000 each", in, out)
	}
}

func TestSizeClasses(t *testing.T) {
	m := &topicMeter{}
	for _, size := range []int64{1, 1024, 1025, 4096, 524_288, 524_289, 4 << 20, 4<<20 + 1} {
		m.countIn(kindNormal, size)
	}
	want := [...]int64{2, 2, 1, 1, 0, 1, 1}
	for i := range want {
		if got := m.kinds[kindNormal].sizes[i].Load(); got != want[i] {
			t.Errorf("class %d has %d, want %d", i, got, want[i])
		}
	}
}
