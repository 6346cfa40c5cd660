//go:build grocksdb

package pop

import "github.com/cairnmq/cairn/kvindex"

// testEngine is the engine that the suite runs on.
const testEngine = kvindex.KindRocksDB
