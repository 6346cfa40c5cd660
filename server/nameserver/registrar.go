package nameserver

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/wire"
)

const (
	registerEvery   = 30 * time.Second // as Java brokers do; a name server forgets after 120 s
	registerTimeout = 6 * time.Second
	registerRetry   = 2 * time.Second
	settleTime      = 200 * time.Millisecond // changes that come close together are registered together
)

// Registrar registers our broker with external name servers: at start, after each change of topics, and every 30 s.
type Registrar struct {
	b      *broker.Broker
	clock  clock.Clock
	log    zerolog.Logger
	cancel context.CancelFunc
	wg     sync.WaitGroup
	links  []*link
}

// link is one external name server.
type link struct {
	addr    string
	changed chan struct{} // holds at most one
	conn    *wire.Client
}

// NewRegistrar begins to register with addrs (host:port each). Close ends it.
func NewRegistrar(b *broker.Broker, addrs []string, c clock.Clock, log zerolog.Logger) *Registrar {
	ctx, cancel := context.WithCancel(context.Background())
	r := &Registrar{b: b, clock: c, log: log, cancel: cancel}
	for _, a := range addrs {
		l := &link{addr: a, changed: make(chan struct{}, 1)}
		r.links = append(r.links, l)
		r.wg.Go(func() { r.loop(ctx, l) })
	}
	b.OnTopicsChanged(func() {
		for _, l := range r.links {
			select {
			case l.changed <- struct{}{}:
			default:
			}
		}
	})
	return r
}

// Close unregisters and ends; a name server that cannot be reached forgets the broker by itself.
func (r *Registrar) Close() {
	r.cancel()
	r.wg.Wait()
}

func (r *Registrar) loop(ctx context.Context, l *link) {
	defer r.leave(l)
	t := r.clock.NewTimer(0)
	defer t.Stop()
	healthy := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.changed:
			t.Reset(settleTime)
			continue
		case <-t.C():
		}
		err := r.register(ctx, l)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			if healthy {
				r.log.Warn().Err(err).Str("nameserver", l.addr).Msg("cannot register with the name server; trying again every 2 s")
			}
			healthy = false
			t.Reset(registerRetry)
		default:
			if !healthy {
				r.log.Info().Str("nameserver", l.addr).Msg("registered with the name server again")
			}
			healthy = true
			t.Reset(registerEvery)
		}
	}
}

// leave unregisters and closes the connection.
func (r *Registrar) leave(l *link) {
	if l.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), registerTimeout)
	defer cancel()
	if resp, err := l.conn.Invoke(ctx, r.request(wire.UnregisterBroker)); err == nil {
		resp.Release()
	}
	l.conn.Close()
}

func (r *Registrar) request(code int) *wire.Command {
	o := r.b.Options()
	req := wire.NewRequest(code)
	req.Fields.Add("brokerName", o.BrokerName)
	req.Fields.Add("brokerAddr", o.Advertise.String())
	req.Fields.Add("clusterName", o.ClusterName)
	req.Fields.AddInt("brokerId", 0)
	return req
}

// register tells a name server our topics when it does not know their newest version; asking is a sign of life, too.
func (r *Registrar) register(ctx context.Context, l *link) error {
	ctx, cancel := context.WithTimeout(ctx, registerTimeout)
	defer cancel()
	if l.conn != nil {
		select {
		case <-l.conn.Done():
			l.conn.Close()
			l.conn = nil
		default:
		}
	}
	if l.conn == nil {
		c, err := wire.Dial(ctx, l.addr, wire.ClientOptions{})
		if err != nil {
			return err
		}
		l.conn = c
	}
	counter, timestamp := r.b.Catalog().Version()
	version := body.DataVersion{Counter: counter, Timestamp: timestamp}
	changed, err := r.isNew(ctx, l, version)
	if err != nil || !changed {
		return err
	}
	return r.full(ctx, l, version)
}

func (r *Registrar) isNew(ctx context.Context, l *link, v body.DataVersion) (bool, error) {
	req := r.request(wire.QueryDataVersion)
	data, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	req.Body = data
	resp, err := l.conn.Invoke(ctx, req)
	if err != nil {
		return false, fmt.Errorf("query data version: %w", err)
	}
	defer resp.Release()
	if resp.Code != wire.Success {
		return false, fmt.Errorf("query data version: code %d: %s", resp.Code, resp.Remark)
	}
	return resp.Fields.BoolOr("changed", true)
}

func (r *Registrar) full(ctx context.Context, l *link, v body.DataVersion) error {
	table := body.TopicConfigTable{DataVersion: v, TopicConfigTable: map[string]body.TopicConfig{}}
	err := r.b.Catalog().EachTopic(func(t *catalog.Topic) bool {
		table.TopicConfigTable[t.Name] = body.TopicConfig{TopicName: t.Name, ReadQueueNums: t.ReadQueues, WriteQueueNums: t.WriteQueues,
			Perm: t.Perm, TopicFilterType: t.TopicFilterType, TopicSysFlag: t.SysFlag, Order: t.Order, Attributes: t.Attributes}
		return true
	})
	if err != nil {
		return err
	}
	data, err := body.EncodeCompressed(&body.RegisterBroker{Topics: table})
	if err != nil {
		return err
	}
	req := r.request(wire.RegisterBroker)
	req.Fields.Add("haServerAddr", r.b.Options().Advertise.String())
	req.Fields.AddBool("compressed", true)
	req.Fields.AddInt("bodyCrc32", int64(crc32.ChecksumIEEE(data)&0x7FFFFFFF))
	req.Body = data
	resp, err := l.conn.Invoke(ctx, req)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	defer resp.Release()
	if resp.Code != wire.Success {
		return errors.New("register: " + resp.Remark)
	}
	r.log.Info().Str("nameserver", l.addr).Int("topics", len(table.TopicConfigTable)).Msg("registered")
	return nil
}
