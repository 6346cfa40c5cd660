package foldtest

import (
	"testing"

	"github.com/cairnmq/cairn/kvindex"
)

// A harness that finds nothing would let every property test pass.
func TestCompare(t *testing.T) {
	release := kvindex.Release{Topic: 7, Position: 100}
	other := release
	other.Due = 5
	all := []Result{{}, Changed(0), Changed(1), Changed(2), Changed(1, release), Changed(1, other), Changed(1, release, release)}
	for i, got := range all {
		for j, want := range all {
			if err := compare([]Result{{}, got}, []Result{{}, want}); (err == nil) != (i == j) {
				t.Errorf("got %+v, want %+v: %v", got, want, err)
			}
		}
	}
}
