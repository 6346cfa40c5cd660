package nameserver

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/store"
)

// FuzzRequests gives every handler any fields and bodies. None panics or fails but by saying what is wrong with the request, and
// what is answered is a body that can be read. Fields come as properties do: key, 1, value, 2.
func FuzzRequests(f *testing.F) {
	b, err := broker.Open(context.Background(), store.Options{
		FS: vfs.NewMem(), Dir: "data", SegmentSize: 64 << 20, CacheBytes: 16 << 20, Mode: commitlog.ModeOS, Logger: zerolog.Nop(),
	}, broker.Options{ClusterName: "c", BrokerName: "b", Advertise: netip.MustParseAddrPort("127.0.0.1:10911"), Logger: zerolog.Nop()})
	if err != nil {
		f.Fatal(err)
	}
	d := New(b, Options{Clock: clock.NewFake(time.UnixMilli(1_795_000_000_000)), Logger: zerolog.Nop()})
	f.Cleanup(func() {
		if err := errors.Join(d.Close(context.Background()), b.Close()); err != nil {
			f.Error(err)
		}
	})
	codes := slices.Sorted(maps.Keys(handlers))
	const fields = "brokerName\x01x\x02brokerAddr\x0110.0.0.1:10911\x02clusterName\x01c\x02brokerId\x010\x02haServerAddr\x0110.0.0.1:10912\x02" +
		"topic\x01t\x02namespace\x01n\x02key\x01k\x02value\x01v\x02cluster\x01c\x02"
	plain, err := body.Marshal(&body.RegisterBroker{Topics: body.TopicConfigTable{TopicConfigTable: map[string]body.TopicConfig{"t": {TopicName: "t", Perm: 6}}}})
	if err != nil {
		f.Fatal(err)
	}
	packed, err := body.EncodeCompressed(&body.RegisterBroker{Topics: body.TopicConfigTable{TopicConfigTable: map[string]body.TopicConfig{"u": {TopicName: "u"}}}})
	if err != nil {
		f.Fatal(err)
	}
	for i := range codes {
		f.Add(uint8(i), fields, []byte{})
		f.Add(uint8(i), fields, plain)
		f.Add(uint8(i), fields+"compressed\x01true\x02", packed)
		f.Add(uint8(i), fields, []byte(`{"queueDatas":[{"brokerName":"x","perm":6,"readQueueNums":1,"writeQueueNums":1}]}`))
	}
	f.Fuzz(func(t *testing.T, which uint8, fields string, content []byte) {
		code := codes[int(which)%len(codes)]
		req := wire.NewRequest(code)
		for pair := range strings.SplitSeq(fields, "\x02") {
			if key, value, ok := strings.Cut(pair, "\x01"); ok {
				req.Fields.Set(key, value)
			}
		}
		req.Body = content
		resp := req.Reply(wire.Success, "")
		err := handlers[code].serve(d, nil, req, resp)
		var no *refusal
		var field *wire.FieldError
		if err != nil && !errors.As(err, &no) && !errors.As(err, &field) {
			var verb *broker.Error
			if errors.As(err, &verb) && verb.Code != broker.CodeInternal {
				return
			}
			t.Fatalf("%s: %v", handlers[code].name, err)
		}
		if len(resp.Body) > 0 && code != nameServerConfig {
			var v any
			if err := body.Unmarshal(resp.Body, &v); err != nil {
				t.Fatalf("%s answers %q: %v", handlers[code].name, resp.Body, err)
			}
		}
	})
}
