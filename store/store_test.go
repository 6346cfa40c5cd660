package store

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cairnmq/cairn/internal/clock"
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
