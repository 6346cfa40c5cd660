package main

import (
	"fmt"
	"io"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	doorhttp "github.com/cairnmq/cairn/server/http"
)

func newDLQ() *cobra.Command {
	t := &dlqTools{}
	c := &cobra.Command{Use: "dlq", Short: "List, show, redrive and purge dead letters",
		Long: `Shows the messages that consumer groups could not consume: a message that was delivered as often as its group allows
(its retries and once more), or that its consumer gave up, goes to the topic %DLQ%GROUP, with the reason.

Redriving sends dead letters back to the topic where they were, or to another one, where they are new messages for all groups.
A dead letter is redriven once, however often a run is broken off and begun anew. It does not go back by itself, unless the group has
the attribute dlq.redrive.after.

These commands ask one Cairn broker at its HTTP port.`,
		Example: `  cairn dlq list                                          # which groups have dead letters
  cairn dlq show billing --reason max-attempts            # what they are, and why
  cairn dlq redrive billing --tag invoice --rate 50       # back to where they were, 50 a second
  cairn dlq redrive billing --to billing-repair           # or to a topic of your choice
  cairn dlq purge billing --until 2026-01-31T08:00:00Z --yes`}
	t.flags(c)
	var limit int
	list := &cobra.Command{Use: "list", Short: "List the groups that have dead letters", Args: cobra.NoArgs,
		RunE: t.run(func([]string) error { return t.list() })}
	show := &cobra.Command{Use: "show GROUP", Short: "Show dead letters with their reasons", Args: cobra.ExactArgs(1),
		RunE: t.run(func(args []string) error { return t.show(args[0], limit) })}
	show.Flags().IntVarP(&limit, "limit", "l", 20, "how many at most")
	t.filterFlags(show)
	c.AddCommand(list, show, t.redriveCommand(), t.purgeCommand())
	return c
}

type dlqTools struct {
	jsonTools
	progress        io.Writer
	tag, reason, id string
	since, until    string
	rate            int
	filter          doorhttp.RedriveRequest // what the flags ask for
	moving, moved   string                  // what is done, for people
}

func (t *dlqTools) filterFlags(c *cobra.Command) {
	c.Flags().StringVar(&t.tag, "tag", "", "only those with this tag")
	c.Flags().StringVar(&t.reason, "reason", "", "only those that died for this: max-attempts, forwarded or sent-back")
	c.Flags().StringVar(&t.id, "id", "", "only the one with this message id")
	c.Flags().StringVar(&t.since, "since", "", "died at or after: a time such as 2026-01-31T08:00:00Z, or one from now such as -2h")
	c.Flags().StringVar(&t.until, "until", "", "died at or before")
}

func (t *dlqTools) redriveCommand() *cobra.Command {
	var to string
	c := &cobra.Command{Use: "redrive GROUP", Short: "Send dead letters back", Args: cobra.ExactArgs(1),
		Long: `Sends dead letters back to the topic and queue where they were, or to another topic. They keep their id, keys, tag and message
group. What was redriven is no dead letter any more; what does not match stays one. Broken off, it may be begun anew.`,
		RunE: t.whole(func(group string) error {
			t.moving, t.moved = "redriving", "redriven"
			t.filter.Topic = to
			return t.work("/v1/dlq/redrive", group)
		})}
	c.Flags().StringVar(&to, "to", "", "topic to send them to (default: where each of them was)")
	c.Flags().IntVar(&t.rate, "rate", 1000, "how many a second at most; 0: as many as there are")
	t.filterFlags(c)
	return c
}

func (t *dlqTools) purgeCommand() *cobra.Command {
	var yes bool
	c := &cobra.Command{Use: "purge GROUP", Short: "Give dead letters up for good", Args: cobra.ExactArgs(1),
		Long: `Gives dead letters up: they are not listed any more and cannot be redriven. Who reads the topic %DLQ%GROUP itself finds them there
until their retention is over.`,
		RunE: t.whole(func(group string) error {
			if !yes {
				d, err := t.count(group)
				if err != nil {
					return err
				}
				return usagef("group %s has %d dead letters: add --yes to give those up that match", group, d.Count)
			}
			t.moving, t.moved, t.rate = "purging", "purged", 0
			return t.work("/v1/dlq/purge", group)
		})}
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	t.filterFlags(c)
	return c
}

// whole is run for a command that works on all that match, and shows how far it is.
func (t *dlqTools) whole(f func(group string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		t.progress = cmd.ErrOrStderr()
		return t.run(func(args []string) error {
			if t.rate < 0 {
				return usagef("--rate is not below 0")
			}
			from, to, err := t.window()
			if err != nil {
				return err
			}
			t.filter = doorhttp.RedriveRequest{Group: args[0], Tag: t.tag, Reason: t.reason, ID: t.id, From: from, To: to}
			return f(args[0])
		})(cmd, args)
	}
}

// window is the time that the flags name, in ms.
func (t *dlqTools) window() (from, to int64, err error) {
	now := time.Now()
	if from, err = parseWhen("since", t.since, now); err != nil {
		return 0, 0, err
	}
	to, err = parseWhen("until", t.until, now)
	return from, to, err
}

func (t *dlqTools) list() error {
	found := []doorhttp.DeadGroup{}
	q := url.Values{}
	for {
		var page doorhttp.DeadGroupList
		if err := t.get("/v1/dlq", q, &page); err != nil {
			return err
		}
		found = append(found, page.Groups...)
		if page.Next == "" {
			break
		}
		q.Set("after", page.Next)
	}
	return t.print(found, "GROUP\tDEAD LETTERS\tOLDEST\tNEWEST", func(w io.Writer) {
		for _, d := range found {
			fmt.Fprintf(w, "%s\t%d\t%s\t%s\n", d.Group, d.Count, stamp(d.Oldest), stamp(d.Newest))
		}
	})
}

func (t *dlqTools) count(group string) (doorhttp.DeadGroup, error) {
	var page doorhttp.DeadGroupList
	if err := t.get("/v1/dlq", url.Values{"group": {group}}, &page); err != nil {
		return doorhttp.DeadGroup{}, err
	}
	if len(page.Groups) != 1 {
		return doorhttp.DeadGroup{}, fmt.Errorf("%s does not say how many dead letters group %s has", t.endpoint, group)
	}
	return page.Groups[0], nil
}

func (t *dlqTools) show(group string, limit int) error {
	if limit < 1 {
		return usagef("--limit is at least 1")
	}
	from, to, err := t.window()
	if err != nil {
		return err
	}
	q := url.Values{"group": {group}}
	for name, text := range map[string]string{"tag": t.tag, "reason": t.reason, "id": t.id} {
		if text != "" {
			q.Set(name, text)
		}
	}
	for name, ms := range map[string]int64{"from": from, "to": to} {
		if ms > 0 {
			q.Set(name, strconv.FormatInt(ms, 10))
		}
	}
	found, more := []doorhttp.DeadLetter{}, true
	for len(found) < limit && more {
		var page doorhttp.DeadLetterList
		q.Set("limit", strconv.Itoa(min(limit-len(found), pageSize)))
		if err := t.get("/v1/dlq/messages", q, &page); err != nil {
			return err
		}
		found = append(found, page.Letters...)
		more = page.Next != ""
		q.Set("after", page.Next)
	}
	return t.print(found, "DIED\tREASON\tATTEMPTS\tFIRST DELIVERY\tLAST DELIVERY\tTOPIC\tOFFSET\tREDRIVES\tSIZE\tID\tTAG\tKEYS", func(w io.Writer) {
		for i := range found {
			d := &found[i]
			place := "–"
			if d.OriginQueue != nil && d.OriginOffset != nil {
				place = fmt.Sprintf("%d:%d", *d.OriginQueue, *d.OriginOffset)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%d\t%d\t%s\t%s\t%s\n", stamp(d.Died), d.Reason, d.Attempts, stamp(d.First), stamp(d.Last), d.Topic, place,
				d.Redrives, d.Size, d.ID, d.Tag, d.Keys)
		}
		if more {
			fmt.Fprintln(w, "…\tand more: --limit shows them")
		}
	})
}

// work goes through a group's dead letters part by part, no faster than the rate allows.
func (t *dlqTools) work(path, group string) error {
	d, err := t.count(group)
	if err != nil {
		return err
	}
	if d.Count == 0 {
		return t.done("group %s has no dead letters", group)
	}
	t.filter.Limit = pageSize
	if t.rate > 0 {
		t.filter.Limit = max(1, min(pageSize, t.rate/5)) // five parts a second
	}
	bar := newProgress(t.progress, d.Count, t.moving)
	var all doorhttp.Redriven
	began := time.Now()
	for {
		var part doorhttp.Redriven
		if err := t.post(path, t.filter, &part); err != nil {
			return fmt.Errorf("%d dead letters of group %s were %s before: %w", all.Done, group, t.moved, err)
		}
		all.Done, all.Passed, all.Failed = all.Done+part.Done, all.Passed+part.Passed, all.Failed+part.Failed
		if all.Why == "" {
			all.Why = part.Why
		}
		bar.set(min(int64(all.Done+all.Passed+all.Failed), d.Count))
		if t.filter.After = part.Next; part.Next == "" {
			break
		}
		if err := t.pace(began, all.Done); err != nil {
			return fmt.Errorf("%d dead letters of group %s were %s before: %w", all.Done, group, t.moved, err)
		}
	}
	if all.Failed > 0 {
		return fmt.Errorf("%d dead letters of group %s %s, %d failed and stay, the first: %s", all.Done, group, t.moved, all.Failed, all.Why)
	}
	return t.done("%d dead letters of group %s %s, %d others stay", all.Done, group, t.moved, all.Passed)
}

// pace waits until so many may be done since the beginning.
func (t *dlqTools) pace(began time.Time, done int) error {
	if t.rate == 0 {
		return t.ctx.Err()
	}
	wait := time.NewTimer(time.Until(began.Add(time.Duration(done) * time.Second / time.Duration(t.rate))))
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
}
