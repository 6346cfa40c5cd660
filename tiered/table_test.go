package tiered

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"

	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

func TestKeyRowsAreSorted(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	rows := NewKeyRows(1000)
	type full struct {
		name keyName
		item keyItem
	}
	var want []full
	names := map[keyName]uint32{}
	for range 3*keyPiece + 500 {
		n := keyName{kvindex.ID(rng.IntN(3)), kvindex.IndexKey}
		if rng.IntN(2) == 0 {
			n.kind = kvindex.IndexUniqueID
		}
		if _, ok := names[n]; !ok {
			names[n] = uint32(len(names))
		}
		i := keyItem{hash: uint64(rng.IntN(1000)), time: rng.Int64N(50), at: rng.Uint32N(200), size: 5, name: names[n]}
		must(t, rows.Add(n.topic, n.kind, i.hash, i.time, 1000+record.Position(i.at), i.size))
		want = append(want, full{n, i})
	}
	if rows.Len() != len(want) {
		t.Fatalf("%d rows of %d", rows.Len(), len(want))
	}
	slices.SortFunc(want, func(a, b full) int {
		return cmp.Or(cmp.Compare(a.name.topic, b.name.topic), cmp.Compare(a.name.kind, b.name.kind),
			cmp.Compare(a.item.hash, b.item.hash), cmp.Compare(a.item.time, b.item.time), cmp.Compare(a.item.at, b.item.at))
	})
	want = slices.Compact(want)
	for range 2 { // they may be had again
		got := 0
		must(t, rows.each(func(n keyName, i keyItem) error {
			if want[got] != (full{n, i}) {
				return fmt.Errorf("row %d is %v %+v, not %+v", got, n, i, want[got])
			}
			got++
			return nil
		}))
		if got != len(want) {
			t.Fatalf("%d rows, not %d", got, len(want))
		}
	}
	for _, err := range []error{
		rows.Add(1, kvindex.IndexKey, 1, 1, 999, 1), rows.Add(1, kvindex.IndexKey, 1, 1, 1000+1<<32, 1),
		rows.Add(1, kvindex.IndexKey, 1, -1, 1000, 1),
	} {
		if err == nil {
			t.Error("a row that cannot be was taken")
		}
	}
}

func TestTableRefusesDisorder(t *testing.T) {
	var out bytes.Buffer
	w := NewTableWriter(&out)
	must(t, w.AddRun(1, 1, 10, []byte("b")))
	if err := w.AddRun(1, 1, 9, []byte("a")); err == nil {
		t.Error("a run before the one before was taken")
	}
	if _, err := w.Close(); err == nil {
		t.Error("a table in disorder was closed without an error")
	}
	w = NewTableWriter(&out)
	if err := w.AddQueue(1, 1, QueueRange{First: 5, Last: 4}); err == nil {
		t.Error("an impossible queue was taken")
	}
	if _, err := w.Close(); err != nil {
		t.Error(err)
	}
	if _, err := w.Close(); err == nil {
		t.Error("closed twice")
	}
}

// bigTable is a table of some hundred thousand rows.
func bigTable(t testing.TB, s *fake) Part {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, 8))
	p := Part{Start: 0, End: 1 << 30, From: 1000, Until: 100_000, Generation: 1, LogBytes: 1}
	rows := NewKeyRows(0)
	for i := range 200_000 {
		must(t, rows.Add(kvindex.ID(i%3), kvindex.IndexKey, rng.Uint64(), 1000+int64(i/10), record.Position(i*1000), 900))
	}
	var out bytes.Buffer
	w := NewTableWriter(&out)
	must(t, w.AddKeys(rows))
	val := make([]byte, 24)
	for q := range int32(100) {
		for i := range int64(1000) {
			for k := range 8 {
				val[k] = byte(rng.Uint32())
			}
			must(t, w.AddRun(5, q, i*3+2, val))
		}
	}
	for q := range int32(100) {
		must(t, w.AddQueue(5, q, QueueRange{0, 2999, 1000, 99_999, 1 << 40}))
	}
	sum, err := w.Close()
	must(t, err)
	p.TableBytes, p.TableCRC = sum.Bytes, sum.CRC
	put(t, s, p.TableName(), out.Bytes())
	t.Logf("300100 rows in %d bytes", sum.Bytes)
	return p
}

// A look-up in a table that nobody has read costs two requests, and one where only the place differs.
func TestTableLookUpCostsTwoReads(t *testing.T) {
	s := newFake(t)
	p := bigTable(t, s)
	f := newTestFetcher(t, s, Options{})
	tabs, err := newTables(f)
	must(t, err)
	for i, q := range []int32{50, 3, 97} {
		before, most := s.reads.Load(), int64(1)
		if i == 0 {
			most = 2
		}
		found, ok, err := tabs.queue(context.Background(), &p, 5, q)
		must(t, err)
		if !ok || found.Last != 2999 {
			t.Fatalf("queue %d: %+v %v", q, found, ok)
		}
		c, err := tabs.rows(context.Background(), &p)
		must(t, err)
		there, err := c.seekGE(appendRunKey(nil, 5, q, 1500))
		must(t, err)
		if !there || !bytes.Equal(c.key, appendRunKey(nil, 5, q, 1502)) {
			t.Fatalf("queue %d: stands at %x", q, c.key)
		}
		must(t, c.close())
		if n := s.reads.Load() - before; n > most {
			t.Errorf("queue %d: %d reads, want at most %d", q, n, most)
		}
	}
	if _, ok, err := tabs.queue(context.Background(), &p, 5, 100); ok || err != nil {
		t.Errorf("a queue that is not there: %v %v", ok, err)
	}
}

// What is damaged for good is told; what was damaged on the way is read again.
func TestTableDamage(t *testing.T) {
	s := newFake(t)
	p := bigTable(t, s)
	walk := func() (rows int, err error) {
		f := newTestFetcher(t, s, Options{})
		defer f.close()
		tabs, err := newTables(f)
		must(t, err)
		c, err := tabs.rows(context.Background(), &p)
		if err != nil {
			return 0, err
		}
		ok, err := c.seekGE(nil)
		for ; ok && err == nil; ok, err = c.next() {
			rows++
		}
		must(t, c.close())
		return rows, err
	}
	rows, err := walk()
	must(t, err)
	if rows != 300_100 {
		t.Fatalf("%d rows", rows)
	}
	whole := get(t, s, p.TableName())
	rng := rand.New(rand.NewPCG(9, 9))
	for range 20 {
		bad := bytes.Clone(whole)
		bad[rng.IntN(len(bad))] ^= 0x40
		put(t, s, p.TableName(), bad)
		if _, err := walk(); !isDamage(err) {
			t.Fatalf("damaged: %v", err)
		}
	}
	put(t, s, p.TableName(), whole)
	for range 5 {
		var reads atomic.Int64
		bad := 1 + rng.Int64N(6)
		s.onRead(func(_ string, b []byte, _ int64, real func() (int, error)) (int, error) {
			n, err := real()
			if reads.Add(1) == bad {
				b[n/2] ^= 1
			}
			return n, err
		})
		if n, err := walk(); err != nil || n != rows {
			t.Fatalf("with the answer %d damaged on the way: %d rows, error %v", bad, n, err)
		}
	}
}
