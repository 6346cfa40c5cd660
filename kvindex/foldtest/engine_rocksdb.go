//go:build grocksdb

package foldtest

import "github.com/cairnmq/cairn/kvindex"

// engineKind is the engine that folds are tested on.
const engineKind = kvindex.KindRocksDB
