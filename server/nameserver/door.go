package nameserver

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/clock"
	"github.com/cairnmq/cairn/internal/wire"
)

// Request codes that only name servers serve.
const (
	registerTopic          = 217
	systemTopics           = 304
	unitTopics             = 311
	unitSubTopics          = 312
	unitSubNotUnitTopics   = 313
	updateNameServerConfig = 318
	nameServerConfig       = 319
	brokerMemberGroup      = 901
)

const (
	orderTopicConfig = "ORDER_TOPIC_CONFIG"
	expireEvery      = 5 * time.Second
	writeTimeout     = 5 * time.Second
)

// Options of a name server.
type Options struct {
	Wire   wire.Options
	Clock  clock.Clock
	Logger zerolog.Logger
}

// Door is a name server. Our own broker's topics are answered from its catalog: they are rows, and nothing registers them.
type Door struct {
	b      *broker.Broker
	table  *Table
	opts   Options
	server *wire.Server
	wiped  atomic.Bool // our own broker's write permission was taken in the routes
	stop   chan struct{}
	done   chan struct{}
}

// handler answers one request: the response body and fields, or a *refusal.
type handler struct {
	name  string
	serve func(d *Door, c *wire.Conn, req *wire.Command, resp *wire.Command) error
}

// refusal is an answer with a code other than success.
type refusal struct {
	code   int
	remark string
}

func (r *refusal) Error() string { return r.remark }

func refusef(code int, format string, args ...any) error {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

var handlers map[int]handler

func init() {
	handlers = map[int]handler{
		wire.GetRouteInfoByTopic:     {"GET_ROUTEINFO_BY_TOPIC", (*Door).routeInfo},
		wire.GetBrokerClusterInfo:    {"GET_BROKER_CLUSTER_INFO", (*Door).clusterInfo},
		wire.RegisterBroker:          {"REGISTER_BROKER", (*Door).register},
		wire.UnregisterBroker:        {"UNREGISTER_BROKER", (*Door).unregister},
		wire.QueryDataVersion:        {"QUERY_DATA_VERSION", (*Door).dataVersion},
		wire.BrokerHeartbeat:         {"BROKER_HEARTBEAT", (*Door).heartbeat},
		brokerMemberGroup:            {"GET_BROKER_MEMBER_GROUP", (*Door).members},
		registerTopic:                {"REGISTER_TOPIC_IN_NAMESRV", (*Door).registerTopic},
		wire.DeleteTopicInNameServer: {"DELETE_TOPIC_IN_NAMESRV", (*Door).deleteTopic},
		wire.GetAllTopicList:         {"GET_ALL_TOPIC_LIST_FROM_NAMESERVER", (*Door).topicList},
		wire.GetTopicsByCluster:      {"GET_TOPICS_BY_CLUSTER", (*Door).topicsByCluster},
		systemTopics:                 {"GET_SYSTEM_TOPIC_LIST_FROM_NS", (*Door).systemTopics},
		unitTopics:                   {"GET_UNIT_TOPIC_LIST", unitList(func(f int32) bool { return f&catalog.TopicOfUnit != 0 })},
		unitSubTopics:                {"GET_HAS_UNIT_SUB_TOPIC_LIST", unitList(func(f int32) bool { return f&catalog.TopicHasUnitSub != 0 })},
		unitSubNotUnitTopics:         {"GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST", unitList(func(f int32) bool { return f&catalog.TopicHasUnitSub != 0 && f&catalog.TopicOfUnit == 0 })},
		wire.PutKVConfig:             {"PUT_KV_CONFIG", (*Door).putKV},
		wire.GetKVConfig:             {"GET_KV_CONFIG", (*Door).getKV},
		wire.DeleteKVConfig:          {"DELETE_KV_CONFIG", (*Door).deleteKV},
		wire.GetKVListByNamespace:    {"GET_KVLIST_BY_NAMESPACE", (*Door).listKV},
		wire.WipeWritePerm:           {"WIPE_WRITE_PERM_OF_BROKER", (*Door).wipeWrite},
		wire.AddWritePerm:            {"ADD_WRITE_PERM_OF_BROKER", (*Door).addWrite},
		nameServerConfig:             {"GET_NAMESRV_CONFIG", (*Door).config},
		updateNameServerConfig:       {"UPDATE_NAMESRV_CONFIG", (*Door).updateConfig},
	}
}

// controllerCodes are those of the controller, which a name server of the reference may have in it. Tools show the remark of the
// refusal, so that it says why.
var controllerCodes = map[int]string{
	1001: "CONTROLLER_ALTER_SYNC_STATE_SET",
	1002: "CONTROLLER_ELECT_MASTER",
	1003: "CONTROLLER_REGISTER_BROKER",
	1004: "CONTROLLER_GET_REPLICA_INFO",
	1005: "CONTROLLER_GET_METADATA_INFO",
	1006: "CONTROLLER_GET_SYNC_STATE_DATA",
	1009: "UPDATE_CONTROLLER_CONFIG",
	1010: "GET_CONTROLLER_CONFIG",
	1011: "CLEAN_BROKER_DATA",
	1012: "CONTROLLER_GET_NEXT_BROKER_ID",
	1013: "CONTROLLER_APPLY_BROKER_ID",
}

// Codes lists the request codes that this door serves, with their names.
func Codes() map[int]string {
	out := map[int]string{}
	for code, h := range handlers {
		out[code] = h.name
	}
	return out
}

// New makes a name server over our own broker.
func New(b *broker.Broker, opts Options) *Door {
	if opts.Clock == nil {
		opts.Clock = clock.System
	}
	d := &Door{b: b, table: NewTable(), opts: opts, stop: make(chan struct{}), done: make(chan struct{})}
	opts.Wire.Logger = opts.Logger
	d.server = wire.NewServer(sessions{d}, opts.Wire)
	go d.expireLoop()
	return d
}

// Serve answers on ln until Close; it then returns nil.
func (d *Door) Serve(ln net.Listener) error {
	if err := d.server.Serve(ln); !errors.Is(err, wire.ErrServerClosed) {
		return fmt.Errorf("serve name server: %w", err)
	}
	return nil
}

// Close stops accepting, lets requests under way finish until ctx ends, and waits for its goroutines.
func (d *Door) Close(ctx context.Context) error {
	close(d.stop)
	<-d.done
	return d.server.Shutdown(ctx)
}

func (d *Door) expireLoop() {
	defer close(d.done)
	t := d.opts.Clock.NewTimer(expireEvery)
	defer t.Stop()
	for {
		select {
		case <-d.stop:
			return
		case <-t.C():
			if n := d.table.Expire(d.opts.Clock.Now()); n > 0 {
				d.opts.Logger.Warn().Int("brokers", n).Msg("brokers gave no sign of life and are out of the routes")
			}
			t.Reset(expireEvery)
		}
	}
}

// sessions is what the wire server calls.
type sessions struct{ d *Door }

func (sessions) Opened(*wire.Conn) {}

func (s sessions) Serve(c *wire.Conn, req *wire.Command) { s.d.serveRequest(c, req) }

// Closed forgets the brokers that registered on a connection.
func (s sessions) Closed(c *wire.Conn) {
	d := s.d
	if n := d.table.CloseConn(c); n > 0 {
		d.opts.Logger.Warn().Int("brokers", n).Stringer("from", c.Remote()).Msg("a broker's connection closed: it is out of the routes")
	}
}

// serveRequest answers one request on the connection's reader: all but a KV write is answered from memory or the catalog.
func (d *Door) serveRequest(c *wire.Conn, req *wire.Command) {
	h, ok := handlers[req.Code]
	resp := req.Reply(wire.Success, "")
	if !ok {
		resp.Code, resp.Remark = wire.RequestCodeNotSupported, fmt.Sprintf(" request type %d not supported", req.Code)
		if name, ok := controllerCodes[req.Code]; ok {
			resp.Remark = name + " is not supported: there is no controller"
		}
		c.Respond(req, resp)
		return
	}
	if err := h.serve(d, c, req, resp); err != nil {
		var r *refusal
		var field *wire.FieldError
		switch {
		case errors.As(err, &r):
			resp.Code = r.code
		case errors.As(err, &field):
			resp.Code = wire.SystemError
		default:
			resp.Code = wire.SystemError
			d.opts.Logger.Error().Err(err).Str("request", h.name).Stringer("from", c.Remote()).Msg("name server request failed")
		}
		resp.Remark, resp.Body, resp.Fields = err.Error(), nil, resp.Fields[:0]
	}
	c.Respond(req, resp)
}

// ---- routes ----

func (d *Door) routeInfo(_ *wire.Conn, req, resp *wire.Command) error {
	topic := req.Fields.Text("topic")
	standard, err := req.Fields.BoolOr("acceptStandardJsonOnly", false)
	if err != nil {
		return err
	}
	r := body.TopicRoute{BrokerDatas: []body.BrokerData{}, FilterServerTable: map[string][]string{}, QueueDatas: []body.QueueData{}}
	if err := d.localRoute(topic, &r); err != nil {
		return err
	}
	d.table.Route(topic, &r)
	if len(r.QueueDatas) == 0 {
		return refusef(wire.TopicNotExist, "No topic route info in name server for the topic: %s\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.", textOf(req, "topic"))
	}
	if conf, ok, err := d.b.Catalog().KV(orderTopicConfig, topic); err != nil {
		return err
	} else if ok {
		r.OrderTopicConf = conf
	}
	if standard || req.Version >= wire.Version4_9_4 {
		resp.Body, err = body.Marshal(r)
	} else {
		resp.Body, err = body.MarshalLegacy(r)
	}
	return err
}

func (d *Door) localRoute(topic string, r *body.TopicRoute) error {
	t, err := d.b.Topic(topic)
	if broker.CodeOf(err) == broker.CodeTopicNotFound || errors.Is(err, catalog.ErrTopicNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	q := body.QueueData{BrokerName: d.name(), Perm: t.Perm, ReadQueueNums: t.ReadQueues, WriteQueueNums: t.WriteQueues, TopicSysFlag: t.SysFlag}
	if d.wiped.Load() {
		q.Perm &^= permWrite
	}
	r.QueueDatas = append(r.QueueDatas, q)
	r.BrokerDatas = append(r.BrokerDatas, d.localBroker())
	return nil
}

func (d *Door) name() string { return d.b.Options().BrokerName }

func (d *Door) localBroker() body.BrokerData {
	o := d.b.Options()
	return body.BrokerData{BrokerAddrs: map[int64]string{0: o.Advertise.String()}, BrokerName: o.BrokerName, Cluster: o.ClusterName}
}

func (d *Door) clusters() body.ClusterInfo {
	o := d.b.Options()
	c := body.ClusterInfo{BrokerAddrTable: map[string]body.BrokerData{o.BrokerName: d.localBroker()},
		ClusterAddrTable: map[string][]string{o.ClusterName: {o.BrokerName}}}
	d.table.Clusters(&c)
	return c
}

func (d *Door) clusterInfo(_ *wire.Conn, req, resp *wire.Command) (err error) {
	if req.Version >= wire.Version4_9_4 {
		resp.Body, err = body.Marshal(d.clusters())
	} else {
		resp.Body, err = body.MarshalLegacy(d.clusters())
	}
	return err
}

// ---- registration ----

func brokerOf(f wire.Fields) (b Broker, err error) {
	if b.Name, err = f.Need("brokerName"); err != nil {
		return b, err
	}
	if b.Addr, err = f.Need("brokerAddr"); err != nil {
		return b, err
	}
	if b.Cluster, err = f.Need("clusterName"); err != nil {
		return b, err
	}
	if b.ID, err = f.Int64Or("brokerId", 0); err != nil {
		return b, err
	}
	ms, err := f.Int64Or("heartbeatTimeoutMillis", 0)
	if err != nil {
		return b, err
	}
	b.Timeout = time.Duration(ms) * time.Millisecond
	b.ActingMaster, err = f.BoolOr("enableActingMaster", false)
	b.HAAddr = f.Text("haServerAddr")
	return b, err
}

func (d *Door) register(c *wire.Conn, req, resp *wire.Command) error {
	b, err := brokerOf(req.Fields)
	if err != nil {
		return err
	}
	if b.Name == d.name() {
		return refusef(wire.SystemError, "broker name %s is that of the broker in this process: give the other one a name of its own", b.Name)
	}
	crc, err := req.Fields.Int32Or("bodyCrc32", 0)
	if err != nil {
		return err
	}
	if crc != 0 && int32(crc32.ChecksumIEEE(req.Body)&0x7FFFFFFF) != crc {
		return refusef(wire.SystemError, "the registration's checksum does not match its body")
	}
	compressed, err := req.Fields.BoolOr("compressed", false)
	if err != nil {
		return err
	}
	var topics *body.TopicConfigTable
	switch {
	case len(req.Body) == 0:
	case compressed:
		rb, err := body.DecodeCompressed(req.Body)
		if err != nil {
			return refusef(wire.SystemError, "%v", err)
		}
		topics = &rb.Topics
	default:
		var rb body.RegisterBroker
		if err := body.Unmarshal(req.Body, &rb); err != nil {
			return refusef(wire.SystemError, "registration: %v", err)
		}
		topics = &rb.Topics
	}
	m := d.table.Register(b, topics, c, d.opts.Clock.Now())
	if m.Addr != "" {
		resp.Fields.Add("masterAddr", m.Addr)
		resp.Fields.Add("haServerAddr", m.HAAddr)
	}
	return d.kvTable(orderTopicConfig, resp)
}

// unregister forgets a broker. One that is not named whole is none that is known.
func (d *Door) unregister(_ *wire.Conn, req, _ *wire.Command) error {
	b, err := brokerOf(req.Fields)
	var field *wire.FieldError
	if errors.As(err, &field) && field.Missing {
		return nil
	}
	if err != nil {
		return err
	}
	d.table.Unregister(b.Name, b.ID, b.Addr)
	return nil
}

func (d *Door) dataVersion(_ *wire.Conn, req, resp *wire.Command) error {
	b, err := brokerOf(req.Fields)
	if err != nil {
		return err
	}
	var theirs body.DataVersion
	if err := body.Unmarshal(req.Body, &theirs); err != nil {
		return refusef(wire.SystemError, "data version: %v", err)
	}
	ours, known := d.table.Version(b.Name, b.Addr, d.opts.Clock.Now())
	resp.Fields.AddBool("changed", !known || ours != theirs)
	if known {
		resp.Body, err = json.Marshal(ours)
	}
	return err
}

func (d *Door) heartbeat(_ *wire.Conn, req, _ *wire.Command) error {
	name, err := req.Fields.Need("brokerName")
	if err != nil {
		return err
	}
	d.table.Version(name, req.Fields.Text("brokerAddr"), d.opts.Clock.Now())
	return nil
}

func (d *Door) members(_ *wire.Conn, req, resp *wire.Command) (err error) {
	name := req.Fields.Text("brokerName")
	var g body.BrokerMemberGroup
	g.BrokerMemberGroup.BrokerName = name
	if name == d.name() {
		local := d.localBroker()
		g.BrokerMemberGroup.Cluster, g.BrokerMemberGroup.BrokerAddrs = local.Cluster, local.BrokerAddrs
	} else if cluster, addrs, ok := d.table.Members(name); ok {
		g.BrokerMemberGroup.Cluster, g.BrokerMemberGroup.BrokerAddrs = cluster, addrs
	} else {
		g.BrokerMemberGroup.Cluster, g.BrokerMemberGroup.BrokerAddrs = req.Fields.Text("clusterName"), map[int64]string{}
	}
	resp.Body, err = body.Marshal(g)
	return err
}

func (d *Door) registerTopic(_ *wire.Conn, req, _ *wire.Command) error {
	topic := req.Fields.Text("topic")
	if topic == "" {
		return nil // there is nothing to register
	}
	var r body.TopicRoute
	if err := body.Unmarshal(req.Body, &r); err != nil {
		return refusef(wire.SystemError, "topic route: %v", err)
	}
	d.table.RegisterTopic(topic, r.QueueDatas)
	return nil
}

// deleteTopic takes an external brokers' topic out of the routes. A topic of our own broker is routed as long as the broker has it.
func (d *Door) deleteTopic(_ *wire.Conn, req, _ *wire.Command) error {
	d.table.DeleteTopic(req.Fields.Text("topic"), req.Fields.Text("clusterName"))
	return nil
}

// ---- topic lists ----

func (d *Door) collect(cluster string, want func(sysFlag int32) bool) (*body.TopicList, error) {
	list := &body.TopicList{TopicList: []string{}}
	if cluster == "" || cluster == d.b.Options().ClusterName {
		err := d.b.Catalog().EachTopic(func(t *catalog.Topic) bool {
			if want(t.SysFlag) {
				list.TopicList = append(list.TopicList, t.Name)
			}
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	d.table.Topics(cluster, func(name string, flag int32) {
		if want(flag) {
			list.TopicList = append(list.TopicList, name)
		}
	})
	slices.Sort(list.TopicList)
	list.TopicList = slices.Compact(list.TopicList)
	return list, nil
}

func (d *Door) respondTopics(cluster string, want func(int32) bool, resp *wire.Command) error {
	list, err := d.collect(cluster, want)
	if err != nil {
		return err
	}
	resp.Body, err = body.Marshal(list)
	return err
}

func every(int32) bool { return true }

func (d *Door) topicList(_ *wire.Conn, _, resp *wire.Command) error {
	return d.respondTopics("", every, resp)
}

func (d *Door) topicsByCluster(_ *wire.Conn, req, resp *wire.Command) error {
	want := every
	cluster := req.Fields.Text("cluster")
	if cluster == "" { // which is that of no topic
		want = func(int32) bool { return false }
	}
	return d.respondTopics(cluster, want, resp)
}

func unitList(want func(int32) bool) func(*Door, *wire.Conn, *wire.Command, *wire.Command) error {
	return func(d *Door, _ *wire.Conn, _, resp *wire.Command) error { return d.respondTopics("", want, resp) }
}

// systemTopics lists the names of clusters and brokers, which are topics too, and one broker's address.
func (d *Door) systemTopics(_ *wire.Conn, _, resp *wire.Command) (err error) {
	c := d.clusters()
	list := body.TopicList{TopicList: []string{}, BrokerAddr: d.b.Options().Advertise.String()}
	for cluster, brokers := range c.ClusterAddrTable {
		list.TopicList = append(append(list.TopicList, cluster), brokers...)
	}
	slices.Sort(list.TopicList)
	resp.Body, err = body.Marshal(list)
	return err
}

// ---- KV configuration ----

// textOf shows a field in a remark, as the reference does one that is not there.
func textOf(req *wire.Command, key string) string { return cmp.Or(req.Fields.Text(key), "null") }

func kvFields(f wire.Fields) (namespace, key string) { return f.Text("namespace"), f.Text("key") }

func (d *Door) putKV(_ *wire.Conn, req, _ *wire.Command) error {
	namespace, key := kvFields(req.Fields)
	if namespace == "" || key == "" {
		return refusef(wire.SystemError, "namespace or key is null")
	}
	value, err := req.Fields.Need("value")
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return d.b.PutKV(ctx, namespace, key, value)
}

func (d *Door) getKV(_ *wire.Conn, req, resp *wire.Command) error {
	namespace, key := kvFields(req.Fields)
	value, ok, err := d.b.Catalog().KV(namespace, key)
	if err != nil {
		return err
	}
	if !ok {
		return refusef(wire.QueryNotFound, "No config item, Namespace: %s Key: %s", textOf(req, "namespace"), textOf(req, "key"))
	}
	resp.Fields.Add("value", value)
	return nil
}

func (d *Door) deleteKV(_ *wire.Conn, req, _ *wire.Command) error {
	namespace, key := kvFields(req.Fields)
	if namespace == "" || key == "" {
		return nil // there is nothing to delete
	}
	ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
	defer cancel()
	return d.b.DeleteKV(ctx, namespace, key)
}

func (d *Door) listKV(_ *wire.Conn, req, resp *wire.Command) error {
	namespace := req.Fields.Text("namespace")
	if err := d.kvTable(namespace, resp); err != nil {
		return err
	}
	if resp.Body == nil {
		return refusef(wire.QueryNotFound, "No config item, Namespace: %s", textOf(req, "namespace"))
	}
	return nil
}

// kvTable puts a namespace's pairs into the response when it has any.
func (d *Door) kvTable(namespace string, resp *wire.Command) error {
	pairs, err := d.b.Catalog().KVList(namespace)
	if err != nil || len(pairs) == 0 {
		return err
	}
	resp.Body, err = body.Marshal(body.KVTable{Table: pairs})
	return err
}

// ---- write permission and configuration ----

func (d *Door) setWrite(req *wire.Command, on bool) (int, error) {
	name := req.Fields.Text("brokerName")
	if name == d.name() {
		d.wiped.Store(!on)
		topics, _ := d.b.Catalog().Counts()
		return topics, nil
	}
	return max(0, d.table.SetWrite(name, on)), nil
}

func (d *Door) wipeWrite(_ *wire.Conn, req, resp *wire.Command) error {
	n, err := d.setWrite(req, false)
	resp.Fields.AddInt("wipeTopicCount", int64(n))
	return err
}

func (d *Door) addWrite(_ *wire.Conn, req, resp *wire.Command) error {
	n, err := d.setWrite(req, true)
	resp.Fields.AddInt("addTopicCount", int64(n))
	return err
}

// config serves code 319: who we are, and those of the reference's properties that have a meaning here.
func (d *Door) config(_ *wire.Conn, _, resp *wire.Command) error {
	o := d.b.Options()
	resp.Body = []byte(strings.Join([]string{
		"embedded=true", "clusterName=" + o.ClusterName, "brokerName=" + o.BrokerName,
		"clusterTest=false", "enableAllTopicList=true", "enableControllerInNamesrv=false", "enableTopicList=true", "orderMessageEnable=true",
		"returnOrderTopicConfigToBroker=true", fmt.Sprintf("scanNotActiveBrokerInterval=%d", expireEvery.Milliseconds()),
		"supportActingMaster=false", "",
	}, "\n"))
	return nil
}

func (d *Door) updateConfig(*wire.Conn, *wire.Command, *wire.Command) error {
	return refusef(wire.NoPermission, "the name server is part of the broker: set cairn.yaml and restart")
}
