package message

import (
	"errors"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestOffsetIDReturns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		host := genHost(t, "host")
		position := rapid.Int64Min(0).Draw(t, "position")
		id := OffsetID(host, position)
		for _, form := range []string{id, strings.ToLower(id)} {
			if h, p, err := ParseOffsetID(form); err != nil || h != host || p != position {
				t.Fatalf("%s says %v, %d, %v; want %v, %d", form, h, p, err, host, position)
			}
		}
	})
}

func TestOffsetIDOfOddHosts(t *testing.T) {
	for host, want := range map[netip.AddrPort]string{
		{}: "00000000000000000000000000000001",
		netip.MustParseAddrPort("[::ffff:10.0.0.1]:255"): "0A000001000000FF0000000000000001",
	} {
		if id := OffsetID(host, 1); id != want {
			t.Errorf("%v: %s, want %s", host, id, want)
		}
	}
}

func TestParseOffsetIDRefuses(t *testing.T) {
	for _, id := range []string{
		"", "7F00000100002A9F00000000000000", "7F00000100002A9F0000000000000000AB", "7F00000100002A9F000000000000000G",
		"7F000001000100000000000000000000", "7F00000100002A9F8000000000000000", strings.Repeat("é", 16), strings.Repeat("F", 56),
	} {
		if host, position, err := ParseOffsetID(id); !errors.Is(err, ErrBadID) || host.IsValid() || position != 0 {
			t.Errorf("%q: %v, %d, %v", id, host, position, err)
		}
	}
}

func FuzzParseOffsetID(f *testing.F) {
	for _, g := range readManifest(f).OffsetIDs {
		f.Add(g.ID)
	}
	f.Add("00000000000000000000FFFF0A0000010000000000000000000000FF")
	f.Fuzz(func(t *testing.T, id string) {
		host, position, err := ParseOffsetID(id)
		if err != nil {
			if !errors.Is(err, ErrBadID) {
				t.Fatal(err)
			}
			return
		}
		if host.Addr().Is4In6() { // written as IPv4
			return
		}
		if again := OffsetID(host, position); again != strings.ToUpper(id) {
			t.Fatalf("%s is then %s", id, again)
		}
	})
}

func TestUniqueIDsDiffer(t *testing.T) {
	const makers, each = 4, 5000
	ids := make([][]string, makers)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			for range each {
				ids[i] = append(ids[i], NewUniqueID())
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for _, list := range ids {
		for _, id := range list {
			if seen[id] || len(id) != uniqueIDV4 || strings.ToUpper(id) != id {
				t.Fatalf("id %q, seen %v", id, seen[id])
			}
			seen[id] = true
		}
	}
}

func TestUniqueIDHasItsTime(t *testing.T) {
	zone := time.FixedZone("", 5*3600+1800)
	rapid.Check(t, func(t *rapid.T) {
		made := time.UnixMilli(rapid.Int64Range(1500000000000, 2500000000000).Draw(t, "made")).In(zone)
		now := made
		maker := newIDMaker(func() time.Time { return now })
		id := maker.next()
		// Read at once, or up to four weeks later: then it is of this month or of the one before.
		read := made.Add(time.Duration(rapid.Int64Range(0, 28*24*3600).Draw(t, "seconds later")) * time.Second)
		if made.Sub(monthOf(made)) <= read.Add(clockLead).Sub(monthOf(read)) && monthOf(made) != monthOf(read) {
			return // the id says the same of this month: it cannot be told apart
		}
		if ms, ok := UniqueIDTimeAt(id, read); !ok || ms != made.UnixMilli() {
			t.Fatalf("%s made %v, read %v: %v, %v", id, made, read, time.UnixMilli(ms).In(zone), ok)
		}
		now = made.AddDate(0, 1, 3) // the maker goes on into another month
		if ms, ok := UniqueIDTimeAt(maker.next(), now); !ok || ms != now.UnixMilli() {
			t.Fatalf("made %v: %v, %v", now, time.UnixMilli(ms).In(zone), ok)
		}
	})
}

func TestUniqueIDWithTheClockSetBack(t *testing.T) {
	now := time.Date(2026, 3, 1, 0, 0, 5, 0, time.UTC)
	maker := newIDMaker(func() time.Time { return now })
	first := maker.next()
	now = now.Add(-10 * time.Second) // into February
	second := maker.next()
	if first[20:28] != "00001388" || second[20:28] != "00000000" { // 5000 ms, and the month's start
		t.Errorf("%s and then %s: the second is not of the month's start", first, second)
	}
	if first[28:] == second[28:] {
		t.Errorf("%s and %s have one counter", first, second)
	}
}

func TestUniqueIDTimeRefuses(t *testing.T) {
	now := time.Date(2026, 3, 10, 0, 0, 0, 0, time.UTC)
	for _, id := range []string{
		"", "0A0102", strings.Repeat("G", 32), strings.Repeat("F", 32), strings.Repeat("0", 33), strings.Repeat("0", 58),
		"02020000000001152900000000" + "00000000", "my-own-id", strings.Repeat("F", 56),
	} {
		if ms, ok := UniqueIDTimeAt(id, now); ok {
			t.Errorf("%q is of %d", id, ms)
		}
	}
	ahead := now.Add(clockLead / 2)
	id := newIDMaker(func() time.Time { return ahead }).next()
	if ms, ok := UniqueIDTimeAt(id, now); !ok || ms != ahead.UnixMilli() {
		t.Errorf("the id of a clock ahead of ours is of %v, %v", time.UnixMilli(ms).UTC(), ok)
	}
	if ms, ok := UniqueIDTime(NewUniqueID()); !ok || time.Since(time.UnixMilli(ms)).Abs() > time.Minute {
		t.Errorf("an id of now is of %v, %v", time.UnixMilli(ms), ok)
	}
}

func BenchmarkNewUniqueID(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		NewUniqueID()
	}
}
