package broker

import (
	"context"
	"errors"
	"maps"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/store"
	"github.com/cairnmq/cairn/txn"
)

const (
	// checkNap is how long the checker sleeps at most while there are half messages: the clock may be set.
	checkNap = 500 * time.Millisecond
	// checkRetry is how long it rests when the log does not take what it has to write.
	checkRetry = time.Second
)

// checker asks producers for the end of their transactions. One goroutine: it sleeps until the first half message is due,
// takes what is due, writes down in one record that it was asked about, parked or put off, and then asks. What was not written
// down is not asked, so a log that takes nothing does not make it ask again and again. After a crash in between, one of the
// checks that count was not made.
//
// Pace. Of a group that has more checks due than it may get in a second, the rest is put off, each to the next second that has
// room: its row is written once more and lies out of the way until then. To leave them due would write nothing, but whatever is
// due then lies behind them: with 1,000,000 half messages of one group at 1000 a second each look would read up to a million
// rows in front of another group's first, for a quarter of an hour. To put all off by one second would write a million rows
// every second. Spread over the seconds to come each is written once, and a look reads what it can use.
type checker struct {
	b     *Broker
	wake  chan struct{}
	paces map[string]*pace // by producer group
	// swept is the second in which paces without use were dropped last.
	swept int64
	fails bool         // the last round did, and it was said
	looks atomic.Int64 // how often it found nothing more to do

	// Of the round under way.
	due       []txn.Half
	checks    []txn.Check
	ends      []record.Record
	asks      []question
	producers map[string][]*Client // by group, those who can be asked
	layout    []byte
}

// question is a half message whose producer is to be asked.
type question struct {
	half  txn.Half
	topic *catalog.Topic
}

func newChecker(b *Broker) *checker {
	return &checker{b: b, wake: make(chan struct{}, 1), paces: map[string]*pace{}, producers: map[string][]*Client{}}
}

// run works until ctx ends. Without half messages it is not awake at all.
func (c *checker) run(ctx context.Context) {
	for {
		next := c.work(ctx)
		cancel := func() bool { return false }
		if !next.IsZero() {
			cancel = c.b.due.at(next, c.nudge)
		}
		select {
		case <-ctx.Done():
		case <-c.b.store.Txn.Changed():
		case <-c.wake:
		}
		cancel()
		if ctx.Err() != nil {
			return
		}
	}
}

func (c *checker) nudge() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// work does all that is due, and says when to look again; zero: when something changes.
func (c *checker) work(ctx context.Context) time.Time {
	for {
		now := c.b.clock.Now() // before the look, for what comes between the two
		at, ok, err := c.b.store.Txn.NextCheck()
		next := time.UnixMilli(at)
		if err == nil && (!ok || next.After(now)) {
			c.looks.Add(1)
			if !ok {
				return time.Time{}
			}
			if nap := now.Add(checkNap); nap.Before(next) {
				return nap
			}
			return next
		}
		if err == nil {
			err = c.round(ctx, now.UnixMilli())
		}
		switch {
		case ctx.Err() != nil:
			return time.Time{}
		case err != nil:
			if !c.fails {
				c.b.log.Error().Err(err).Msg("transactions cannot be checked; it will be tried again")
			}
			c.fails = true
			return now.Add(checkRetry)
		}
		c.fails = false
	}
}

// round takes the half messages that are due first: what it decides is one proposal.
func (c *checker) round(ctx context.Context, now int64) (err error) {
	defer clear(c.producers) // hold nobody who goes
	if c.due, err = c.b.store.Txn.Due(now, txn.MaxChecks, c.due[:0]); err != nil {
		return err
	}
	c.checks, c.ends, c.asks = c.checks[:0], c.ends[:0], c.asks[:0]
	for i := range c.due {
		if err := c.decide(&c.due[i], now); err != nil {
			return err
		}
	}
	records := c.ends
	if len(c.checks) > 0 {
		records = append(records, txn.ChecksRecord(c.checks))
	}
	if len(records) == 0 {
		return nil
	}
	if _, err := c.b.append(ctx, "note checks of transactions", records...); err != nil {
		return err
	}
	c.tellParked()
	return c.askAll(ctx)
}

// tellParked counts the half messages that were parked, and says so once for all.
func (c *checker) tellParked() {
	parked := 0
	for _, check := range c.checks {
		if check.Park != txn.NotParked {
			c.b.halves.parked[check.Park].Add(1)
			parked++
		}
	}
	if parked > 0 {
		c.b.log.Warn().Int("messages", parked).Msg("transactions that nobody decided are parked: they stay listed")
	}
}

// decide says what is to be done about a half message that is due.
func (c *checker) decide(h *txn.Half, now int64) error {
	t, err := c.b.catalog.TopicByID(h.Topic)
	if errors.Is(err, catalog.ErrTopicNotFound) {
		c.ends = append(c.ends, txn.End{Position: h.Position, Action: txn.Expire}.Record())
		return nil
	}
	if err != nil {
		return err
	}
	check := txn.Check{Position: h.Position}
	if h.Checks >= c.b.opts.MaxChecks {
		check.Park, check.Free = txn.NoAnswer, true
		if len(c.producersOf(h.Group)) == 0 {
			check.Park = txn.NoProducer
		}
	} else if at := c.paceOf(h.Group, now).take(now, c.b.opts.MaxChecksPerSecond); at > now {
		check.Next, check.Free = at, true
	} else {
		check.Next = now + c.b.opts.CheckInterval.Milliseconds()
		h.Checks++
		h.CheckAt = check.Next
		c.asks = append(c.asks, question{*h, t})
	}
	c.checks = append(c.checks, check)
	return nil
}

// askAll puts the questions of the round. What has no body any more is given up.
func (c *checker) askAll(ctx context.Context) error {
	var gone []record.Record
	buf := store.NewBuffer()
	defer buf.Release()
	for i := range c.asks {
		q := &c.asks[i]
		buf.B = buf.B[:0]
		layout, err := c.b.store.ReadStored(q.half.Position, q.half.Size, buf)
		switch {
		case errors.Is(err, commitlog.ErrGone):
			gone = append(gone, txn.End{Position: q.half.Position, Action: txn.Expire}.Record())
			fallthrough
		case err != nil:
			c.b.log.Error().Err(err).Str("topic", q.topic.Name).Str("group", q.half.Group).
				Bool("given up", errors.Is(err, commitlog.ErrGone)).Msg("a half message cannot be read")
		case c.ask(q, layout):
			c.b.halves.asked.Add(1)
		default:
			c.b.halves.unasked.Add(1)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	_, err := c.b.append(ctx, "give up half messages", gone...)
	return err
}

// ask asks one producer of the group; false when there is none that can be asked. Who is first differs from check to check of a
// half message, and from half message to half message, without a turn to be remembered for each group.
func (c *checker) ask(q *question, layout []byte) bool {
	producers := c.producersOf(q.half.Group)
	if len(producers) == 0 {
		return false
	}
	check := TransactionCheck{Group: q.half.Group, Topic: q.topic.Name, Half: q.half}
	if err := c.present(&check, layout); err != nil {
		c.b.log.Error().Err(err).Str("topic", check.Topic).Str("id", check.UniqueID).Msg("a producer cannot be asked for its transaction")
		return false
	}
	first := int((q.half.ID + uint64(q.half.Checks)) % uint64(len(producers)))
	for i := range producers {
		if producers[(first+i)%len(producers)].Check(&check) {
			return true
		}
	}
	return false
}

// present fills in what the message tells, with the layout as producers get it.
func (c *checker) present(check *TransactionCheck, layout []byte) error {
	m, _, err := message.DecodeAs(layout, check.Topic)
	if err != nil {
		return err
	}
	id, _ := message.Property(m.Properties, message.PropUniqueKey)
	check.UniqueID = string(id)
	m.SysFlag = m.SysFlag&^message.FlagTransactionMask | message.FlagPrepared
	m.QueueOffset, m.PreparedOffset = 0, 0
	props := message.SetProperty(m.Properties, message.PropTranChecks, strconv.Itoa(int(check.Half.Checks)))
	props = message.SetProperty(props, message.PropTranMsg, "true")
	if _, there := message.Property(props, message.PropTransactionID); !there && check.UniqueID != "" {
		props = message.SetProperty(props, message.PropTransactionID, check.UniqueID)
	}
	m.Properties = props
	c.layout, err = m.AppendEncode(c.layout[:0])
	check.Layout = c.layout
	return err
}

// producersOf are those of a group who can be asked; they are looked up once in a round.
func (c *checker) producersOf(group string) []*Client {
	found, known := c.producers[group]
	if !known {
		found = c.b.clients.checkable(group)
		c.producers[group] = found
	}
	return found
}

func (c *checker) paceOf(group string, now int64) *pace {
	if second := now / 1000; second != c.swept {
		c.swept = second
		maps.DeleteFunc(c.paces, func(_ string, p *pace) bool { return p.second != second && p.tail <= second })
	}
	p := c.paces[group]
	if p == nil {
		p = &pace{}
		c.paces[group] = p
	}
	return p
}

// pace is what a producer group has used of its checks. Seconds are those of the clock.
type pace struct {
	second int64 // the one under way
	asked  int   // in it
	tail   int64 // the last second to which checks were put off
	put    int   // to it
}

// take is now when the group may be asked once more, else the time (ms) to which that is put off.
func (p *pace) take(now int64, perSecond int) int64 {
	second := now / 1000
	if p.second != second {
		p.second, p.asked = second, 0
	}
	if p.asked < perSecond {
		p.asked++
		return now
	}
	if p.tail <= second {
		p.tail, p.put = second+1, 0
	}
	if p.put >= perSecond {
		p.tail, p.put = p.tail+1, 0
	}
	p.put++
	return p.tail * 1000
}
