package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/configs"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/rpctime"
	"github.com/cairnmq/cairn/internal/telemetry"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/javaimport"
	doorgrpc "github.com/cairnmq/cairn/server/grpc"
	doorhttp "github.com/cairnmq/cairn/server/http"
	"github.com/cairnmq/cairn/server/nameserver"
	"github.com/cairnmq/cairn/server/remoting"
	"github.com/cairnmq/cairn/store"
)

// instance is a running broker with its doors.
type instance struct {
	broker    *broker.Broker
	tier      *openedTier // nil: there is none
	registrar *nameserver.Registrar
	push      *telemetry.Pusher // nil: nobody is pushed metrics to
	doors     []door
	failed    chan error // a door that ended by itself
	addrs     addresses
	log       zerolog.Logger
	wg        sync.WaitGroup
	stop      context.CancelFunc // ends what runs beside the doors
}

// addresses that clients connect to; empty for a door that is off.
type addresses struct{ nameserver, remoting, grpc, http string }

type door struct {
	name  string
	ln    net.Listener
	serve func(net.Listener) error
	close func(context.Context) error
}

const stopTimeout = 10 * time.Second

// start brings a broker up: it listens first, so that a taken port is told before a log is read, and serves last.
func start(ctx context.Context, cfg configs.Config, log zerolog.Logger) (_ *instance, err error) {
	began := time.Now()
	in := &instance{log: log, failed: make(chan error, 4)}
	beside, stop := context.WithCancel(context.Background())
	in.stop = stop
	in.wg.Go(func() { tuneGC(beside) })
	defer func() {
		if err != nil {
			err = errors.Join(err, in.close())
		}
	}()
	host, err := cfg.AdvertiseHost()
	if err != nil {
		return nil, err
	}
	listeners := map[string]net.Listener{}
	defer func() {
		if err != nil {
			for _, ln := range listeners {
				_ = ln.Close()
			}
		}
	}()
	for name, addr := range map[string]string{"nameserver": cfg.NameServer, "remoting": cfg.Remoting, "grpc": cfg.GRPC, "http": cfg.HTTP} {
		if addr == configs.Off {
			continue
		}
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, fmt.Errorf("%s: %w (another broker on this machine? --%s chooses another address)", name, err, name)
		}
		listeners[name] = ln
	}
	advertised := func(name string) netip.AddrPort {
		if ln, ok := listeners[name]; ok {
			return netip.AddrPortFrom(host, ln.Addr().(*net.TCPAddr).AddrPort().Port())
		}
		return netip.AddrPort{}
	}
	in.addrs = addresses{text(advertised("nameserver")), text(advertised("remoting")), text(advertised("grpc")), text(advertised("http"))}
	tlsConfig, err := loadTLS(cfg)
	if err != nil {
		return nil, err
	}

	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), durabilityInfo(cfg))
	if in.tier, err = openTier(ctx, cfg, registry); err != nil {
		return nil, err
	}
	in.broker, err = broker.Open(ctx, store.Options{
		FS: vfs.Default, Dir: cfg.Data, Engine: cfg.Engine, CacheBytes: int64(cfg.Memory), SegmentSize: int64(cfg.SegmentSize),
		Mode: cfg.Mode(), Interval: cfg.SyncInterval, Retention: cfg.Retention, Tier: in.tier.ofBroker(), TierRetention: cfg.TieredRetention, Clock: clock.System, Logger: log,
	}, broker.Options{
		ClusterName: cfg.Cluster, BrokerName: cfg.Name, Advertise: advertised("remoting"), AdvertiseGRPC: advertised("grpc"),
		AutoCreateTopics: cfg.AutoCreateTopics, AutoCreateGroups: cfg.AutoCreateGroups, DefaultQueues: int32(cfg.DefaultQueues),
		MaxMessageSize: int(cfg.MaxMessageSize), DelayLevels: cfg.Levels(), MaxDelay: cfg.MaxDelay,
		TransactionTimeout: cfg.TxTimeout, CheckInterval: cfg.TxCheckInterval, MaxChecks: int32(cfg.TxMaxChecks), Clock: clock.System, Logger: log, Registerer: registry,
		Fit: javaimport.Unfinished, Uploads: in.tier != nil,
	})
	if err != nil {
		return nil, explainUnfinished(err, cfg.Data)
	}
	if cfg.OTLPEndpoint != "" {
		in.push, err = telemetry.Start(telemetry.Options{
			Endpoint: cfg.OTLPEndpoint, Interval: cfg.OTLPInterval, Gatherer: registry, Instance: cfg.Name, Logger: log,
		})
		if err != nil {
			return nil, err
		}
	}
	latency, err := rpctime.New(registry, cfg.Cluster, cfg.Name)
	if err != nil {
		return nil, err
	}
	wireOptions := wire.Options{TLS: tlsConfig, Logger: log}
	if ln := listeners["remoting"]; ln != nil {
		d := remoting.New(in.broker, remoting.Options{Wire: wireOptions, Latency: latency, Logger: log})
		in.serve("remoting", ln, d.Serve, d.Close)
		in.serveVIP(cfg.Remoting, d)
	}
	if ln := listeners["grpc"]; ln != nil {
		d := doorgrpc.New(in.broker, doorgrpc.Options{TLS: tlsConfig, Version: version(), Latency: latency, Logger: log})
		in.serve("grpc", ln, d.Serve, d.Close)
	}
	if ln := listeners["nameserver"]; ln != nil {
		d := nameserver.New(in.broker, nameserver.Options{Wire: wireOptions, Clock: clock.System, Logger: log})
		in.serve("nameserver", ln, d.Serve, d.Close)
	}
	if ln := listeners["http"]; ln != nil {
		d := doorhttp.New(in.broker, registry, in.broker.Store().Health, log)
		in.serve("http", ln, d.Serve, d.Close)
	}
	if len(cfg.NameServers) > 0 {
		in.registrar = nameserver.NewRegistrar(in.broker, cfg.NameServers, clock.System, log)
	}
	in.sayReady(cfg, time.Since(began))
	return in, nil
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

func loadTLS(cfg configs.Config) (*tls.Config, error) {
	if cfg.TLSCert == "" {
		return nil, nil
	}
	cert, err := tls.LoadX509KeyPair(cfg.TLSCert, cfg.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("tls-cert, tls-key: %w", err)
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, nil
}

func durabilityInfo(cfg configs.Config) prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{Name: "cairn_durability_info", Help: "The durability mode in force.", ConstLabels: prometheus.Labels{"mode": cfg.Durability}})
	g.Set(1)
	return g
}

func (in *instance) sayReady(cfg configs.Config, took time.Duration) {
	r := in.broker.Store().Recovery()
	data, err := filepath.Abs(cfg.Data)
	if err != nil {
		data = cfg.Data
	}
	in.log.Info().
		Str("durability", cfg.Durability).Str("engine", cfg.Engine).Str("data", data).
		Str("nameserver", in.addrs.nameserver).Str("remoting", in.addrs.remoting).Str("grpc", in.addrs.grpc).Str("http", in.addrs.http).
		Int64("replayed", r.Records).Int64("cut_bytes", r.Cut).Dur("took", took).
		Msg("cairn is ready")
}

func (in *instance) serve(name string, ln net.Listener, serve func(net.Listener) error, stop func(context.Context) error) {
	in.doors = append(in.doors, door{name, ln, serve, stop})
	in.wg.Go(func() {
		if err := serve(ln); err != nil {
			select {
			case in.failed <- fmt.Errorf("%s: %w", name, err):
			default:
			}
		}
	})
}

// vipBelow is how far below a broker's port clients with vipChannelEnabled look for it (MixAll.brokerVIPChannel of rocketmq-common 5.5);
// RocketMQ Dashboard does so unless it is told otherwise.
const vipBelow = 2

// serveVIP serves Remoting there as well. When it cannot, only those clients miss it. A port that the system chooses has none.
func (in *instance) serveVIP(addr string, d *remoting.Door) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return
	}
	port, err := strconv.Atoi(text)
	if err != nil || port <= vipBelow {
		return
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(host, strconv.Itoa(port-vipBelow)))
	if err != nil {
		in.log.Warn().Err(err).Msg("cannot listen where clients with vipChannelEnabled look, two below the Remoting port")
		return
	}
	in.wg.Go(func() { // until the door is closed
		if err := d.Serve(ln); err != nil {
			in.log.Error().Err(err).Msg("clients with vipChannelEnabled are not served any more")
		}
	})
}

// close stops the doors in reverse order (clients are told to go elsewhere, requests under way are answered), then the
// broker. It may be called on a half-started instance.
func (in *instance) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if in.registrar != nil {
		in.registrar.Close()
	}
	var errs []error
	for i := len(in.doors) - 1; i >= 0; i-- {
		if err := in.doors[i].close(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
			errs = append(errs, fmt.Errorf("stop %s: %w", in.doors[i].name, err))
		}
	}
	in.stop()
	in.wg.Wait()
	if in.push != nil {
		if err := in.push.Close(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	if in.broker != nil {
		if err := in.broker.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close the broker: %w", err))
		}
	}
	if err := in.tier.close(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
