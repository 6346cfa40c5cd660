package http

import (
	"math"
	"net/http"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/txn"
)

// Transaction is a half message: one whose transaction is not decided.
type Transaction struct {
	Position record.Position `json:"position"` // its name when it is ended
	Topic    string          `json:"topic"`
	Queue    int32           `json:"queue"`
	Group    string          `json:"group"` // of the producer; the topic's name for gRPC producers
	Stored   int64           `json:"stored_ms"`
	Checks   int32           `json:"checks"`             // how often its producer was to be asked
	CheckAt  int64           `json:"check_ms,omitempty"` // when it is asked next; 0 when parked
	Parked   bool            `json:"parked"`
	Reason   string          `json:"reason,omitempty"`  // why it is parked
	Delayed  bool            `json:"delayed,omitempty"` // a commit makes it a timer
	ID       string          `json:"id"`
	Keys     string          `json:"keys"`
	Size     int             `json:"body_bytes"`
}

// TransactionList answers GET /v1/transactions.
type TransactionList struct {
	Transactions []Transaction   `json:"transactions"`
	Next         record.Position `json:"next,omitempty"` // parameter from of the request that goes on; 0 at the end
}

// GET /v1/transactions?parked=&topic=&group=&from=&limit=
func (a *api) listTransactions(r *http.Request) (any, error) {
	q := newQuery(r, "parked", "topic", "group", "from", "limit")
	ask := broker.HalfQuery{Parked: q.flag("parked"), Topic: q.text("topic"), Group: q.text("group"),
		From: record.Position(q.number("from", 0, math.MaxInt64)), Most: int(q.number("limit", 0, maxListed))}
	if q.err != nil {
		return nil, q.err
	}
	found, next, err := a.verbs.HalfMessages(ask)
	if err != nil {
		return nil, err
	}
	list := TransactionList{Transactions: make([]Transaction, len(found)), Next: max(0, next)}
	for i := range found {
		list.Transactions[i] = transactionOf(&found[i])
	}
	return list, nil
}

func transactionOf(h *broker.HalfInfo) Transaction {
	t := Transaction{Position: h.Position, Topic: h.Topic, Queue: h.Queue, Group: h.Group, Stored: h.Stored, Checks: h.Checks, CheckAt: h.CheckAt,
		Parked: h.Reason != txn.NotParked, Delayed: h.Delayed, ID: h.UniqueID, Keys: h.Keys, Size: h.BodySize}
	if t.Parked {
		t.Reason = h.Reason.String()
	}
	return t
}

// EndRequest is the body of POST /v1/transactions/end.
type EndRequest struct {
	Position *record.Position `json:"position"` // of the half message
	Action   Action           `json:"action"`
}

// Action is how a transaction ends.
type Action string

// Actions.
const (
	Commit   Action = "commit"
	Rollback Action = "rollback"
)

// POST /v1/transactions/end
func (a *api) endTransaction(r *http.Request) (any, error) {
	var req EndRequest
	if err := decode(r, &req); err != nil {
		return nil, err
	}
	if req.Position == nil || *req.Position < 0 {
		return nil, badParameter("position is missing: which half message?")
	}
	end := broker.EndTransactionRequest{Position: *req.Position}
	switch req.Action {
	case Commit:
		end.Resolution = broker.TransactionCommit
	case Rollback:
		end.Resolution = broker.TransactionRollback
	default:
		return nil, badParameter("action %q is neither %s nor %s", req.Action, Commit, Rollback)
	}
	if err := a.verbs.EndTransaction(r.Context(), &end); err != nil {
		return nil, err
	}
	return req, nil
}
