package tiered

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/sstable/block"
	"github.com/cockroachdb/pebble/v2/sstable/colblk"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// A table object is an sstable of the format below, with the rows of rows.go. Its footer and its blocks have checksums.
const tableFormat = sstable.TableFormatPebblev7

// tableBlock is the size of a table's blocks before compression: small, since a look-up reads one, and large enough for
// the index of all of them to be small.
const tableBlock = 16 << 10

// keySchema splits keys into columns; its name is in each table.
var keySchema = colblk.DefaultKeySchema(pebble.DefaultComparer, 16)

// TableWriter makes a table object of rows that are given in order: AddKeys once, then AddRun, then AddQueue. It holds a few
// blocks and the table's index.
type TableWriter struct {
	out    summed
	w      *sstable.Writer
	key    []byte
	val    []byte
	closed bool
	err    error // the first; it stays
}

// NewTableWriter writes to w as blocks become full. The writer must be closed, also after an error.
func NewTableWriter(w io.Writer) *TableWriter {
	t := &TableWriter{out: newSummed(w)}
	t.w = sstable.NewWriter(tableOutput{&t.out}, sstable.WriterOptions{
		TableFormat: tableFormat, BlockSize: tableBlock, IndexBlockSize: tableBlock, KeySchema: &keySchema,
		Comparer: pebble.DefaultComparer, Compression: block.ZstdCompression, DisableValueBlocks: true,
	})
	return t
}

// AddKeys adds the key rows.
func (t *TableWriter) AddKeys(rows *KeyRows) error {
	return rows.each(func(n keyName, i keyItem) error {
		t.key = appendKeyKey(t.key[:0], n.topic, n.kind, i.hash, i.time, rows.start+record.Position(i.at))
		t.val = binary.AppendUvarint(t.val[:0], uint64(i.size))
		return t.set(t.key, t.val)
	})
}

// AddRun adds the run of a queue that ends at offset last. Runs come in the order of topic, queue and offset. The row is copied.
func (t *TableWriter) AddRun(topic kvindex.ID, queue int32, last int64, run []byte) error {
	t.key = appendRunKey(t.key[:0], topic, queue, last)
	return t.set(t.key, run)
}

// AddQueue adds what the table has of one queue. Queues come in the order of topic and queue, behind all runs.
func (t *TableWriter) AddQueue(topic kvindex.ID, queue int32, r QueueRange) error {
	t.key = appendQueueKey(t.key[:0], familyQueue, topic, queue)
	t.val = r.appendTo(t.val[:0])
	if _, err := decodeQueueRange(t.val); err != nil {
		return fmt.Errorf("tiered: queue %d of topic id %d with offsets %d to %d, times %d to %d: %w", queue, topic, r.First, r.Last,
			r.FirstTime, r.LastTime, err)
	}
	return t.set(t.key, t.val)
}

func (t *TableWriter) set(key, val []byte) error {
	if t.err != nil {
		return t.err
	}
	if err := t.w.Set(key, val); err != nil {
		t.err = fmt.Errorf("tiered: add row %x to a table: %w", key, err)
	}
	return t.err
}

// Close writes what is left. It does not close the writer below.
func (t *TableWriter) Close() (Sum, error) {
	if t.closed {
		return Sum{}, errors.New("tiered: table is closed")
	}
	t.closed = true
	err := t.w.Close()
	switch {
	case t.err != nil:
		return Sum{}, t.err
	case err != nil:
		return Sum{}, fmt.Errorf("tiered: write a table: %w", err)
	}
	return t.out.sum(), nil
}

// tableOutput hands what the sstable's writer writes to a summed writer. It implements objstorage.Writable.
type tableOutput struct{ w *summed }

func (o tableOutput) Write(p []byte) error {
	_, err := o.w.Write(p)
	return err
}

func (o tableOutput) Finish() error { return nil }
func (o tableOutput) Abort()        {}
