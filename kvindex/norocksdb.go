//go:build !grocksdb

package kvindex

func openRocksDB(Options) (Engine, error) { return nil, ErrNotBuilt }
