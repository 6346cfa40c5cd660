//go:build !grocksdb

package broker

import "testing"

// onEngine leaves the broker on Pebble and its disk in memory.
func onEngine(testing.TB, *testBroker) {}
