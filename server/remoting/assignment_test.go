package remoting

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// Whatever the strategy: each queue goes to one member, and nobody has two more than another.
func TestShareIsAFairSplit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		strategy := rapid.SampledFrom([]string{"", "AVG", "AVG_BY_CIRCLE"}).Draw(t, "strategy")
		queues := make([]int32, rapid.IntRange(0, 40).Draw(t, "queues"))
		for i := range queues {
			queues[i] = int32(i)
		}
		n := rapid.IntRange(1, 20).Draw(t, "members")
		var all []int32
		least, most := len(queues), 0
		for i := range n {
			mine, err := share(strategy, queues, i, n)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, mine...)
			least, most = min(least, len(mine)), max(most, len(mine))
		}
		slices.Sort(all)
		if !slices.Equal(all, queues) || most-least > 1 {
			t.Fatalf("%v, between %d and %d each", all, least, most)
		}
	})
}

// The reference's own split of 8 queues over 3 members by AVG.
func TestShareAsTheReference(t *testing.T) {
	queues := []int32{0, 1, 2, 3, 4, 5, 6, 7}
	for i, want := range [][]int32{{0, 1, 2}, {3, 4, 5}, {6, 7}} {
		if got, err := share("AVG", queues, i, 3); err != nil || !slices.Equal(got, want) {
			t.Errorf("member %d: %v %v", i, got, err)
		}
	}
}

// Whoever pops gets its own queues and those of its neighbours, so that every queue has as many consumers as were asked for.
func TestShareOfWhoPops(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		queues := make([]int32, rapid.IntRange(0, 40).Draw(t, "queues"))
		for i := range queues {
			queues[i] = int32(i)
		}
		n := rapid.IntRange(1, 20).Draw(t, "members")
		neighbours := rapid.IntRange(-1, 20).Draw(t, "neighbours")
		strategy := rapid.SampledFrom([]string{"", "AVG", "AVG_BY_CIRCLE"}).Draw(t, "strategy")
		consumers := map[int32]int{}
		for i := range n {
			mine, err := sharePopped(strategy, queues, i, n, neighbours)
			if err != nil {
				t.Fatal(err)
			}
			if len(mine) == 0 && len(queues) > 0 {
				t.Fatalf("member %d gets nothing", i)
			}
			for _, q := range mine {
				consumers[q]++
			}
		}
		switch want := neighbours + 1; {
		case neighbours <= 0 || neighbours >= n-1:
			if len(consumers) != 1 || consumers[allQueues] != n {
				t.Fatalf("%v", consumers)
			}
		case n <= len(queues):
			for _, q := range queues {
				if consumers[q] != want {
					t.Fatalf("queue %d has %d consumers, want %d", q, consumers[q], want)
				}
			}
		case len(consumers) != len(queues):
			t.Fatalf("%v of %d queues", consumers, len(queues))
		}
	})
	if mine, err := sharePopped("AVG", []int32{0, 1}, -1, 4, 1); err != nil || len(mine) != 0 {
		t.Errorf("somebody who is no member gets %v, %v", mine, err)
	}
}
