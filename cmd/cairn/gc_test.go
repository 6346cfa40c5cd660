package main

import "testing"

// TestGCPercent: what may lie about as garbage grows neither with a small heap beyond four times it, nor with a large one
// beyond the room.
func TestGCPercent(t *testing.T) {
	const room = 128 << 20
	for _, c := range []struct {
		live uint64
		want int
	}{{0, 400}, {20 << 20, 400}, {64 << 20, 300}, {128 << 20, 200}, {1 << 30, 112}, {64 << 30, 100}} {
		if got := gcPercent(c.live, room); got != c.want {
			t.Errorf("live heap of %d MiB: %d, want %d", c.live>>20, got, c.want)
		}
	}
}

// TestMemory: what the process may take is more than it takes now and no more than an address space holds.
func TestMemory(t *testing.T) {
	if m := memory(); m < 64<<20 || m > 1<<48 {
		t.Errorf("memory: %d bytes", m)
	}
}
