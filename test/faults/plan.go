// Package faults breaks object stores for tests in the ways in which services and networks break them: Proxy stands between a
// client and an S3 server, Store wraps a store in the process. A Plan says what breaks; one may serve several of them.
package faults

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// Kind is a way in which one call goes wrong.
type Kind int

const (
	// Timeout: the call is not carried out, and nothing answers.
	Timeout Kind = iota
	// ServerError: 500 InternalError; not carried out.
	ServerError
	// SlowDown: 503 SlowDown; not carried out.
	SlowDown
	// CutAnswer: the connection ends in the middle of the answer to a read or a list.
	CutAnswer
	// LostAnswer: a write or a delete is carried out, and the connection ends without an answer.
	LostAnswer
	// StaleList: a list is answered as the same list was before. The first time that it is asked for it cannot be stale.
	StaleList
	// HalfUpload: the connection ends in the middle of the content; the store got half of it.
	HalfUpload
	// WrongBytes: a byte of a content is another when it arrives, on the way to the store or from it.
	WrongBytes
	// QuotaFull: a write is refused, with 507 or with 403.
	QuotaFull
	// Outage: every call fails while Plan.Outage is on.
	Outage

	kinds
)

func (k Kind) String() string {
	return [kinds]string{"time-out", "server error", "slow down", "cut answer", "lost answer", "stale list", "half upload", "wrong bytes",
		"quota full", "outage"}[k]
}

// call is what a request is for.
type call int

const (
	other call = iota
	read
	list
	write
	commit // of an upload in parts
	remove
)

// can lists what befalls a call, besides time-outs and errors of the server.
var can = map[call][]Kind{
	read:   {CutAnswer, WrongBytes},
	list:   {CutAnswer, StaleList},
	write:  {LostAnswer, HalfUpload, WrongBytes, QuotaFull},
	commit: {LostAnswer, QuotaFull},
	remove: {LostAnswer},
}

// Plan decides which calls go wrong, and counts them. It is safe for concurrent use.
type Plan struct {
	mu struct {
		sync.Mutex
		random *rand.Rand
		rates  [kinds]float64
		next   [kinds]int
		counts map[Kind]int
		wrong  map[string]int // answers with wrong bytes, by the path that was asked for
		out    bool
	}
}

// NewPlan returns a plan under which nothing goes wrong. The same calls in the same order go wrong in the same way for the same seed.
func NewPlan(seed uint64) *Plan {
	p := &Plan{}
	p.mu.random = rand.New(rand.NewPCG(seed, 0))
	p.mu.counts, p.mu.wrong = map[Kind]int{}, map[string]int{}
	return p
}

// Rate has a share of the calls that the kind can befall go wrong, from 0 (none) to 1.
func (p *Plan) Rate(k Kind, share float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.rates[k] = share
}

// Rates sets the same share for every kind.
func (p *Plan) Rates(share float64) {
	for k := range kinds {
		p.Rate(k, share)
	}
}

// Next has the next n calls that the kind can befall go wrong, whatever its rate is.
func (p *Plan) Next(k Kind, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.next[k] = n
}

// Outage has every call fail until it is turned off.
func (p *Plan) Outage(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.out = on
}

// Counts returns how often each kind has befallen a call.
func (p *Plan) Counts() map[Kind]int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.mu.counts)
}

// WrongAnswers returns how often who read the object was given wrong bytes.
func (p *Plan) WrongAnswers(object string) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for path, times := range p.mu.wrong {
		if strings.HasSuffix(path, "/"+object) {
			n += times
		}
	}
	return n
}

func (p *Plan) String() string { return fmt.Sprint(p.Counts()) }

// choose says what befalls the call, if anything. Who makes it happen counts it.
func (p *Plan) choose(c call) (Kind, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.out {
		return Outage, true
	}
	possible := append([]Kind{Timeout, ServerError, SlowDown}, can[c]...)
	for _, k := range possible {
		if p.mu.next[k] > 0 {
			p.mu.next[k]--
			return k, true
		}
	}
	for _, k := range possible {
		if p.mu.random.Float64() < p.mu.rates[k] {
			return k, true
		}
	}
	return 0, false
}

func (p *Plan) countWrong(path string) {
	p.count(WrongBytes)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.wrong[path]++
}

func (p *Plan) count(k Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.counts[k]++
}

// below returns a number from 0 to n-1, and 0 for an n of 0.
func (p *Plan) below(n int) int {
	if n <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.random.IntN(n)
}

// Staleness bounds how old the answer is that a stale list gives.
const Staleness = time.Minute

// historyQueries bounds the lists that are remembered.
const historyQueries = 1024

// history keeps what lists were answered with.
type history[A any] struct {
	mu      sync.Mutex
	answers map[string]dated[A]
}

type dated[A any] struct {
	answer A
	given  time.Time
}

// stale returns what the list was answered with before, once: the next answer takes its place, so that old lists move on, too.
func (h *history[A]) stale(query string, now time.Time) (A, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old, ok := h.answers[query]
	delete(h.answers, query)
	return old.answer, ok && now.Sub(old.given) <= Staleness
}

// remember keeps the answer unless there is one that can still be given and is older.
func (h *history[A]) remember(query string, answer A, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.answers == nil {
		h.answers = map[string]dated[A]{}
	}
	old, ok := h.answers[query]
	if !ok && len(h.answers) >= historyQueries || ok && now.Sub(old.given) <= Staleness {
		return
	}
	h.answers[query] = dated[A]{answer, now}
}
