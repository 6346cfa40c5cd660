package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/internal/record"
	doorhttp "github.com/cairnmq/cairn/server/http"
)

func newTxn() *cobra.Command {
	t := &txnTools{}
	c := &cobra.Command{Use: "txn", Short: "List, commit and roll back messages of open transactions",
		Long: `Shows half messages: those sent in a transaction that is not ended yet. Consumers do not see them. The broker asks their
producers from time to time; what is not decided after transaction-max-checks questions is parked: it stays where it is and
is not asked for any more, until one of these commands ends it.

A half message is named by its position, the first column of the list. These commands ask one Cairn broker at its HTTP port.`,
		Example: `  cairn txn list                                       # open transactions, the oldest first
  cairn txn list --parked --group billing              # what nobody decided, with the reason
  cairn txn commit 1048576 1049600
  cairn txn rollback --all-parked --group billing --yes`}
	t.flags(c)
	var parked bool
	var limit int
	list := &cobra.Command{Use: "list", Short: "List half messages, the oldest first", Args: cobra.NoArgs,
		RunE: t.run(func([]string) error { return t.list(parked, limit) })}
	list.Flags().BoolVar(&parked, "parked", false, "those that are not asked for any more, instead of the open ones")
	list.Flags().IntVarP(&limit, "limit", "l", 20, "how many at most")
	list.Flags().StringVarP(&t.topic, "topic", "t", "", "only of this topic")
	t.groupFlag(list)
	c.AddCommand(list,
		t.endCommand(doorhttp.Commit, "Commit transactions: their messages are delivered"),
		t.endCommand(doorhttp.Rollback, "Roll transactions back: their messages are never delivered"))
	return c
}

type txnTools struct {
	jsonTools
	topic, group string
}

func (t *txnTools) groupFlag(c *cobra.Command) {
	c.Flags().StringVarP(&t.group, "group", "g", "", "only of this producer group (for gRPC producers: the topic)")
}

func (t *txnTools) endCommand(action doorhttp.Action, short string) *cobra.Command {
	var all, yes bool
	c := &cobra.Command{Use: string(action) + " [POSITION…]", Short: short,
		Long: short + `.
Give the positions that 'cairn txn list' shows, or --all-parked with a --group. To end a transaction twice in the same way is
no error; to end it in two ways is.`,
		RunE: t.run(func(args []string) error {
			switch {
			case all && len(args) > 0:
				return usagef("give positions or --all-parked, not both")
			case all && t.group == "":
				return usagef("--all-parked needs --group: whose transactions?")
			case all:
				return t.endParked(action, yes)
			case len(args) == 0:
				return usagef("give the positions that 'cairn txn list' shows, or --all-parked")
			}
			return t.end(action, args)
		})}
	c.Flags().BoolVar(&all, "all-parked", false, "all parked half messages of --group")
	c.Flags().BoolVar(&yes, "yes", false, "do it, with --all-parked; without it they are only counted")
	t.groupFlag(c)
	return c
}

// each calls f for half messages of the group and topic, a page at a time, until it returns false.
func (t *txnTools) each(parked bool, page int, f func(*doorhttp.Transaction) (bool, error)) error {
	q := url.Values{"parked": {strconv.FormatBool(parked)}, "limit": {strconv.Itoa(page)}}
	if t.topic != "" {
		q.Set("topic", t.topic)
	}
	if t.group != "" {
		q.Set("group", t.group)
	}
	for {
		var list doorhttp.TransactionList
		if err := t.get("/v1/transactions", q, &list); err != nil {
			return err
		}
		for i := range list.Transactions {
			if on, err := f(&list.Transactions[i]); !on || err != nil {
				return err
			}
		}
		if list.Next == 0 {
			return nil
		}
		q.Set("from", strconv.FormatInt(int64(list.Next), 10))
	}
}

func (t *txnTools) list(parked bool, limit int) error {
	if limit < 1 {
		return usagef("--limit is at least 1")
	}
	found, more := []doorhttp.Transaction{}, false
	err := t.each(parked, min(limit+1, pageSize), func(h *doorhttp.Transaction) (bool, error) {
		if more = len(found) == limit; !more {
			found = append(found, *h)
		}
		return !more, nil
	})
	if err != nil {
		return err
	}
	now := time.Now()
	head, state := "NEXT CHECK", func(h *doorhttp.Transaction) string { return dueIn(h.CheckAt, now) }
	if parked {
		head, state = "REASON", func(h *doorhttp.Transaction) string { return h.Reason }
	}
	return t.print(found, "POSITION\tTOPIC\tGROUP\tAGE\tCHECKS\t"+head+"\tSIZE\tID\tKEYS", func(w io.Writer) {
		for i := range found {
			h := &found[i]
			fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%d\t%s\t%d\t%s\t%s\n", h.Position, h.Topic, h.Group, span(now.Sub(time.UnixMilli(h.Stored))), h.Checks,
				state(h), h.Size, h.ID, h.Keys)
		}
		if more {
			fmt.Fprintln(w, "…\tand more: --limit shows them")
		}
	})
}

var pastTense = map[doorhttp.Action]string{doorhttp.Commit: "committed", doorhttp.Rollback: "rolled back"}

func (t *txnTools) end(action doorhttp.Action, args []string) error {
	positions := make([]record.Position, len(args))
	for i, text := range args {
		at, err := strconv.ParseInt(text, 10, 64)
		if err != nil || at < 0 {
			return usagef("%q is not a position; 'cairn txn list' shows them", text)
		}
		positions[i] = record.Position(at)
	}
	outcomes := make([]outcome, len(args))
	for i, at := range positions {
		outcomes[i].What = args[i]
		if err := t.endOne(action, at); err != nil {
			outcomes[i].Error = err.Error()
		}
	}
	return t.report(pastTense[action], outcomes)
}

func (t *txnTools) endOne(action doorhttp.Action, at record.Position) error {
	var ended doorhttp.EndRequest
	return t.post("/v1/transactions/end", doorhttp.EndRequest{Position: &at, Action: action}, &ended)
}

// endParked ends all parked half messages of the group, or says how many there are.
func (t *txnTools) endParked(action doorhttp.Action, yes bool) error {
	var n, failed int
	var first error
	err := t.each(true, pageSize, func(h *doorhttp.Transaction) (bool, error) {
		n++
		if !yes {
			return true, nil
		}
		if err := t.endOne(action, h.Position); err != nil {
			if failed++; first == nil {
				first = fmt.Errorf("position %d: %w", h.Position, err)
			}
		}
		return t.ctx.Err() == nil, t.ctx.Err()
	})
	switch {
	case err != nil:
		return err
	case failed > 0:
		return fmt.Errorf("%d of %d parked half messages of group %s failed, the first: %w", failed, n, t.group, first)
	case !yes && n > 0:
		return usagef("%d parked half messages of group %s would be %s: add --yes to do it", n, t.group, pastTense[action])
	}
	return t.done("%d parked half messages of group %s %s", n, t.group, pastTense[action])
}
