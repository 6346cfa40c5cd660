//go:build grocksdb

package broker

import (
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/kvindex"
)

// onEngine puts the broker on RocksDB, which knows the operating system's disk only.
func onEngine(t testing.TB, tb *testBroker) {
	tb.fs, tb.dir, tb.engine = vfs.Default, t.TempDir(), kvindex.KindRocksDB
}
