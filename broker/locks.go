package broker

import (
	"sync"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
)

const (
	// lockExpiry is how long a queue stays locked without being locked again; clients renew every 20 s.
	lockExpiry = 60 * time.Second
	// maxLocks bounds the table: over it nothing more gets locked.
	maxLocks = 1_000_000
)

// QueueRef names a queue.
type QueueRef struct {
	Topic string
	Queue int32
}

// queueLocks says which consumer of a group owns a queue, so that Remoting consumers can consume it in order. It is in
// memory only, as consumers lock again every 20 s and consume nothing while they hold no lock.
type queueLocks struct {
	clock clock.Clock
	mu    struct {
		sync.Mutex
		owners map[queueLock]queueOwner
	}
}

type queueLock struct {
	group string
	queue QueueRef
}

type queueOwner struct {
	client string
	until  time.Time
}

func newQueueLocks(c clock.Clock) *queueLocks {
	l := &queueLocks{clock: c}
	l.mu.owners = map[queueLock]queueOwner{}
	return l
}

// LockQueues locks or renews queues for a consumer of the group (LOCK_BATCH_MQ) and answers those it now owns. A lock ends
// after 60 s without being renewed.
func (b *Broker) LockQueues(group, clientID string, queues []QueueRef) (locked []QueueRef) {
	return b.locks.lock(group, clientID, queues)
}

// UnlockQueues gives up what the consumer owns of the queues; others' locks stay.
func (b *Broker) UnlockQueues(group, clientID string, queues []QueueRef) {
	b.locks.unlock(group, clientID, queues)
}

func (l *queueLocks) lock(group, client string, queues []QueueRef) (locked []QueueRef) {
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range queues {
		key := queueLock{group, q}
		owner, ok := l.mu.owners[key]
		free := !ok || owner.client == client || !now.Before(owner.until)
		if !free || !ok && len(l.mu.owners) >= maxLocks {
			continue
		}
		l.mu.owners[key] = queueOwner{client, now.Add(lockExpiry)}
		locked = append(locked, q)
	}
	return locked
}

func (l *queueLocks) unlock(group, client string, queues []QueueRef) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, q := range queues {
		key := queueLock{group, q}
		if l.mu.owners[key].client == client {
			delete(l.mu.owners, key)
		}
	}
}

// expire forgets locks that ended.
func (l *queueLocks) expire() {
	now := l.clock.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, owner := range l.mu.owners {
		if !now.Before(owner.until) {
			delete(l.mu.owners, key)
		}
	}
}
