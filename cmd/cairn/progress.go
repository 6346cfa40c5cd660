package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progress shows how far long work is: a bar on a terminal, a line for each tenth elsewhere. Safe for concurrent use.
type progress struct {
	out   io.Writer
	what  string
	total int64
	bar   *progressbar.ProgressBar // nil elsewhere

	mu   sync.Mutex
	done int64
	said int64
}

// newProgress begins at 0 of total; a total of 0 is not known, and then only a terminal shows anything.
func newProgress(out io.Writer, total int64, what string) *progress {
	p := &progress{out: out, what: what, total: total}
	if f, ok := out.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if total == 0 {
			total = -1
		}
		p.bar = progressbar.NewOptions64(total, progressbar.OptionSetWriter(out), progressbar.OptionSetDescription(what), progressbar.OptionShowCount(),
			progressbar.OptionShowIts(), progressbar.OptionThrottle(200*time.Millisecond), progressbar.OptionSetWidth(30), progressbar.OptionOnCompletion(func() { fmt.Fprintln(out) }))
	}
	return p
}

func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(p.done + n)
}

func (p *progress) set(done int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.setLocked(done)
}

func (p *progress) setLocked(done int64) {
	p.done = done
	switch {
	case p.bar != nil:
		_ = p.bar.Set64(done) // what cannot be shown is not worth an error
	case p.total > 0 && done*10/p.total > p.said:
		p.said = done * 10 / p.total
		fmt.Fprintf(p.out, "%s: %d of %d\n", p.what, done, p.total)
	}
}
