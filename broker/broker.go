// Package broker is the verbs that every door calls: send, pull, pop, ack, extend, offsets, query, topics and groups; the
// waiters of long polls; and the due loop, which owns the clock.
//
// Read broker.go first, then the file of the verb in question: send.go and sendop.go, sendback.go, pull.go and pullwait.go,
// pop.go, dead.go, transaction.go, recall.go and timers.go, offsets.go and reset.go, query.go, topics.go, groups.go, clients.go, locks.go,
// tools.go; below them are changes.go (one change of a name at a time), due.go, fire.go, check.go, waiters.go, workers.go,
// meters.go, rates.go and trends.go.
//
// Rules: a verb changes nothing but by a record in the log, and what it answers is applied. What is only in memory here
// (clients, locks, waiters, counters) may be gone after a restart without a promise being broken. Nothing that the folder
// goroutine or the due loop calls blocks. Every table and queue has a bound; over it the answer is CodeBusy.
package broker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/store"
)

const (
	// maxWaiters bounds the long polls that wait.
	maxWaiters = 200_000
	// lookers is how many pops look at a time. Each may wait for its record to be written, so it takes many of them to keep the log
	// busy; but when a hundred thousand come at once they must not all wait for the same locks: the runtime follows the list of
	// those who do whenever it moves the stack of one.
	lookers = 128
	// expireEvery is how often the store drops what is past its retention, at the most; a retention that is less is followed as often.
	expireEvery = time.Minute

	defaultQueues         = 8
	defaultMaxMessageSize = 4 << 20

	defaultMaxDelay           = 365 * 24 * time.Hour
	defaultTransactionTimeout = 6 * time.Second
	defaultCheckInterval      = 30 * time.Second
	defaultMaxChecks          = 15
	defaultMaxChecksPerSecond = 1000
)

// Options of a broker.
type Options struct {
	ClusterName      string         // default DefaultCluster
	BrokerName       string         // default broker-a
	Advertise        netip.AddrPort // Remoting address that clients are told
	AdvertiseGRPC    netip.AddrPort
	AutoCreateTopics bool                  // topics are made on demand
	AutoCreateGroups bool                  // consumer groups are made on demand
	DefaultQueues    int32                 // queues of a topic made on demand, default 8
	MaxMessageSize   int                   // bytes of a body, default 4 MiB
	DelayLevels      delay.Levels          // default delay.DefaultLevels
	MaxDelay         time.Duration         // longest delay that a message may ask for, its level's apart; default 365 days
	Clock            clock.Clock           // default the machine's
	Logger           zerolog.Logger        //
	Registerer       prometheus.Registerer // nil: no metrics
	// Fit is asked of what is in the data folder before anything is written there; its error keeps the broker from starting.
	// nil: every folder is.
	Fit func(*catalog.Catalog) error

	// Uploads says that sealed segments go to the store's tier, which the broker claims for its data folder.
	Uploads bool

	// Transactions: how long after a half message its producer is first asked, when the message does not say; how long after
	// a question the next one comes; how many there are for one message, and how many a producer group gets in a second.
	TransactionTimeout time.Duration // default 6 s
	CheckInterval      time.Duration // default 30 s
	MaxChecks          int32         // default 15
	MaxChecksPerSecond int           // default 1000
}

func (o *Options) setDefaults() error {
	if o.ClusterName == "" {
		o.ClusterName = "DefaultCluster"
	}
	if o.BrokerName == "" {
		o.BrokerName = "broker-a"
	}
	if o.DefaultQueues == 0 {
		o.DefaultQueues = defaultQueues
	}
	if o.MaxMessageSize == 0 {
		o.MaxMessageSize = defaultMaxMessageSize
	}
	if o.Clock == nil {
		o.Clock = clock.System
	}
	if err := o.setTimeDefaults(); err != nil {
		return err
	}
	for _, name := range []string{o.ClusterName, o.BrokerName} {
		if err := catalog.ValidateTopicName(name); err != nil {
			return fmt.Errorf("cluster and broker names are topics too: %w", err)
		}
	}
	if o.DefaultQueues < 1 || o.DefaultQueues > maxQueues {
		return fmt.Errorf("%d default queues are not within 1 to %d", o.DefaultQueues, maxQueues)
	}
	return nil
}

// setTimeDefaults is setDefaults for delays and transactions.
func (o *Options) setTimeDefaults() (err error) {
	if len(o.DelayLevels) == 0 {
		if o.DelayLevels, err = delay.ParseLevels(delay.DefaultLevels); err != nil {
			return err
		}
	}
	o.MaxDelay = cmp.Or(o.MaxDelay, defaultMaxDelay)
	o.TransactionTimeout = cmp.Or(o.TransactionTimeout, defaultTransactionTimeout)
	o.CheckInterval = cmp.Or(o.CheckInterval, defaultCheckInterval)
	o.MaxChecks = cmp.Or(o.MaxChecks, defaultMaxChecks)
	o.MaxChecksPerSecond = cmp.Or(o.MaxChecksPerSecond, defaultMaxChecksPerSecond)
	if o.MaxDelay < 0 || o.TransactionTimeout < 0 || o.CheckInterval < 0 || o.MaxChecks < 0 || o.MaxChecksPerSecond < 0 {
		return errors.New("longest delay, transaction timeout, check interval and numbers of checks must not be negative")
	}
	return nil
}

// Broker is the verbs over one store. Safe for concurrent use.
type Broker struct {
	opts    Options
	mode    commitlog.Mode
	store   *store.Store
	catalog *catalog.Catalog // the store's
	clock   clock.Clock
	log     zerolog.Logger

	due      *due
	workers  *workers // of pulls
	lookers  *workers // of pops
	cold     *coldReaders
	waiters  *waiters
	pulls    *pulls
	pop      *popper
	polls    *longPolls
	virtuals *virtuals
	firer    *firer
	changes  *changes
	offsets  *offsets
	clients  *Clients
	locks    *queueLocks
	rotation *rotation
	rates    *rates
	meters   *meters
	halves   *halfMeters
	creates  createMeters
	checker  *checker
	redriver *redriver
	uploader *uploader // nil: nothing goes to a tier
	metrics  *metrics

	listeners struct {
		sync.Mutex
		f []func()
	}

	redriving sync.Mutex // held while dead letters are chosen and moved

	stop   context.CancelFunc // ends the upkeep
	upkeep sync.WaitGroup
	expiry chan struct{} // asks the upkeep to let the store expire
	closed sync.Once
	gate   gate
}

// Open opens the store and takes it over: Close closes it. storeOpts.OnApplied is set here; its clock and logger are the
// broker's when it has none. The topics that every broker has are made at the first start.
func Open(ctx context.Context, storeOpts store.Options, opts Options) (*Broker, error) {
	if err := opts.setDefaults(); err != nil {
		return nil, fmt.Errorf("open broker: %w", err)
	}
	b := &Broker{
		opts: opts, mode: storeOpts.Mode, clock: opts.Clock, log: opts.Logger,
		waiters: newWaiters(maxWaiters), pulls: newPulls(), polls: newLongPolls(), virtuals: newVirtuals(),
		changes: newChanges(), rotation: newRotation(),
		locks: newQueueLocks(opts.Clock), rates: newRates(opts.Clock), expiry: make(chan struct{}, 1), gate: newGate(),
	}
	b.meters = newMeters(b.rates, b.isSystemTopic)
	b.halves = newHalfMeters()
	b.clients = newClients(opts.Clock, b.notifiesMembers)
	storeOpts.OnApplied = b.waiters.arrived
	if opts.Uploads {
		b.uploader = newUploader(b, storeOpts)
		storeOpts.OnSealed = b.uploader.nudge
	}
	if storeOpts.Clock == nil {
		storeOpts.Clock = opts.Clock
	}
	s, err := store.Open(ctx, storeOpts)
	if err != nil {
		return nil, fmt.Errorf("open broker: %w", err)
	}
	if opts.Fit != nil {
		if err := opts.Fit(s.Catalog); err != nil {
			return nil, errors.Join(fmt.Errorf("open broker: %w", err), s.Close())
		}
	}
	b.store, b.catalog = s, s.Catalog
	b.offsets = newOffsets(opts.Clock, s.Propose)
	if err := b.makeStandingTopics(ctx); err != nil && CodeOf(err) != CodeReadOnly {
		return nil, errors.Join(fmt.Errorf("open broker: %w", err), s.Close())
	}
	b.start()
	if opts.Registerer != nil {
		m := newMetrics(b)
		if err := opts.Registerer.Register(m); err != nil {
			return nil, errors.Join(fmt.Errorf("open broker: register metrics: %w", err), b.Close())
		}
		b.metrics = m
	}
	return b, nil
}

// start begins what runs beside the verbs.
func (b *Broker) start() {
	b.due = newDue(b.clock)
	b.clients.later = func(t time.Time, f func()) { b.due.at(t, f) }
	b.pop = newPopper(b.store, b.clock, b.due, b.waiters)
	b.workers = newWorkers(max(2, runtime.GOMAXPROCS(0)), 16)
	b.lookers = newWorkers(lookers, 1)
	b.cold = newColdReaders(newColdBudget(b.clock, b.rates.puts.Load))
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	b.upkeep.Go(func() { b.expireStore(ctx) })
	b.firer = newFirer(b.store, b.clock, b.meters, b.log)
	b.upkeep.Go(func() { b.firer.run(ctx) })
	b.checker = newChecker(b)
	b.upkeep.Go(func() { b.checker.run(ctx) })
	b.redriver = newRedriver(b)
	b.upkeep.Go(func() { b.redriver.run(ctx) })
	b.due.every(redriveEvery, b.redriver.nudge)
	b.due.every(sampleEvery, b.rates.sample)
	b.due.every(clientScan, func() { b.clients.expire(); b.offsets.expire() })
	b.due.every(lockExpiry, b.locks.expire)
	b.due.every(virtualSweep, b.sweepVirtuals)
	b.due.every(commitEvery, func() { b.offsets.flush(nil) })
	b.due.every(min(expireEvery, b.store.Retention()), b.expireSoon)
	if b.uploader != nil {
		b.uploader.store = b.store
		b.upkeep.Go(func() { b.uploader.run(ctx) })
	}
}

// expireSoon asks for expireStore's next round; it does not block.
func (b *Broker) expireSoon() {
	select {
	case b.expiry <- struct{}{}:
	default: // still at it
	}
}

// expireStore lets the store drop what is past its retention whenever it is asked for.
func (b *Broker) expireStore(ctx context.Context) {
	fails := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-b.expiry:
		}
		err := b.store.Expire(ctx, b.clock.Now())
		switch {
		case err == nil && fails:
			b.log.Info().Msg("what is past its retention goes again")
		case err != nil && !fails && ctx.Err() == nil:
			b.log.WithLevel(b.expiryLevel()).Err(err).Msg("expiry fails at the moment; trying on")
		}
		fails = err != nil
	}
}

// expiryLevel is how bad it is that expiry fails: with a tier it may be that the object store is out of reach for a while, and then
// everything just stays here.
func (b *Broker) expiryLevel() zerolog.Level {
	if b.uploader != nil {
		return zerolog.WarnLevel
	}
	return zerolog.ErrorLevel
}

// Close ends what waits with CodeClosing, writes down the offsets that were committed one-way, and closes the store. What was
// proposed before is still applied. Later calls do nothing.
func (b *Broker) Close() (err error) {
	b.closed.Do(func() {
		b.pulls.close()
		b.pop.close()
		b.virtuals.close()
		b.polls.close()
		b.cold.stop()
		b.gate.close()
		b.stop()
		b.upkeep.Wait()
		b.due.close()
		b.workers.close()
		b.lookers.close()
		b.cold.close()
		_, flushed := await(context.Background(), func(done func(struct{}, error)) {
			b.offsets.flush(func(err error) { done(struct{}{}, err) })
		})
		if flushed != nil {
			flushed = fmt.Errorf("write committed offsets: %w", flushed)
		}
		if b.metrics != nil {
			b.opts.Registerer.Unregister(b.metrics)
		}
		err = errors.Join(flushed, b.store.Close())
	})
	return err
}

// gate counts the verbs inside, so that Close can wait for them: a store that is closed must not be read.
type gate struct {
	inside atomic.Int64 // verbs inside, and gateShut when no more may enter
	empty  chan struct{}
}

const gateShut = 1 << 62

func newGate() gate { return gate{empty: make(chan struct{}, 1)} }

// enter is called first by every verb that reads or writes; without an error leave has to follow. It may be entered again
// from inside.
func (g *gate) enter() error {
	if g.inside.Add(1) > gateShut {
		g.leave()
		return errClosing
	}
	return nil
}

func (g *gate) leave() {
	if g.inside.Add(-1) == gateShut {
		select {
		case g.empty <- struct{}{}:
		default:
		}
	}
}

// close lets nobody in any more and waits until nobody is inside.
func (g *gate) close() {
	if g.inside.Add(gateShut) > gateShut {
		<-g.empty
	}
}

// Options answers the options with their defaults.
func (b *Broker) Options() Options { return b.opts }

// Store is for tools and metrics; doors use verbs.
func (b *Broker) Store() *store.Store { return b.store }

// Catalog answers what exists.
func (b *Broker) Catalog() *catalog.Catalog { return b.catalog }

// Clients is the table of connected producers and consumers.
func (b *Broker) Clients() *Clients { return b.clients }

// notifiesMembers says whether the members of a group want to hear of each other.
func (b *Broker) notifiesMembers(group string) bool {
	g, err := b.catalog.Group(group)
	return err != nil || g.NotifyIDsChanged
}
