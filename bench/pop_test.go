package bench

import (
	"encoding/base64"
	"encoding/binary"
	"testing"
	"time"
)

func TestReceiptsNameWhereAMessageLies(t *testing.T) {
	at := place{group: "g", topic: "t"}
	for handle, want := range map[string]string{
		"5 1700 60000 9 0 broker-a 3 7": "t",
		"5 1700 60000 9 1 broker-a 3 7": "%RETRY%g_t",
		"5 1700 60000 9 2 broker-a 3 7": "%RETRY%g+t",
	} {
		c, err := parsePopCheck(handle)
		if err != nil {
			t.Fatal(err)
		}
		if got := c.topic(at); got != want || c.queue != 3 || c.offset != 7 || c.start != 5 || c.poppedAt != 1700 || c.invisible != 60000 || c.revive != 9 {
			t.Errorf("%s: %s %+v", handle, got, c)
		}
		if got := c.handle("broker-a"); got != handle {
			t.Errorf("%s is written as %s", handle, got)
		}
		if got := retryOf(want); got != c.retry {
			t.Errorf("%s is of kind %s", want, got)
		}
	}
	for _, bad := range []string{"", "5 1700 60000 9 0 broker-a 3", "x 1700 60000 9 0 broker-a 3 7"} {
		if c, err := parsePopCheck(bad); err == nil {
			t.Errorf("%q is %+v", bad, c)
		}
	}
	starts := startsOf("0 3 17;2 0 5")
	if starts["0 3"] != 17 || starts["2 0"] != 5 || len(starts) != 2 || len(startsOf("")) != 0 {
		t.Error(starts)
	}
}

func TestABatchIsOneSetOfBitsForEachQueue(t *testing.T) {
	of := func(handle string) popped {
		c, err := parsePopCheck(handle)
		if err != nil {
			t.Fatal(err)
		}
		return popped{handle: handle, check: c}
	}
	ms := []popped{of("5 1 2 3 0 b 0 5"), of("5 1 2 3 0 b 0 14"), of("5 1 2 3 0 b 1 5"), of("0 1 2 3 2 b 0 0")}
	acks, err := batchAcks(place{"g", "t"}, ms)
	if err != nil || len(acks) != 3 {
		t.Fatal(err, acks)
	}
	for i, want := range [][]byte{{0x01, 0x02}, {0x01}, {0x01}} {
		if got, _ := base64.StdEncoding.DecodeString(acks[i].Offsets); string(got) != string(want) {
			t.Errorf("%d: %x", i, got)
		}
	}
	if a := acks[2]; a.Retry != retryV2 || a.Topic != "t" || a.Group != "g" {
		t.Errorf("%+v", a)
	}
	if _, err := batchAcks(place{}, []popped{of("5 1 2 3 0 b 0 4")}); err == nil {
		t.Error("an offset before its start was taken")
	}
}

func TestGroupsShareTopics(t *testing.T) {
	o := Options{Topic: "t", Count: 12, Pop: PopOptions{Groups: 4, Topics: 2}}
	l, err := newLayout(&o)
	if err != nil || len(l.topics) != 2 || len(l.groups) != 4 || l.each != 3 || l.topic(3) != 1 {
		t.Fatalf("%v %+v", err, l)
	}
	o.Count = 13
	if _, err := newLayout(&o); err == nil {
		t.Error("groups got unequal parts")
	}
}

// Two groups read one topic of six messages, of which each second one is first not acknowledged.
func TestPopsAreCounted(t *testing.T) {
	o := Options{Count: 12, Workers: 1, Pop: PopOptions{Groups: 2, Topics: 1, Ack: AckEach, Filter: FilterNone, FailEvery: 2, Invisible: time.Second}}
	l, err := newLayout(&o)
	if err != nil {
		t.Fatal(err)
	}
	r := newPopRun(&o, &l)
	r.stop = func() {}
	now := time.Now()
	numbers := []int64{0, 1, 2, 3, 4, 5}
	take := func(g int, at time.Time, numbers ...int64) int {
		return len(r.took(g, numbers, make([]popped, len(numbers)), at, time.Millisecond))
	}
	if n := take(0, now, numbers...); n != 3 {
		t.Errorf("%d to acknowledge", n)
	}
	if n := take(1, now.Add(-time.Minute), numbers...); n != 3 {
		t.Errorf("%d to acknowledge", n)
	}
	take(1, now, 0, 2, 4) // late
	take(0, now, 0)       // early
	take(0, now, 1)       // acknowledged before
	take(0, now, 6)       // not the topic's
	var res Result
	r.report(&res, now)
	if res.Messages != 12 || res.Redeliver != 6 || res.Repeated != 1 || res.Early != 1 || res.Lost != 2 || res.Failed != 1 || r.late.TotalCount() != 3 {
		t.Errorf("%+v, %d late", res, r.late.TotalCount())
	}
}

func TestFilteredMessagesAreNumberedByWhatPasses(t *testing.T) {
	o := Options{Count: 250, Workers: 1, Pop: PopOptions{Groups: 1, Ack: AckEach, Filter: FilterTag, PassEvery: 100}}
	l, err := newLayout(&o)
	if err != nil {
		t.Fatal(err)
	}
	r := newPopRun(&o, &l)
	passing := 0
	for i := range o.Count {
		if tagOf(i, o.Pop.PassEvery) == tagHit {
			passing++
			r.took(0, []int64{i}, make([]popped, 1), time.Now(), time.Millisecond)
		}
	}
	if passing != 3 || r.expected != 3 || r.came.Load() != 3 || r.messages() != 250 || r.repeated != 0 {
		t.Errorf("%d of %d: %d, %d messages", passing, r.expected, r.came.Load(), r.messages())
	}
}

func TestNumbersOfBodies(t *testing.T) {
	body := make([]byte, bodyHeader)
	binary.BigEndian.PutUint64(body[8:], 77)
	if numberOf(body) != 77 || numberOf(body[:8]) != -1 {
		t.Error(numberOf(body))
	}
}

func TestPopOptionsAreChecked(t *testing.T) {
	good := PopOptions{Ack: AckEach, Filter: FilterNone, Invisible: time.Minute}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*PopOptions){
		"acknowledgement": func(p *PopOptions) { p.Ack = "often" }, "filter": func(p *PopOptions) { p.Filter = "grep" },
		"share": func(p *PopOptions) { p.Filter = FilterTag }, "failure": func(p *PopOptions) { p.Ack, p.FailEvery = AckNever, 2 },
		"old failure": func(p *PopOptions) { p.There, p.FailEvery = true, 2 }, "time": func(p *PopOptions) { p.Invisible = 0 },
	} {
		p := good
		change(&p)
		if p.check() == nil {
			t.Errorf("a bad %s was taken", name)
		}
	}
}
