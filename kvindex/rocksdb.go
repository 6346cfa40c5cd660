//go:build grocksdb

package kvindex

// #include <stdlib.h>
import "C"

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/linxGnu/grocksdb"
)

// rocksOptions are those that the C interface has no functions for. Without the first one RocksDB flushes when it is
// closed; the others switch off work that starts by itself after some time.
const rocksOptions = "avoid_flush_during_shutdown=true;ttl=0;periodic_compaction_seconds=0;" +
	"stats_dump_period_sec=0;stats_persist_period_sec=0"

// endlessMemtable keeps RocksDB from flushing by itself: a memtable takes memory as rows come, in blocks of 1 MiB, and the
// flusher ends it.
const endlessMemtable = 32 << 30

// rocksEngine is RocksDB through its C interface. What the interface hands out is freed by hand.
type rocksEngine struct {
	db          *grocksdb.DB
	opts        *grocksdb.Options
	table       *grocksdb.BlockBasedTableOptions
	cache       *grocksdb.Cache
	read        *grocksdb.ReadOptions
	write       *grocksdb.WriteOptions
	flushOpts   *grocksdb.FlushOptions
	beforeFlush func() error
	health      *health
	flusher     *flusher // nil when read-only
	logDir      string   // temporary, of a read-only engine

	// commit keeps rows out between beforeFlush and the end of the memtable: RocksDB has no event between the two.
	commit sync.Mutex

	errorsSeen uint64 // background errors told so far; the flusher's
}

func openRocksDB(o Options) (Engine, error) {
	if o.FS != vfs.Default {
		return nil, errors.New("rocksdb works on the operating system's files only")
	}
	for _, mark := range []string{"marker.manifest", "marker.format-version"} {
		if m, _ := filepath.Glob(filepath.Join(o.Dir, mark+".*")); len(m) > 0 {
			return nil, fmt.Errorf("%w: it holds an index of pebble", ErrOtherEngine)
		}
	}
	if _, err := os.Stat(filepath.Join(o.Dir, "CURRENT")); o.ReadOnly && errors.Is(err, os.ErrNotExist) {
		return nil, ErrNotFound
	}
	e := &rocksEngine{beforeFlush: o.BeforeFlush, health: newHealth(o.Logger)}
	if err := e.configure(o); err != nil {
		e.free()
		return nil, err
	}
	var err error
	if o.ReadOnly {
		e.db, err = grocksdb.OpenDbForReadOnly(e.opts, o.Dir, false)
	} else if err = os.MkdirAll(o.Dir, 0o755); err == nil {
		e.db, err = grocksdb.OpenDb(e.opts, o.Dir)
	}
	if err != nil {
		e.free()
		return nil, err
	}
	if !o.ReadOnly {
		e.flusher = newFlusher(o.memtableBytes(), e.seal, e.await)
	}
	return e, nil
}

func (e *rocksEngine) configure(o Options) error {
	e.cache = grocksdb.NewLRUCache(uint64(max(o.MemoryBytes-2*o.memtableBytes(), minMemory/2)))
	e.table = grocksdb.NewDefaultBlockBasedTableOptions()
	e.table.SetBlockCache(e.cache)
	e.table.SetBlockSize(8 << 10)
	e.table.SetFilterPolicy(grocksdb.NewBloomFilterFull(10))
	e.table.SetCacheIndexAndFilterBlocks(true)
	e.table.SetPinL0FilterAndIndexBlocksInCache(true)
	e.table.SetFormatVersion(5)

	base := grocksdb.NewDefaultOptions()
	defer base.Destroy()
	var err error
	if e.opts, err = grocksdb.GetOptionsFromString(base, rocksOptions); err != nil {
		e.opts = nil
		return err
	}
	e.opts.SetBlockBasedTableFactory(e.table)
	e.opts.SetCreateIfMissing(true)
	e.opts.SetWriteBufferSize(endlessMemtable)
	e.opts.SetArenaBlockSize(1 << 20)
	e.opts.SetMaxWriteBufferNumber(4)
	e.opts.SetMaxBackgroundJobs(2)
	e.opts.SetBytesPerSync(512 << 10)
	e.opts.SetMaxOpenFiles(500)
	e.opts.SetLevelCompactionDynamicLevelBytes(true)
	e.opts.SetOptimizeFiltersForHits(true) // no filters in the last level
	e.opts.SetMaxBytesForLevelBase(64 << 20)
	e.opts.SetTargetFileSizeBase(8 << 20)
	e.opts.SetCompression(grocksdb.SnappyCompression)
	e.opts.SetInfoLogLevel(grocksdb.WarnInfoLogLevel)
	e.opts.SetKeepLogFileNum(2)
	e.opts.SetMaxLogFileSize(1 << 20)
	if o.ReadOnly {
		if e.logDir, err = os.MkdirTemp("", "kvindex-log-"); err != nil {
			return err
		}
		e.opts.SetDbLogDir(e.logDir)
	}
	e.read = grocksdb.NewDefaultReadOptions()
	e.write = grocksdb.NewDefaultWriteOptions()
	e.write.DisableWAL(true)
	e.flushOpts = grocksdb.NewDefaultFlushOptions()
	e.flushOpts.SetWait(false)
	return nil
}

func (e *rocksEngine) free() {
	if e.flushOpts != nil {
		e.flushOpts.Destroy()
		e.write.Destroy()
		e.read.Destroy()
	}
	if e.opts != nil {
		e.opts.Destroy()
	}
	e.table.Destroy()
	e.cache.Destroy()
	if e.logDir != "" {
		_ = os.RemoveAll(e.logDir)
	}
}

// seal ends the memtable under the commit lock, after the log was made durable up to its last row. The flusher calls it.
func (e *rocksEngine) seal() error {
	if err := e.health.check(); err != nil {
		return err
	}
	e.commit.Lock()
	defer e.commit.Unlock()
	if e.beforeFlush != nil {
		if err := e.beforeFlush(); err != nil {
			return fmt.Errorf("before a flush of the index: %w", err)
		}
	}
	if err := e.db.Flush(e.flushOpts); err != nil {
		return fmt.Errorf("flushing the index: %w", rocksError(err))
	}
	return nil
}

// await asks every 2 ms, because the C interface tells of no events, whether memtables are left to be written. Once RocksDB
// had a background error it says so each second until they are.
func (e *rocksEngine) await(quit <-chan struct{}) error {
	ask := time.NewTicker(2 * time.Millisecond)
	defer ask.Stop()
	var complain <-chan time.Time
	for {
		left, ok := e.db.GetIntProperty("rocksdb.num-immutable-mem-table")
		if ok && left == 0 {
			return nil
		}
		if n := e.property("rocksdb.background-errors"); n > e.errorsSeen {
			e.errorsSeen = n
			return errors.New("flushing the index: rocksdb had a background error, see LOG in its folder")
		} else if n > 0 && complain == nil {
			complain = time.After(time.Second)
		}
		select {
		case <-ask.C:
		case <-complain:
			return errors.New("flushing the index: rocksdb has not got over its background error, see LOG in its folder")
		case <-e.health.failed:
			return e.health.check()
		case <-quit:
			return ErrClosed
		}
	}
}

func (e *rocksEngine) property(name string) uint64 {
	n, _ := e.db.GetIntProperty(name)
	return n
}

// rocksError gives a full disk its own identity back: the C interface has texts only.
func rocksError(err error) error {
	if strings.Contains(err.Error(), "No space left on device") {
		return fmt.Errorf("%w (%w)", err, syscall.ENOSPC)
	}
	return err
}

func (e *rocksEngine) StartFlush() <-chan error {
	if e.flusher == nil {
		c := make(chan error, 1)
		c <- ErrReadOnly
		return c
	}
	return e.flusher.request()
}

func (e *rocksEngine) Flush() error   { return <-e.StartFlush() }
func (e *rocksEngine) FlushDue() bool { return e.flusher != nil && e.flusher.due() }

func (e *rocksEngine) Get(key, dst []byte) ([]byte, bool, error) { return e.get(e.read, key, dst) }

func (e *rocksEngine) get(ro *grocksdb.ReadOptions, key, dst []byte) ([]byte, bool, error) {
	h, err := e.db.GetPinned(ro, key)
	if err != nil {
		return dst[:0], false, fmt.Errorf("reading a row: %w", err)
	}
	if !h.Exists() {
		return dst[:0], false, nil
	}
	dst = append(dst[:0], h.Data()...)
	h.Destroy()
	return dst, true, nil
}

func (e *rocksEngine) NewIter(lower, upper []byte) (Iter, error) {
	return e.newIter(nil, lower, upper), nil
}

func (e *rocksEngine) newIter(snap *grocksdb.Snapshot, lower, upper []byte) Iter {
	it := &rocksIter{ro: grocksdb.NewDefaultReadOptions()}
	if snap != nil {
		it.ro.SetSnapshot(snap)
	}
	if upper != nil && bytes.Compare(lower, upper) >= 0 {
		it.none = true
	}
	// RocksDB keeps pointers to the bounds: they must not be Go's.
	if len(lower) > 0 {
		it.lower = C.CBytes(lower)
		it.ro.SetIterateLowerBound(unsafe.Slice((*byte)(it.lower), len(lower)))
	}
	if len(upper) > 0 {
		it.upper = C.CBytes(upper)
		it.ro.SetIterateUpperBound(unsafe.Slice((*byte)(it.upper), len(upper)))
	}
	it.it = e.db.NewIterator(it.ro)
	return it
}

// rocksIter guards what RocksDB leaves undefined: moves and reads of an iterator that stands on no row.
type rocksIter struct {
	it           *grocksdb.Iterator
	ro           *grocksdb.ReadOptions
	lower, upper unsafe.Pointer
	none         bool // the bounds hold no rows
	valid        bool
}

func (i *rocksIter) First() bool {
	if !i.none {
		i.it.SeekToFirst()
	}
	return i.settle()
}

func (i *rocksIter) Last() bool {
	if !i.none {
		i.it.SeekToLast()
	}
	return i.settle()
}

func (i *rocksIter) SeekGE(key []byte) bool {
	if !i.none {
		i.it.Seek(key)
	}
	return i.settle()
}

func (i *rocksIter) SeekLT(key []byte) bool {
	if i.none {
		return false
	}
	i.it.SeekForPrev(key)
	if i.settle() && bytes.Equal(i.Key(), key) {
		return i.Prev()
	}
	return i.valid
}

func (i *rocksIter) Next() bool {
	if !i.valid {
		return false
	}
	i.it.Next()
	return i.settle()
}

func (i *rocksIter) Prev() bool {
	if !i.valid {
		return false
	}
	i.it.Prev()
	return i.settle()
}

func (i *rocksIter) settle() bool {
	i.valid = !i.none && i.it.Valid()
	return i.valid
}

func (i *rocksIter) Valid() bool { return i.valid }

func (i *rocksIter) Key() []byte {
	if !i.valid {
		return nil
	}
	return i.it.Key().Data() // the memory is the iterator's: nothing to free
}

func (i *rocksIter) Value() []byte {
	if !i.valid {
		return nil
	}
	return i.it.Value().Data()
}

func (i *rocksIter) Error() error { return i.it.Err() }

func (i *rocksIter) Close() error {
	err := i.it.Err()
	i.it.Close()
	i.ro.Destroy()
	C.free(i.lower)
	C.free(i.upper)
	i.valid, i.none = false, true
	return err
}

func (e *rocksEngine) NewSnapshot() Snapshot {
	s := &rocksSnapshot{e: e, snap: e.db.NewSnapshot(), ro: grocksdb.NewDefaultReadOptions()}
	s.ro.SetSnapshot(s.snap)
	return s
}

type rocksSnapshot struct {
	e    *rocksEngine
	snap *grocksdb.Snapshot
	ro   *grocksdb.ReadOptions
}

func (s *rocksSnapshot) Get(key, dst []byte) ([]byte, bool, error) { return s.e.get(s.ro, key, dst) }

func (s *rocksSnapshot) NewIter(lower, upper []byte) (Iter, error) {
	return s.e.newIter(s.snap, lower, upper), nil
}

func (s *rocksSnapshot) Close() error {
	s.ro.Destroy()
	s.e.db.ReleaseSnapshot(s.snap)
	return nil
}

func (e *rocksEngine) NewWriter() Writer {
	w := &rocksWriter{e: e}
	w.Reset()
	return w
}

// rocksWriter builds RocksDB's own batch layout, so that a batch crosses into C once and not once for each change:
//
//	┌─────────────┬─────────┬────────────────────────────────────────────────────────────┐
//	│ sequence 8  │ count 4 │ changes: kind 1, key length varint, key, [length, value]…  │ little-endian
//	└─────────────┴─────────┴────────────────────────────────────────────────────────────┘
//
// The sequence is 0: RocksDB gives it. A range's upper bound stands in the place of the value.
type rocksWriter struct {
	e      *rocksEngine
	buf    []byte
	count  uint32
	ranges int // range-deletes among count
}

const (
	rocksHeader      = 12
	rocksDelete      = 0x00
	rocksSet         = 0x01
	rocksDeleteRange = 0x0f
)

func (w *rocksWriter) change(kind byte, key []byte) {
	w.count++
	w.buf = append(w.buf, kind)
	w.bytes(key)
}

func (w *rocksWriter) bytes(b []byte) {
	w.buf = append(binary.AppendUvarint(w.buf, uint64(len(b))), b...)
}

func (w *rocksWriter) Set(key, value []byte) {
	w.change(rocksSet, key)
	w.bytes(value)
}

func (w *rocksWriter) Delete(key []byte) { w.change(rocksDelete, key) }

// SingleDelete is a Delete here. RocksDB's own brings older values back to life when the key was ever removed in the other
// way before, which the contract of Writer allows.
func (w *rocksWriter) SingleDelete(key []byte) { w.change(rocksDelete, key) }

func (w *rocksWriter) DeleteRange(lower, upper []byte) {
	if bytes.Compare(lower, upper) < 0 {
		w.change(rocksDeleteRange, lower)
		w.bytes(upper)
		w.ranges++
	}
}

func (w *rocksWriter) Len() int   { return len(w.buf) }
func (w *rocksWriter) Count() int { return int(w.count) }

func (w *rocksWriter) Reset() {
	if cap(w.buf) > keptBatch {
		w.buf = nil
	}
	w.buf = append(w.buf[:0], make([]byte, rocksHeader)...)
	w.count, w.ranges = 0, 0
}

func (w *rocksWriter) Close() error {
	w.buf = nil
	return nil
}

func (w *rocksWriter) Commit() error {
	if w.e.flusher == nil {
		return ErrReadOnly
	}
	if err := w.e.health.check(); err != nil {
		return err
	}
	if err := w.e.flusher.admit(w.Len(), int(w.count), w.ranges); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(w.buf[8:], w.count)
	wb := grocksdb.WriteBatchFrom(w.buf)
	defer wb.Destroy()
	w.e.commit.Lock()
	err := w.e.db.Write(w.e.write, wb)
	w.e.commit.Unlock()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("committing %d changes of rows: %w", w.count, rocksError(err))
	if errors.Is(err, syscall.ENOSPC) {
		return err // RocksDB goes on by itself when there is space
	}
	w.e.health.fail(err)
	return w.e.health.check()
}

func (e *rocksEngine) Checkpoint(dir string) error {
	if err := e.checkpoint(dir); err != nil {
		return fmt.Errorf("writing a checkpoint of the index to %s: %w", dir, err)
	}
	return nil
}

func (e *rocksEngine) checkpoint(dir string) error {
	if err := e.health.check(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	c, err := e.db.NewCheckpoint()
	if err != nil {
		return err
	}
	defer c.Destroy()
	return c.CreateCheckpoint(dir, math.MaxUint64) // with any less it flushes
}

func (e *rocksEngine) DiskUsage() uint64 { return e.property("rocksdb.total-sst-files-size") }

func (e *rocksEngine) Metrics() Metrics {
	m := Metrics{CacheBytes: int64(e.cache.GetUsage()), DiskBytes: e.DiskUsage(),
		CompactionDebt: e.property("rocksdb.estimate-pending-compaction-bytes")}
	for level := range 7 {
		n := e.filesAt(level)
		m.Tables += n
		if level == 0 {
			m.ReadAmp = int(n)
		} else if n > 0 {
			m.ReadAmp++
		}
	}
	if e.flusher != nil {
		e.flusher.fill(&m)
	}
	return m
}

func (e *rocksEngine) filesAt(level int) (n int64) {
	_, _ = fmt.Sscan(e.db.GetProperty(fmt.Sprintf("rocksdb.num-files-at-level%d", level)), &n)
	return n
}

func (e *rocksEngine) Close() error {
	if e.flusher != nil {
		e.flusher.stop()
	}
	e.db.Close()
	e.free()
	return nil
}
