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
