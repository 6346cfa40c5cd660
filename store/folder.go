package store

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/txn"
)

// folder is the only writer of the view. The goroutine that hands out committed batches drives it; during recovery that
// is the one that opens the store.
//
//	batch of the log ─▶ Begin ─▶ Apply each record by its kind ─▶ Finish each fold touched ─▶ Commit
//	                                                                                            │
//	       proposals' Done ◀─ OnApplied(arrivals) ◀─ publish: caches follow the rows ◀───────────┘
type folder struct {
	batch    *kvindex.Batch
	catalog  *catalog.Catalog
	queues   *queueFold
	delay    *delay.State
	txn      *txn.State
	commit   func(try func() error) error // runs try, the commit of a batch, perhaps more than once
	folds    []kvindex.Fold               // catalog, queues, delay, txn, and the others
	foldPop  int                          // place of pop among them, 0 when it is not there
	owner    [256]int                     // of each kind: 1 + index of its fold, 0 for none
	touched  []bool                       // by the batch under way, aligned with folds
	replayed []record.Outcome
	arrivals []Arrival
}

// Places in folder.folds.
const (
	foldQueues = 1
	foldDelay  = 2
	foldTxn    = 3
)

// publisher is what a fold implements that keeps something in memory beside its rows: Publish is called after the batch
// that changed them was committed.
type publisher interface{ Publish() }

// moreFolds makes the folds beside catalog and queues over an engine.
type moreFolds func(kvindex.Engine) []kvindex.Fold

func newFolder(e kvindex.Engine, more moreFolds) *folder {
	f := &folder{batch: kvindex.NewBatch(e), catalog: catalog.New(e), delay: delay.New(e), txn: txn.New(e)}
	f.queues = newQueueFold(f.delay, f.txn)
	f.commit = func(try func() error) error { return try() }
	f.folds = append([]kvindex.Fold{f.catalog, f.queues, f.delay, f.txn}, more(e)...)
	f.touched = make([]bool, len(f.folds))
	for i, fold := range f.folds {
		if state, ok := fold.(*pop.State); ok {
			f.queues.pop, f.foldPop = state, i
		}
		for _, k := range fold.Kinds() {
			if f.owner[k] != 0 {
				panic(fmt.Sprintf("store: two folds apply records of kind %v", k))
			}
			f.owner[k] = i + 1
		}
	}
	return f
}

// apply makes one log batch visible. The outcomes, aligned with its records, are fresh when somebody waits for them.
func (f *folder) apply(b *commitlog.Batch) ([]record.Outcome, error) {
	f.batch.Begin(b.End, b.Index, b.Timestamp)
	clear(f.touched)
	// Records of one of these three make rows of the others.
	f.touched[foldQueues], f.touched[foldDelay], f.touched[foldTxn] = true, true, true
	outcomes := f.replayed[:0]
	if len(b.Proposals) > 0 {
		outcomes = make([]record.Outcome, 0, len(b.Records))
	}
	for i, r := range b.Records {
		at := f.owner[r.Kind] - 1
		if at < 0 {
			return nil, fmt.Errorf("record at %d of batch %d: nobody applies kind %v: was it written by a newer program?",
				b.Positions[i], b.Index, r.Kind)
		}
		f.touched[at] = true
		if r.Kind == record.KindForward {
			f.touched[f.foldPop] = true // it settles a checkpoint
		}
		out, err := f.folds[at].Apply(f.batch, b.Positions[i], r)
		if err != nil {
			return nil, fmt.Errorf("apply %v record at %d of batch %d: %w", r.Kind, b.Positions[i], b.Index, err)
		}
		if rel, ok := f.folds[at].(kvindex.Releaser); ok && !out.Refused {
			if err := f.queues.release(f.batch, b.Positions[i], rel.Released()); err != nil {
				return nil, fmt.Errorf("enter what %v record at %d of batch %d released: %w", r.Kind, b.Positions[i], b.Index, err)
			}
		}
		if r.Kind == record.KindTopicDelete && !out.Refused {
			f.queues.forgetTopic(kvindex.ID(out.Offset))
		}
		outcomes = append(outcomes, out)
	}
	for i, fold := range f.folds {
		if f.touched[i] {
			if err := fold.Finish(f.batch); err != nil {
				return nil, fmt.Errorf("finish batch %d at %d: %w", b.Index, b.Position, err)
			}
		}
	}
	if err := f.commit(f.batch.Commit); err != nil {
		return nil, fmt.Errorf("commit the rows of batch %d at %d: %w", b.Index, b.Position, err)
	}
	f.publish()
	if len(b.Proposals) == 0 {
		f.replayed = outcomes
	}
	return outcomes, nil
}

// publish lets what memory holds follow the rows that have just become visible.
func (f *folder) publish() {
	f.arrivals = f.queues.publish(f.arrivals[:0], f.batch.Timestamp())
	for i, fold := range f.folds {
		if p, ok := fold.(publisher); ok && f.touched[i] {
			p.Publish()
		}
	}
}

// reset gives back what the last batch held.
func (f *folder) reset() {
	f.queues.reset()
	clear(f.arrivals)
}

// applyBatch lets the view follow the log by one batch.
func (s *Store) applyBatch(b *commitlog.Batch) ([]record.Outcome, error) {
	s.setAside(b)
	outcomes, err := s.folder.apply(b)
	if err == nil {
		s.applied.Store(&kvindex.Applied{End: b.End, Index: b.Index, Timestamp: b.Timestamp})
	}
	return outcomes, err
}

// commitRetry is the pause after a commit that the engine could not take for the time being.
const commitRetry = 100 * time.Millisecond

// commitPatiently tries until the engine takes the batch or will never take it. The engine refuses for a while when a
// flush cannot get on, mostly because the disk is full: then the folder waits here, the log's hand-over fills up behind it,
// and proposals get commitlog.ErrBusy until it goes on.
func (s *Store) commitPatiently(ctx context.Context, try func() error) error {
	for {
		err := try()
		if err == nil || errors.Is(err, kvindex.ErrFailed) || errors.Is(err, kvindex.ErrClosed) {
			if s.stuck.Swap(nil) != nil && err == nil {
				s.opts.Logger.Info().Msg("the index takes batches again")
			}
			return err
		}
		if s.stuck.Swap(&err) == nil {
			s.opts.Logger.Warn().Err(err).Msg("the index takes no batches at the moment; trying on")
		}
		timer := s.opts.Clock.NewTimer(commitRetry)
		select {
		case <-timer.C():
		case <-s.quit:
			return fmt.Errorf("%w, while it was held up: %w", commitlog.ErrClosed, err)
		case <-ctx.Done():
			return fmt.Errorf("%w, while it was held up: %w", ctx.Err(), err)
		}
		timer.Stop()
	}
}

// onCommit applies a batch of live traffic and answers its proposals.
func (s *Store) onCommit(b *commitlog.Batch) {
	err := s.viewError()
	if err == nil {
		var outcomes []record.Outcome
		if outcomes, err = s.applyBatch(b); err == nil {
			s.answer(b, outcomes)
			s.tellSealed(b)
			return
		}
		err = s.failView(err)
	}
	for _, p := range b.Proposals {
		p.Err = err
		p.Done(p)
	}
}

// tellSealed calls OnSealed when the batch is in another segment than those before.
func (s *Store) tellSealed(b *commitlog.Batch) {
	active := s.log.Active()
	if active == s.active || b.Position < active { // the writer is ahead
		return
	}
	s.active = active
	if s.opts.OnSealed != nil {
		s.opts.OnSealed()
	}
}

func (s *Store) answer(b *commitlog.Batch, outcomes []record.Outcome) {
	if s.opts.OnApplied != nil {
		s.opts.OnApplied(s.folder.arrivals)
	}
	for _, p := range b.Proposals {
		n := len(p.Records)
		p.Outcomes, outcomes = outcomes[:n:n], outcomes[n:]
		p.Done(p)
	}
	s.folder.reset()
	s.flushIfDue(b)
}

// failView stops the store: what is committed from now on is in the log but neither applied nor acknowledged.
func (s *Store) failView(cause error) error {
	err := fmt.Errorf("store: %w: %w: %w", commitlog.ErrFailed, ErrViewFailed, cause)
	if errors.Is(cause, commitlog.ErrClosed) {
		// Not a failure: the log has the batch, and the next start applies it.
		err = fmt.Errorf("store: closed before the index took the batch: %w", cause)
	} else {
		s.opts.Logger.Error().Err(cause).Msg("the index cannot follow the log: nothing more is accepted until a restart")
	}
	s.failed.Store(&err)
	return err
}
