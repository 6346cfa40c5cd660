package bench

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/wire"
	doorgrpc "github.com/cairnmq/cairn/server/grpc"
	"github.com/cairnmq/cairn/server/nameserver"
	"github.com/cairnmq/cairn/server/remoting"
	"github.com/cairnmq/cairn/store"
)

func TestSpreadIsEvenAndNotInOrder(t *testing.T) {
	const n = 1000
	var parts []time.Duration
	for i := range int64(n) {
		parts = append(parts, spread(time.Second, i))
	}
	if slices.IsSorted(parts) {
		t.Error("in order")
	}
	slices.Sort(parts)
	if parts[0] < 0 || parts[n-1] >= time.Second {
		t.Errorf("from %s to %s", parts[0], parts[n-1])
	}
	for i := range n - 1 {
		if gap := parts[i+1] - parts[i]; gap > 5*time.Second/n {
			t.Errorf("a gap of %s behind %s", gap, parts[i])
		}
	}
}

func TestEarlinessTellsWhatIsOutOfOrder(t *testing.T) {
	var e earliness
	for _, m := range []struct {
		queue int32
		due   int64
	}{{0, 5}, {1, 3}, {0, 5}, {0, 4}, {1, 4}, {unordered, 1}, {unordered, 0}} {
		e.order(m.queue, m.due)
	}
	e.add(7)
	e.add(3)
	if e.disordered != 1 || e.count != 2 || e.most != 7 {
		t.Errorf("%+v", e)
	}
}

// serveBroker runs a broker with both doors and a name server, and answers the endpoints of both protocols.
func serveBroker(t *testing.T) map[Protocol]string {
	t.Helper()
	listen := func() (net.Listener, netip.AddrPort) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln, ln.Addr().(*net.TCPAddr).AddrPort()
	}
	nsLn, nsAddr := listen()
	remotingLn, remotingAddr := listen()
	grpcLn, grpcAddr := listen()
	b, err := broker.Open(context.Background(), store.Options{FS: vfs.NewMem(), Dir: "data", CacheBytes: 8 << 20, SegmentSize: 16 << 20, Logger: zerolog.Nop()},
		broker.Options{Advertise: remotingAddr, AdvertiseGRPC: grpcAddr, AutoCreateTopics: true, AutoCreateGroups: true, Logger: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	serve := func(ln net.Listener, serve func(net.Listener) error, stop func(context.Context) error) {
		ended := make(chan error, 1)
		go func() { ended <- serve(ln) }()
		t.Cleanup(func() {
			if err := stop(context.Background()); err != nil {
				t.Error(err)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
	r := remoting.New(b, remoting.Options{Wire: wire.Options{Logger: zerolog.Nop()}, Logger: zerolog.Nop()})
	serve(remotingLn, r.Serve, r.Close)
	g := doorgrpc.New(b, doorgrpc.Options{Logger: zerolog.Nop()})
	serve(grpcLn, g.Serve, g.Close)
	ns := nameserver.New(b, nameserver.Options{Wire: wire.Options{Logger: zerolog.Nop()}, Clock: clock.System, Logger: zerolog.Nop()})
	serve(nsLn, ns.Serve, ns.Close)
	return map[Protocol]string{Remoting: nsAddr.String(), GRPC: grpcAddr.String()}
}

// TestMeasuresOfTimeOnABroker: what is measured of delayed messages and transactions happens, over both protocols. The topics
// are made by the first one, with their type.
func TestMeasuresOfTimeOnABroker(t *testing.T) {
	endpoints := serveBroker(t)
	for _, protocol := range []Protocol{Remoting, GRPC} {
		o := Options{Protocol: protocol, Endpoint: endpoints[protocol], Topic: "later", Group: "g", Workers: 4, Conns: 2, Size: 64, Count: 200, Batch: 32,
			Wait: 10 * time.Second, Delay: time.Second, Spread: 200 * time.Millisecond}
		r, err := Timers(t.Context(), o)
		for err == nil && r.Failed != 0 && o.Delay < time.Minute { // a busy machine needs longer to send them
			o.Delay *= 4
			r, err = Timers(t.Context(), o)
		}
		if err != nil || r.Failed != 0 || r.Messages != 200 || r.Lost != 0 || r.Repeated != 0 || r.Early != 0 || r.Disordered != 0 || r.Late == nil {
			t.Errorf("timers over %s: %v %+v", protocol, err, r)
		}
		o.Delay, o.Group = time.Hour, ""
		if r, err = Recall(t.Context(), o); err != nil || r.Failed != 0 || r.Messages != 200 || r.Recall == nil {
			t.Errorf("recall over %s: %v %+v", protocol, err, r)
		}
		if r, err = Produce(t.Context(), o); err != nil || r.Failed != 0 || r.Messages != 200 {
			t.Errorf("delayed sends over %s: %v %+v", protocol, err, r)
		}
		o.Topic, o.Delay, o.Spread = "tx", 0, 0
		if r, err = Transactions(t.Context(), o); err != nil || r.Failed != 0 || r.Messages != 200 || r.Pair == nil || r.Send != nil {
			t.Errorf("transactions over %s: %v %+v", protocol, err, r)
		}
		o.Group = "g2-" + string(protocol)
		if r, err = Consume(t.Context(), o); err != nil || r.Messages < 200 {
			t.Errorf("what was committed over %s: %v %+v", protocol, err, r)
		}
	}
}

func TestTimersNeedTimeToBeSent(t *testing.T) {
	o := Options{Protocol: Remoting, Endpoint: serveBroker(t)[Remoting], Topic: "later", Group: "g", Workers: 1, Conns: 1, Size: 64, Count: 5, Batch: 32,
		Wait: time.Second, Delay: time.Nanosecond}
	r, err := Timers(t.Context(), o)
	if err != nil || r.Failed != 5 || !strings.Contains(r.FirstError, "longer delay") {
		t.Errorf("%v %+v", err, r)
	}
	o.Delay = 0
	if _, err := Timers(t.Context(), o); err == nil {
		t.Error("no delay was taken")
	}
	if _, err := Recall(t.Context(), o); err == nil {
		t.Error("a recall without a delay was taken")
	}
}
