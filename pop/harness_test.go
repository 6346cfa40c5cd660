package pop

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
)

// machine is a log in memory, and the view of it: what the store is, without the disk.
type machine struct {
	t      testing.TB
	disk   *vfs.MemFS // that the index lies on, unless the engine knows no other than the machine's
	dir    string
	memory *memory // the engine of a machine that has no disk at all
	engine kvindex.Engine
	batch  *kvindex.Batch
	cat    *catalog.Catalog
	state  *State
	log    []logged
}

type logged struct {
	records   []record.Record
	timestamp int64
}

func newMachine(t testing.TB) *machine {
	m := emptyMachine(t)
	m.open()
	t.Cleanup(func() { _ = m.engine.Close() })
	return m
}

func emptyMachine(t testing.TB) *machine {
	if testEngine == kvindex.KindRocksDB {
		return &machine{t: t, dir: t.TempDir()}
	}
	return &machine{t: t, dir: "index", disk: vfs.NewCrashableMem()}
}

// newMemoryMachine makes a machine that costs next to nothing, and needs not be closed.
func newMemoryMachine(t testing.TB) *machine {
	m := &machine{t: t, memory: newMemory()}
	m.open()
	return m
}

func (m *machine) open() {
	m.t.Helper()
	if m.memory != nil {
		m.use(m.memory)
		return
	}
	o := kvindex.Options{Dir: m.dir, Kind: testEngine, MemoryBytes: 4 << 20}
	if m.disk != nil {
		o.FS = m.disk
	}
	e, err := kvindex.Open(o)
	if err != nil {
		m.t.Fatal(err)
	}
	m.use(e)
}

func (m *machine) use(e kvindex.Engine) {
	m.engine = e
	m.batch, m.cat, m.state = kvindex.NewBatch(e), catalog.New(e), New(e)
}

// crash loses what the index had not made durable, and applies the log from there. In memory the first kept batches since the last
// flush are durable all the same.
func (m *machine) crash(kept int) {
	m.t.Helper()
	if m.memory != nil {
		m.memory = m.memory.crashed(kept)
		m.open()
		m.replay()
		return
	}
	left := m.disk
	if left != nil {
		left = left.CrashClone(vfs.CrashCloneCfg{})
	}
	if err := m.engine.Close(); err != nil { // which flushes nothing
		m.t.Fatal(err)
	}
	m.disk = left
	m.open()
	m.replay()
}

func (m *machine) replay() {
	m.t.Helper()
	at, err := kvindex.ReadApplied(m.engine)
	if err != nil {
		m.t.Fatal(err)
	}
	for i := int(at.Index); i < len(m.log); i++ {
		if _, err := m.fold(i); err != nil {
			m.t.Fatal(err)
		}
	}
}

// apply appends one batch to the log and folds it.
func (m *machine) apply(timestamp int64, records ...record.Record) []record.Outcome {
	m.t.Helper()
	m.log = append(m.log, logged{records, timestamp})
	out, err := m.fold(len(m.log) - 1)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

func (m *machine) fold(i int) (out []record.Outcome, err error) {
	m.batch.Begin(record.Position(i+1), uint64(i+1), m.log[i].timestamp)
	folds := map[record.Kind]kvindex.Fold{}
	for _, f := range []kvindex.Fold{m.cat, m.state} {
		for _, k := range f.Kinds() {
			folds[k] = f
		}
	}
	for j, r := range m.log[i].records {
		o, err := folds[r.Kind].Apply(m.batch, record.Position(100*i+j), r)
		if err != nil {
			return nil, err
		}
		out = append(out, o)
	}
	if err := m.state.Finish(m.batch); err != nil {
		return nil, err
	}
	if err := m.batch.Commit(); err != nil {
		return nil, err
	}
	m.cat.Publish()
	m.state.Publish()
	return out, nil
}

// check compares the view with one that is made anew from the whole log, and looks for broken rules.
func (m *machine) check() {
	m.t.Helper()
	if err := m.checked(); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) checked() error {
	if err := Check(m.engine); err != nil {
		return err
	}
	again := &machine{t: m.t, memory: newMemory()}
	if m.memory == nil {
		again = emptyMachine(m.t)
	}
	again.log = m.log
	again.open()
	defer func() { _ = again.engine.Close() }()
	again.replay()
	diff, err := kvindex.Diff(m.engine, again.engine)
	if err == nil && diff != "" {
		err = fmt.Errorf("the view is not what the log says: %s", diff)
	}
	return err
}

func (m *machine) topic(name string) kvindex.ID {
	m.t.Helper()
	return kvindex.ID(m.apply(1, m.cat.PutTopic(catalog.Topic{Name: name, ReadQueues: 8, WriteQueues: 8, Perm: 6}))[0].Offset)
}

func (m *machine) group(name string) kvindex.ID {
	m.t.Helper()
	return kvindex.ID(m.apply(1, m.cat.PutGroup(catalog.DefaultGroup(name)))[0].Offset)
}

func (m *machine) deleteTopic(name string) record.Record {
	m.t.Helper()
	t, err := m.cat.Topic(name)
	if err != nil {
		m.t.Fatal(err)
	}
	r, err := m.cat.DeleteTopic(t)
	if err != nil {
		m.t.Fatal(err)
	}
	return r
}

func (m *machine) inFlight(group, topic kvindex.ID) int64 {
	m.t.Helper()
	n, err := m.state.InFlight(group, topic)
	if err != nil {
		m.t.Fatal(err)
	}
	return n
}

func (m *machine) next(group, topic kvindex.ID, queue int32) int64 {
	m.t.Helper()
	c, ok, err := m.state.Cursor(group, topic, queue)
	if err != nil {
		m.t.Fatal(err)
	}
	if !ok {
		return -1
	}
	return c.Next
}

func (m *machine) expired(group, topic kvindex.ID, now int64) []Expired {
	m.t.Helper()
	out, err := m.state.Expired(group, topic, AnyQueue, now, 1000, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return out
}

// popped is a record that hands out offsets first to last of a queue.
func popped(group, topic kvindex.ID, queue int32, first, last, now, visible int64, nonce uint64) record.Record {
	p := &Pop{Group: group, Topic: topic, PoppedAt: now, VisibleAt: visible, Nonce: nonce}
	for o := first; o <= last; o++ {
		p.Entries = append(p.Entries, Entry{Offset: o, Position: record.Position(1000 + 100*o), Size: 100})
	}
	p.Ranges = []Range{{Queue: queue, Start: first, End: last + 1, Count: len(p.Entries)}}
	return p.Record()
}

func ackOf(group, topic kvindex.ID, refs ...Ref) record.Record {
	return AckRecord(&Ack{Group: group, Topic: topic, Refs: refs})
}

func moveOf(group, topic kvindex.ID, moves ...Move) record.Record {
	return ExtendRecord(&Extend{Group: group, Topic: topic, Moves: moves})
}
