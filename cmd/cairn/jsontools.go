package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	doorhttp "github.com/cairnmq/cairn/server/http"
)

// jsonTools is how the timer and txn commands talk to the HTTP port of a Cairn broker.
type jsonTools struct {
	tools
	endpoint string
}

func (t *jsonTools) flags(c *cobra.Command) {
	def := os.Getenv("CAIRN_HTTP")
	if def == "" {
		def = "127.0.0.1:9877"
	}
	c.PersistentFlags().StringVar(&t.endpoint, "http", def, "HTTP address of the broker, host:port (or CAIRN_HTTP)")
	t.outputFlags(c)
}

// base is the address that paths are added to.
func (t *jsonTools) base() string {
	switch {
	case strings.Contains(t.endpoint, "://"):
		return strings.TrimSuffix(t.endpoint, "/")
	case strings.HasPrefix(t.endpoint, ":"):
		return "http://127.0.0.1" + t.endpoint
	}
	return "http://" + t.endpoint
}

// get asks for path and reads the answer into v.
func (t *jsonTools) get(path string, query url.Values, v any) error {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return t.exchange(http.MethodGet, path, nil, v)
}

// post sends a request and reads the answer into v.
func (t *jsonTools) post(path string, request, v any) error {
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	return t.exchange(http.MethodPost, path, data, v)
}

func (t *jsonTools) exchange(method, path string, request []byte, v any) error {
	ctx, cancel := context.WithTimeout(t.ctx, t.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, t.base()+path, bytes.NewReader(request))
	if err != nil {
		return usagef("--http %q is not an address: %w", t.endpoint, err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("no answer from %s within --timeout %s", t.endpoint, t.timeout)
	case err != nil:
		return fmt.Errorf("%w (is that the HTTP port of a Cairn broker? `cairn serve` opens one on 9877)", err)
	}
	defer resp.Body.Close() //nolint:errcheck // only read
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("read the answer of %s: %w", t.endpoint, err)
	}
	if resp.StatusCode != http.StatusOK {
		var refused doorhttp.Refusal
		if json.Unmarshal(data, &refused) != nil || refused.Error.Code == "" {
			return fmt.Errorf("%s answered %s: is that the HTTP port of a Cairn broker?", t.endpoint, resp.Status)
		}
		return fmt.Errorf("%s (%s)", refused.Error.Message, refused.Error.Code)
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("answer of %s to %s: %w", t.endpoint, path, err)
	}
	return nil
}

// outcome is what became of one of several things that a command was to do.
type outcome struct {
	What  string `json:"what"`
	Error string `json:"error,omitempty"`
}

// report prints outcomes. It is an error when one of them failed.
func (t *tools) report(done string, outcomes []outcome) error {
	failed := 0
	for _, o := range outcomes {
		if o.Error != "" {
			failed++
		}
	}
	var err error
	if t.output == "json" {
		err = t.print(outcomes, "", nil)
	} else {
		for _, o := range outcomes {
			if o.Error != "" {
				fmt.Fprintf(t.out, "%s: FAILED: %s\n", o.What, o.Error)
			} else {
				fmt.Fprintf(t.out, "%s: %s\n", o.What, done)
			}
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d failed", failed, len(outcomes))
	}
	return err
}

// parseWhen reads a time: from now on (10m, -1h30m), milliseconds since 1970, or like 2026-01-31T08:00:00Z. Empty is 0.
func parseWhen(flag, text string, now time.Time) (ms int64, err error) {
	if text == "" {
		return 0, nil
	}
	if ms, err := strconv.ParseInt(text, 10, 64); err == nil && ms >= 0 {
		return ms, nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		return now.Add(d).UnixMilli(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return 0, usagef("--%s %q is neither a time from now such as 10m, milliseconds since 1970, nor a time such as 2026-01-31T08:00:00Z", flag, text)
	}
	return at.UnixMilli(), nil
}

// span says a duration as briefly as a person wants it: two units at most.
func span(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	switch {
	case d < time.Second:
		return fmt.Sprintf("%s%dms", sign, d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%s%.1fs", sign, d.Truncate(100*time.Millisecond).Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%s%dm%02ds", sign, d/time.Minute, d%time.Minute/time.Second)
	case d < 24*time.Hour:
		return fmt.Sprintf("%s%dh%02dm", sign, d/time.Hour, d%time.Hour/time.Minute)
	}
	return fmt.Sprintf("%s%dd%02dh", sign, d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
}

// dueIn says how far ahead a time (ms) is.
func dueIn(ms int64, now time.Time) string {
	if d := time.UnixMilli(ms).Sub(now); d < 0 {
		return "overdue " + span(-d)
	} else {
		return "in " + span(d)
	}
}
