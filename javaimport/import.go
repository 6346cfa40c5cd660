package javaimport

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/javastore"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
)

// Errors to decide on, beside those of javastore and ErrUnsupported.
var (
	// ErrNotEmpty says that the data folder holds something else than an import under way.
	ErrNotEmpty = errors.New("the data folder is not empty: an import makes a new one")
	// ErrChanged says that an import was begun from another store, or that this one was used since.
	ErrChanged = errors.New("the data folder holds an import from another store, or a Java broker has run on this one since: begin anew with an empty data folder")
	// ErrUnfinished says that the import into a data folder was begun and has not ended.
	ErrUnfinished = errors.New("the import of a Java broker's store into this data folder has not ended")
	// ErrUsed says that a broker has run on the data folder before its import had ended.
	ErrUsed = errors.New("the data folder was used before its import had ended: begin anew with an empty one")
)

// Options of an import. The zero value of a field means its default.
type Options struct {
	Store  store.Options // of the data folder
	Levels delay.Levels  // the Java broker's messageDelayLevel, default delay.DefaultLevels
	Clock  clock.Clock   // default the machine's
	// Progress is called now and then with how far the work of a stage is, in bytes of the Java commitlog.
	Progress func(stage Stage, done, total int64)
	// written is called after each proposal that was applied, in tests that break an import off.
	written func()
}

// Stage of an import.
type Stage string

// Stages in their order. The first one writes nothing.
const (
	StageLook     Stage = "look"
	StageCatalog  Stage = "catalog"
	StageMessages Stage = "messages"
	StageOffsets  Stage = "offsets"
	StageDone     Stage = "done"
)

// Where the state of an import is kept.
const (
	stateNamespace = "CAIRN_IMPORT"
	stateKey       = "state"
)

// state is how far an import is.
type state struct {
	Source   string `json:"source"`   // which store, see sourceOf
	Stage    Stage  `json:"stage"`    // what is to be done
	Position int64  `json:"position"` // in the Java commitlog: what lies before is there
}

func sourceOf(p *plan) string {
	return fmt.Sprintf("%d-%d at %d", p.folder.Log.First(), p.end, p.first)
}

// Unfinished is nil for a data folder that no import was begun in, or in which it has ended; otherwise ErrUnfinished. A broker must
// not run on such a folder: messages are missing, and it would give new ones their offsets.
func Unfinished(c *catalog.Catalog) error {
	text, ok, err := c.KV(stateNamespace, stateKey)
	if err != nil || !ok {
		return err
	}
	var s state
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		return fmt.Errorf("state of the import: %w", err)
	}
	if s.Stage != StageDone {
		return ErrUnfinished
	}
	return nil
}

// importer is an import under way.
type importer struct {
	opts   Options
	plan   *plan
	store  *store.Store
	state  state
	topics map[string]kvindex.ID
	now    int64 // ms: when the import runs
	window window
	chunk  chunk
	waits  []wait // what is left of plan.pending
}

// Run imports a store, or goes on with an import that was broken off. It may be ended by ctx or by anything else at any time, and be
// run again. One that has ended already is only looked at.
func Run(ctx context.Context, f *javastore.Folder, opts Options) (_ Report, err error) {
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	if len(opts.Levels) == 0 {
		if opts.Levels, err = delay.ParseLevels(delay.DefaultLevels); err != nil {
			return Report{}, err
		}
	}
	if opts.Progress == nil {
		opts.Progress = func(Stage, int64, int64) {}
	}
	total := f.Log.End() - f.Log.First()
	p, err := look(ctx, f, opts.Levels, func(pos int64) { opts.Progress(StageLook, pos-f.Log.First(), total) })
	if err != nil {
		return Report{}, err
	}
	opts.Progress(StageLook, total, total)
	s, err := store.Open(ctx, opts.Store)
	if err != nil {
		return Report{}, err
	}
	im := &importer{opts: opts, plan: p, store: s, topics: map[string]kvindex.ID{}, now: opts.Clock.Now().UnixMilli(), waits: p.pending}
	im.window.init()
	err = im.run(ctx)
	im.window.wait(0)
	return p.report, errors.Join(err, s.Close())
}

func (im *importer) run(ctx context.Context) error {
	if err := im.readState(); err != nil {
		return err
	}
	if im.state.Stage == StageCatalog {
		if err := im.putCatalog(ctx); err != nil {
			return err
		}
	}
	if err := im.findTopics(); err != nil {
		return err
	}
	if im.state.Stage == StageMessages {
		if err := im.copyMessages(ctx); err != nil {
			return err
		}
	}
	if im.state.Stage == StageOffsets {
		return im.finish(ctx)
	}
	return nil
}

func (im *importer) readState() error {
	c := im.store.Catalog
	text, ok, err := c.KV(stateNamespace, stateKey)
	if err != nil {
		return err
	}
	if !ok {
		if topics, groups := c.Counts(); topics+groups > 0 {
			return ErrNotEmpty
		}
		im.state = state{Source: sourceOf(im.plan), Stage: StageCatalog, Position: im.plan.folder.Log.First()}
		return nil
	}
	if err := json.Unmarshal([]byte(text), &im.state); err != nil {
		return fmt.Errorf("state of the import: %w", err)
	}
	if im.state.Source != sourceOf(im.plan) {
		return ErrChanged
	}
	im.plan.report.Before = im.state.Stage == StageDone
	return nil
}

// stateRecord says that the import is as far as s.
func (im *importer) stateRecord(s state) record.Record {
	text, err := json.Marshal(s)
	if err != nil {
		panic(fmt.Sprintf("javaimport: a state cannot be encoded: %v", err)) // plain fields only
	}
	return im.store.Catalog.PutKV(stateNamespace, stateKey, string(text))
}

// reach appends records together with the state behind them, at a time (ms).
func (im *importer) reach(ctx context.Context, at int64, next state, recs ...record.Record) error {
	done := make(chan struct{})
	p := &commitlog.Proposal{Records: append(recs, im.stateRecord(next)), At: max(at, 1), Done: func(*commitlog.Proposal) { close(done) }}
	if err := im.store.Propose(p); err != nil {
		return err
	}
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if p.Err == nil {
		im.state = next
		if im.opts.written != nil {
			im.opts.written()
		}
	}
	return p.Err
}

// catalogChunk is how many topics or groups one proposal has.
const catalogChunk = 1000

// putCatalog makes topics and groups. It is done again from the beginning when it is broken off.
func (im *importer) putCatalog(ctx context.Context) error {
	c, p := im.store.Catalog, im.plan
	at := p.first
	if at == 0 {
		at = im.now
	}
	var recs []record.Record
	for _, t := range p.folder.Topics {
		if p.topics[t.Name] != nil {
			recs = append(recs, c.PutTopic(t))
		}
	}
	for _, g := range p.groups() {
		recs = append(recs, c.PutGroup(g))
		retry := catalog.RetryPrefix + g.Name
		if p.topics[retry] == nil { // Java makes it when a consumer that pulls comes, here it is there from the beginning
			queues := max(g.RetryQueueNums, 1)
			recs = append(recs, c.PutTopic(catalog.Topic{
				Name: retry, ReadQueues: queues, WriteQueues: queues, Perm: catalog.PermRead | catalog.PermWrite, TopicFilterType: "SINGLE_TAG",
			}))
		}
	}
	for len(recs) > catalogChunk {
		if err := im.reach(ctx, at, im.state, recs[:catalogChunk:catalogChunk]...); err != nil {
			return err
		}
		recs = recs[catalogChunk:]
	}
	next := im.state
	next.Stage = StageMessages
	if err := im.reach(ctx, at, im.state, recs...); err != nil {
		return err
	}
	if err := im.findTopics(); err != nil {
		return err
	}
	return im.reach(ctx, at, next, im.starts()...)
}

// starts lets queues begin where they did.
func (im *importer) starts() []record.Record {
	var recs []record.Record
	for at, l := range im.plan.lines {
		if l.start > 0 {
			recs = append(recs, store.StartRecord(im.topics[at.topic], at.queue, l.start))
		}
	}
	return recs
}

func (im *importer) findTopics() error {
	for name := range im.plan.topics {
		t, err := im.store.Catalog.Topic(name)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUsed, err)
		}
		im.topics[name] = t.ID
	}
	return nil
}

// copyMessages proposes the messages from the state's position on.
func (im *importer) copyMessages(ctx context.Context) error {
	p := im.plan
	for at, l := range p.lines { // go on where each queue stands
		_, high, err := im.store.Bounds(im.topics[at.topic], at.queue)
		if err != nil {
			return err
		}
		l.next = max(l.start, high)
	}
	r, err := p.folder.Log.ReadFrom(im.state.Position)
	if err != nil {
		return err
	}
	defer r.Close() //nolint:errcheck // only read
	for len(im.waits) > 0 && im.waits[0].position < im.state.Position {
		im.waits = im.waits[1:]
	}
	var m javastore.Message
	first, total := p.folder.Log.First(), p.end-p.folder.Log.First()
	for n := 0; ; n++ {
		ok, err := r.Next(&m)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if err := im.copy(&m); err != nil {
			return err
		}
		im.chunk.behind = r.Position()
		if n%1024 == 0 {
			im.opts.Progress(StageMessages, r.Position()-first, total)
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	if err := im.flush(); err != nil {
		return err
	}
	if err := im.window.wait(0); err != nil {
		return err
	}
	im.opts.Progress(StageMessages, total, total)
	next := im.state
	next.Stage, next.Position = StageOffsets, p.end
	return im.reach(ctx, im.now, next)
}

// copy adds one message to the chunk under way when it is one of its queue's, or waits.
func (im *importer) copy(m *javastore.Message) error {
	var rec record.Record
	want := int64(-1)
	if len(im.waits) > 0 && im.waits[0].position == m.Position {
		w := im.waits[0]
		im.waits = im.waits[1:]
		var err error
		if rec, err = im.waiting(m, w); err != nil || rec.Payload == nil {
			return err
		}
	} else {
		topic, moves := im.topics[m.Topic]
		l, ok := im.plan.isNext(m)
		if !moves || !ok {
			return nil
		}
		want = l.next
		l.next++
		var err error
		if rec, err = store.MessageRecord(topic, &m.Message); err != nil {
			return err
		}
	}
	if c := &im.chunk; len(c.records) > 0 && (c.at != m.StoreTimestamp || c.bytes+len(rec.Payload) > chunkBytes) {
		if err := im.flush(); err != nil {
			return err
		}
	}
	im.chunk.add(m.StoreTimestamp, rec, want)
	return nil
}

// waiting makes the record of a message that is not to be delivered yet; an empty one when its topic does not exist.
func (im *importer) waiting(m *javastore.Message, w wait) (record.Record, error) {
	name, queue, _ := realOf(m)
	topic, ok := im.topics[name]
	if !ok {
		return record.Record{}, nil
	}
	msg := m.Message
	msg.Topic, msg.QueueID = name, queue%im.plan.topics[name].Queues()
	if w.kind != byHalf {
		due := w.due
		if w.kind == byTimer {
			due = wished(m, due)
		}
		payload, err := store.AppendDelayed(nil, max(due, 0), topic, &msg)
		return record.Record{Kind: record.KindDelayed, Payload: payload}, err
	}
	props := msg.Properties
	for _, drop := range []string{message.PropTranMsg, message.PropRealTopic, message.PropRealQueueID, message.PropTranChecks} {
		props = message.DropProperty(props, drop)
	}
	if id, ok := message.Property(props, message.PropUniqueKey); ok {
		props = message.SetProperty(props, message.PropTransactionID, string(id))
	}
	msg.Properties = props
	msg.SysFlag = msg.SysFlag&^message.FlagTransactionMask | message.FlagCommit
	payload, err := store.AppendHalf(nil, m.StoreTimestamp+firstCheck, topic, &msg)
	return record.Record{Kind: record.KindHalf, Payload: payload}, err
}

// firstCheck is how long after a half message its producer is asked first, in ms: by default in both brokers.
const firstCheck = 6000

// chunkBytes bounds the messages of one proposal.
const chunkBytes = 256 << 10

// chunk is what will be proposed next: messages that were stored in the same millisecond, one after the other.
type chunk struct {
	at      int64 // ms
	records []record.Record
	want    []int64 // queue offset that each gets; -1 for none
	bytes   int
	behind  int64 // position behind the last message that was looked at
}

func (c *chunk) add(at int64, r record.Record, want int64) {
	c.at = at
	c.records, c.want = append(c.records, r), append(c.want, want)
	c.bytes += len(r.Payload)
}

// flush proposes the chunk with the position behind it.
func (im *importer) flush() error {
	c := im.chunk
	im.chunk = chunk{behind: c.behind}
	if len(c.records) == 0 {
		return nil
	}
	next := im.state
	next.Position = c.behind
	if err := im.window.enter(c.bytes); err != nil {
		return err
	}
	want := c.want
	p := &commitlog.Proposal{Records: append(c.records, im.stateRecord(next)), At: max(c.at, 1)}
	p.Done = func(p *commitlog.Proposal) {
		err := p.Err
		for i, w := range want {
			if out := p.Outcomes; err == nil && (out[i].Refused || w >= 0 && out[i].Offset != w) {
				err = fmt.Errorf("%w: a message got offset %d instead of %d", ErrUsed, out[i].Offset, w)
			}
		}
		im.window.leave(c.bytes, err)
		if err == nil && im.opts.written != nil {
			im.opts.written()
		}
	}
	if err := im.store.Propose(p); err != nil {
		im.window.leave(c.bytes, err)
		return err
	}
	im.state = next
	return nil
}

// windowBytes bounds what is proposed and not applied.
const windowBytes = 16 << 20

// window counts the bytes that are proposed and not applied, and keeps the first error.
type window struct {
	mu struct {
		sync.Mutex
		bytes, waiting int
		err            error
	}
	changed sync.Cond
}

func (w *window) init() { w.changed.L = &w.mu }

// enter waits until there is room.
func (w *window) enter(bytes int) error {
	if err := w.wait(windowBytes); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.bytes += bytes
	w.mu.waiting++
	return nil
}

func (w *window) leave(bytes int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mu.bytes -= bytes
	w.mu.waiting--
	if w.mu.err == nil {
		w.mu.err = err
	}
	w.changed.Broadcast()
}

// wait waits until at most so many bytes are under way, for 0 until nothing is; it answers the first error.
func (w *window) wait(most int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.mu.bytes > most || most == 0 && w.mu.waiting > 0 {
		w.changed.Wait()
	}
	return w.mu.err
}
