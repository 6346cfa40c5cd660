package faults_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/test/faults"
	"github.com/cairnmq/cairn/test/gateway"
	"github.com/cairnmq/cairn/tiered/objects"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// place is a store that breaks as the plan says.
type place struct {
	store objects.Store
	plan  *faults.Plan
	tries int // how often the store sends a request before it fails
}

func open(t *testing.T, address string, o objects.Options) objects.Store {
	t.Helper()
	s, err := objects.Open(t.Context(), address, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// each runs the test on both kinds of broken stores.
func each(t *testing.T, seed uint64, test func(*testing.T, place)) {
	t.Run("store", func(t *testing.T) {
		plan := faults.NewPlan(seed)
		inner := open(t, "file://"+t.TempDir(), objects.Options{})
		test(t, place{faults.NewStore(inner, plan, hurried{clock.System}), plan, 1})
	})
	t.Run("proxy", func(t *testing.T) {
		server := gateway.Start(t)
		plan := faults.NewPlan(seed)
		proxy := faults.StartProxy(t, server.Endpoint, plan)
		test(t, place{open(t, gateway.Address(proxy.Endpoint, "broken"), objects.Options{Stall: 200 * time.Millisecond}), plan, 2})
	})
}

// hurried is a clock on which a second is a millisecond.
type hurried struct{ clock.Clock }

func (h hurried) NewTimer(d time.Duration) clock.Timer { return h.Clock.NewTimer(d / 1000) }

func temporary(t *testing.T, what string, err error) {
	t.Helper()
	if err == nil || errors.Is(err, objects.ErrNotFound) || errors.Is(err, objects.ErrExists) || errors.Is(err, objects.ErrRefused) {
		t.Errorf("%s: %v, which is no temporary error", what, err)
	}
}

func put(t *testing.T, s objects.Store, name, content string) {
	t.Helper()
	if err := s.Put(t.Context(), name, strings.NewReader(content), int64(len(content))); err != nil {
		t.Fatal(err)
	}
}

func get(ctx context.Context, s objects.Store, name string) (string, error) {
	p := make([]byte, 1<<20)
	n, err := s.ReadAt(ctx, name, p, 0)
	if err == io.EOF {
		err = nil
	}
	return string(p[:n]), err
}

func counted(t *testing.T, p place, k faults.Kind, n int) {
	t.Helper()
	if got := p.plan.Counts()[k]; got != n {
		t.Errorf("%s happened %d times, not %d", k, got, n)
	}
}

func TestNothingIsCarriedOut(t *testing.T) {
	each(t, 1, func(t *testing.T, p place) {
		for _, k := range []faults.Kind{faults.Timeout, faults.ServerError, faults.SlowDown, faults.HalfUpload} {
			p.plan.Next(k, p.tries)
			temporary(t, k.String(), p.store.Put(t.Context(), "o", strings.NewReader("0123456789"), 10))
			counted(t, p, k, p.tries)
			if _, err := p.store.Stat(t.Context(), "o"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("after %s: %v", k, err)
			}
		}
		p.plan.Next(faults.QuotaFull, 3)
		for range 3 {
			if err := p.store.Create(t.Context(), "o", []byte("x")); !errors.Is(err, objects.ErrRefused) {
				t.Errorf("over quota: %v", err)
			}
		}
		put(t, p.store, "o", "x")
	})
}

func TestLostAnswers(t *testing.T) {
	each(t, 2, func(t *testing.T, p place) {
		p.plan.Next(faults.LostAnswer, p.tries)
		temporary(t, "put", p.store.Put(t.Context(), "o", strings.NewReader("x"), 1))
		if got, err := get(t.Context(), p.store, "o"); got != "x" || err != nil {
			t.Errorf("after a lost answer: %q, %v", got, err)
		}
		p.plan.Next(faults.LostAnswer, 1)
		// the caller's own object, met by the second try of the request or by the caller's
		if err := p.store.Create(t.Context(), "manifest/1", []byte("mine")); p.tries == 1 {
			temporary(t, "create", err)
		} else if !errors.Is(err, objects.ErrExists) {
			t.Errorf("create: %v", err)
		}
		if err := p.store.Create(t.Context(), "manifest/1", []byte("mine")); !errors.Is(err, objects.ErrExists) {
			t.Errorf("create again: %v", err)
		}
		if got, err := get(t.Context(), p.store, "manifest/1"); got != "mine" || err != nil {
			t.Errorf("after a lost answer: %q, %v", got, err)
		}
		p.plan.Next(faults.LostAnswer, p.tries)
		temporary(t, "delete", p.store.Delete(t.Context(), "o"))
		if _, err := p.store.Stat(t.Context(), "o"); !errors.Is(err, objects.ErrNotFound) {
			t.Errorf("after a lost answer to delete: %v", err)
		}
	})
}

func TestBrokenReads(t *testing.T) {
	each(t, 3, func(t *testing.T, p place) {
		const content = "the quick brown fox jumps over the lazy dog"
		put(t, p.store, "o", content)
		buf := make([]byte, len(content))
		p.plan.Next(faults.CutAnswer, 1)
		n, err := p.store.ReadAt(t.Context(), "o", buf, 0)
		temporary(t, "cut", err)
		if !errors.Is(err, io.ErrUnexpectedEOF) || n != len(content)/2 || string(buf[:n]) != content[:n] {
			t.Errorf("cut: %q, %v", buf[:n], err)
		}
		p.plan.Next(faults.WrongBytes, 1)
		n, err = p.store.ReadAt(t.Context(), "o", buf, 0)
		wrong := 0
		for i := range n {
			if buf[i] != content[i] {
				wrong++
			}
		}
		if n != len(content) || err != nil || wrong != 1 {
			t.Errorf("%d wrong bytes of %d, %v", wrong, n, err)
		}
		counted(t, p, faults.CutAnswer, 1)
		counted(t, p, faults.WrongBytes, 1)
		if n, other := p.plan.WrongAnswers("o"), p.plan.WrongAnswers("other"); n != 1 || other != 0 {
			t.Errorf("%d wrong answers, and %d of another object", n, other)
		}
		if got, err := get(t.Context(), p.store, "o"); got != content || err != nil {
			t.Errorf("afterwards: %q, %v", got, err)
		}
	})
}

func TestWrongBytesInAPut(t *testing.T) {
	each(t, 4, func(t *testing.T, p place) {
		p.plan.Next(faults.WrongBytes, 1)
		content := strings.Repeat("x", 1000)
		err := p.store.Put(t.Context(), "o", strings.NewReader(content), 1000)
		counted(t, p, faults.WrongBytes, 1)
		if p.tries > 1 { // S3 checks what arrives
			temporary(t, "put", err)
			if _, err := p.store.Stat(t.Context(), "o"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("the damaged content is there: %v", err)
			}
			return
		}
		got, readErr := get(t.Context(), p.store, "o")
		if err != nil || readErr != nil || len(got) != 1000 || strings.Count(got, "x") != 999 {
			t.Errorf("stored: %d bytes, %d as they were; %v, %v", len(got), strings.Count(got, "x"), err, readErr)
		}
	})
}

func names(ctx context.Context, s objects.Store, prefix string) (out []string, err error) {
	for info, err := range s.List(ctx, prefix, "") {
		if err != nil {
			return out, err
		}
		out = append(out, info.Name)
	}
	return out, nil
}

func TestStaleLists(t *testing.T) {
	each(t, 5, func(t *testing.T, p place) {
		check := func(what string, want ...string) {
			t.Helper()
			if got, err := names(t.Context(), p.store, "parts/"); err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %q, %v", what, got, err)
			}
		}
		p.plan.Next(faults.StaleList, 1)
		put(t, p.store, "parts/1", "x")
		check("the first list", "parts/1")
		counted(t, p, faults.StaleList, 0)
		put(t, p.store, "parts/2", "x")
		check("the second", "parts/1", "parts/2")
		p.plan.Next(faults.StaleList, 1)
		check("an old one", "parts/1")
		counted(t, p, faults.StaleList, 1)
		check("a new one", "parts/1", "parts/2")
		p.plan.Next(faults.CutAnswer, 1)
		_, err := names(t.Context(), p.store, "parts/")
		temporary(t, "half a list", err)
	})
}

func TestOutage(t *testing.T) {
	each(t, 6, func(t *testing.T, p place) {
		put(t, p.store, "o", "x")
		p.plan.Outage(true)
		_, statErr := p.store.Stat(t.Context(), "o")
		_, getErr := get(t.Context(), p.store, "o")
		_, listErr := names(t.Context(), p.store, "")
		_, sweepErr := p.store.Sweep(t.Context(), time.Now().Add(-time.Hour))
		for what, err := range map[string]error{"stat": statErr, "read": getErr, "list": listErr, "sweep": sweepErr,
			"put": p.store.Put(t.Context(), "o", strings.NewReader("y"), 1), "create": p.store.Create(t.Context(), "p", nil), "delete": p.store.Delete(t.Context(), "o")} {
			temporary(t, what, err)
		}
		if n := p.plan.Counts()[faults.Outage]; n < 7 {
			t.Errorf("%d calls met the outage", n)
		}
		p.plan.Outage(false)
		if got, err := get(t.Context(), p.store, "o"); got != "x" || err != nil {
			t.Errorf("after the outage: %q, %v", got, err)
		}
	})
}

// Whatever goes wrong: what was acknowledged is there, what is there is whole and was written by somebody, and no two creates
// of a name win.
func TestRandomFaults(t *testing.T) {
	each(t, 7, func(t *testing.T, p place) {
		p.plan.Rates(0.06)
		p.plan.Rate(faults.Timeout, 0.01)
		if p.tries == 1 {
			p.plan.Rate(faults.WrongBytes, 0) // it would be stored
		}
		random := rand.New(rand.NewPCG(8, 8))
		possible, created := map[string][]string{}, map[string]string{} // contents that an object may have, newest last; "" is none
		for i := range 600 {
			name := fmt.Sprintf("parts/%d", random.IntN(20))
			content := fmt.Sprintf("%d %s", i, bytes.Repeat([]byte{'x'}, random.IntN(3000)))
			switch random.IntN(4) {
			case 0, 1:
				if err := p.store.Put(t.Context(), name, strings.NewReader(content), int64(len(content))); err == nil {
					possible[name] = []string{content}
				} else {
					possible[name] = append(append([]string{""}, possible[name]...), content)
				}
			case 2:
				if err := p.store.Delete(t.Context(), name); err == nil {
					possible[name] = []string{""}
				} else {
					possible[name] = append(possible[name], "")
				}
			case 3:
				name = fmt.Sprintf("manifest/%d", random.IntN(60))
				if err := p.store.Create(t.Context(), name, []byte(content)); err == nil {
					if before, ok := created[name]; ok {
						t.Fatalf("%s was created twice: %.10q, %.10q", name, before, content)
					}
					created[name] = content
				}
			}
		}
		p.plan.Rates(0)
		for name, contents := range possible {
			got, err := get(t.Context(), p.store, name)
			if errors.Is(err, objects.ErrNotFound) {
				err = nil
			}
			if err != nil || !slices.Contains(contents, got) {
				t.Errorf("%s has %.10q…, %v: none of what it may have", name, got, err)
			}
		}
		for name, content := range created {
			if got, err := get(t.Context(), p.store, name); err != nil || got != content {
				t.Errorf("%s has %.10q…, not %.10q…, %v", name, got, content, err)
			}
		}
		counts := p.plan.Counts()
		for _, k := range []faults.Kind{faults.Timeout, faults.ServerError, faults.SlowDown, faults.LostAnswer, faults.HalfUpload, faults.QuotaFull} {
			if counts[k] == 0 {
				t.Errorf("%s never happened: %v", k, counts)
			}
		}
		if len(created) < 20 {
			t.Errorf("only %d creates won", len(created))
		}
	})
}

// A time-out of a store in the process ends when its clock says so, or its context.
func TestTimeoutOnAClock(t *testing.T) {
	fake := clock.NewFake(time.Unix(1_800_000_000, 0))
	plan := faults.NewPlan(9)
	s := faults.NewStore(open(t, "file://"+t.TempDir(), objects.Options{}), plan, fake)
	plan.Next(faults.Timeout, 2)
	ended := make(chan error)
	go func() {
		_, err := s.Stat(t.Context(), "o")
		ended <- err
	}()
	for waiting := true; waiting; {
		select {
		case err := <-ended:
			temporary(t, "stat", err)
			waiting = false
		case <-time.After(time.Millisecond):
			fake.Advance(faults.Hang)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Stat(ctx, "o"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is over: %v", err)
	}
}
