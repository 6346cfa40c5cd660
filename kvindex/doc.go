// Package kvindex is the ordered index of rows: the view that folds compute from the commitlog, and the only thing that
// queries read.
//
// Reading order: keys.go (every family of rows and its key), engine.go (what an engine promises), batch.go (how a log batch
// becomes rows), then whichever engine is of interest: pebble.go with guardfs.go, or rocksdb.go, and flusher.go for both.
//
// # Rows
//
// A row is a key and a value. The first byte of the key is its Space, the family that it belongs to; keys.go draws each and
// names the package that writes it. Numbers in keys are big-endian, so byte order is numeric order and a prefix is a range.
// Names never stand in keys but once, beside their ID; ids are not used twice, so a row of a deleted name is dead for good.
// A new family is one Space with its drawing and Append function in keys.go, one line in spaces.go (a test asks for it), and
// a value printer that its owner registers with RegisterValue. Describe, Dump and Diff then know it.
//
// Rows that wait for a time have the time in their key and are read and removed from the front. Whoever drains such a range
// remembers the floor below which all is done, starts there, and removes the drained part with one DeleteRange: a scan that
// begins among thousands of removed rows has to step over each of them. A few rows are better removed one by one: Pebble puts
// all ranges removed since the last flush in order anew for the first iterator behind each further one.
//
// # Batches
//
// One batch of the log becomes one Batch: Begin with the log's position, index and time; each record's fold reads and
// changes rows through it; Commit makes all of that visible at once, together with the row that says how far the log has
// been applied (ReadApplied). A crash can not separate the two. Within the batch, a row changed with Set, Delete or
// SingleDelete is read back as it will be; a row written with Put is not, which is cheaper and right for rows that are
// written once. The engine gets each row of the first kind once per batch, however often it changed.
//
// A Batch and its Writer belong to one goroutine, the folder. Readers, snapshots and iterators may be many; they see whole
// batches only.
//
// # Durability
//
// The engine has no log of its own. Rows live in memory until a flush, and a crash takes back the state after some earlier
// batch, exactly: recovery reads the applied row and applies the log from there. Two rules keep that sound.
//
// The view never gets ahead of the log on disk (law 2). The engine flushes when the store says so: after FlushDue answered
// yes, the store calls StartFlush. Should nobody call in time, the engine begins at seven eighths of a memtable by itself,
// and Pebble does when a single batch is larger than half a memtable. Whoever began it, Options.BeforeFlush is called, and
// has returned, before the first byte of a flush is written; it syncs the log. With sync mode's log it finds nothing to do.
// For Pebble this happens when the flush creates its first table, at which time the memtable takes no more rows; for RocksDB
// commits wait from the beginning of the call until the memtable is ended. BeforeFlush must therefore work for as long as the
// engine is open: close the engine first, then the log.
//
// Close flushes nothing; a flush under way is finished, a compaction is given up. A clean stop is Flush, then Close.
//
// # Errors
//
// A flush or compaction that fails for want of space is retried, once a second at most, until it succeeds; StartFlush and, when
// the memory for rows is used up, Commit tell of it, and both may be called again. Where an engine can no longer know what is
// on disk (a failed write of its manifest, a damaged table) it has failed: commits and flushes say ErrFailed, nothing is
// written any more, reads go on, the process lives. Opening it again starts from what is on disk; a damaged view is
// replaced by a checkpoint, or rebuilt from the log where that reaches back far enough.
//
// # Memory
//
// Options.MemoryBytes covers the block cache and the rows in memory. At most two memtables exist, one that fills and one that
// is being written; a commit that finds both full waits. Pebble's begin small and double, so that an idle index holds a few
// hundred KB.
//
// # Engines
//
// Pebble is built in. RocksDB comes with the build tag grocksdb and needs librocksdb (Debian: librocksdb-dev). The tests are
// one suite for both:
//
//	go test ./kvindex/
//	go test -tags grocksdb ./kvindex/
//
// They are alike in all that this package promises. SingleDelete is a plain Delete on RocksDB, whose own does not bear being
// mixed with it.
package kvindex
