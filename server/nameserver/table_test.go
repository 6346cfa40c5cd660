package nameserver

import (
	"reflect"
	"testing"
	"time"

	"github.com/cairnmq/cairn/internal/body"
)

func topicTable(counter int64, names ...string) *body.TopicConfigTable {
	t := &body.TopicConfigTable{DataVersion: body.DataVersion{Counter: counter}, TopicConfigTable: map[string]body.TopicConfig{}}
	for _, n := range names {
		t.TopicConfigTable[n] = body.TopicConfig{TopicName: n, ReadQueueNums: 4, WriteQueueNums: 4, Perm: 6}
	}
	return t
}

func routeOf(t *Table, topic string) body.TopicRoute {
	var r body.TopicRoute
	t.Route(topic, &r)
	return r
}

func TestRegistrationAndExpiry(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	table := NewTable()
	table.Register(Broker{Cluster: "c", Name: "b", Addr: "1:1", Timeout: 10 * time.Second, HAAddr: "1:2"}, topicTable(1, "x", "y"), "conn1", now)
	m := table.Register(Broker{Cluster: "c", Name: "b", Addr: "2:1", ID: 1}, topicTable(1, "x"), "conn2", now)
	if m != (Master{Addr: "1:1", HAAddr: "1:2"}) {
		t.Fatalf("the slave is told of %+v", m)
	}
	if r := routeOf(table, "y"); len(r.QueueDatas) != 1 || !reflect.DeepEqual(r.BrokerDatas[0].BrokerAddrs, map[int64]string{0: "1:1", 1: "2:1"}) {
		t.Fatalf("route of y: %+v", r)
	}
	table.Register(Broker{Cluster: "c", Name: "b", Addr: "1:1", Timeout: 10 * time.Second}, topicTable(2, "x"), "conn1", now)
	if r := routeOf(table, "y"); len(r.QueueDatas) != 0 {
		t.Fatal("a topic that the broker no longer has is still routed")
	}
	if v, ok := table.Version("b", "1:1", now.Add(8*time.Second)); !ok || v.Counter != 2 {
		t.Fatalf("version %+v %v", v, ok)
	}
	if n := table.Expire(now.Add(12 * time.Second)); n != 0 {
		t.Fatal("a version query is a sign of life")
	}
	if n := table.Expire(now.Add(19 * time.Second)); n != 1 {
		t.Fatalf("%d brokers expired", n)
	}
	if r := routeOf(table, "x"); len(r.BrokerDatas) != 1 || r.BrokerDatas[0].BrokerAddrs[1] != "2:1" {
		t.Fatalf("the slave went with the master: %+v", r)
	}
	if n := table.CloseConn("conn2"); n != 1 {
		t.Fatalf("%d brokers went with the connection", n)
	}
	if r := routeOf(table, "x"); len(r.QueueDatas) != 0 {
		t.Fatal("a topic outlived its last broker")
	}
}

func TestActingMaster(t *testing.T) {
	table := NewTable()
	table.Register(Broker{Cluster: "c", Name: "b", Addr: "2:1", ID: 2, ActingMaster: true}, topicTable(1, "x"), nil, time.Now())
	r := routeOf(table, "x")
	if r.BrokerDatas[0].BrokerAddrs[0] != "2:1" || r.QueueDatas[0].Perm != 4 {
		t.Fatalf("%+v", r)
	}
}

func TestWritePermission(t *testing.T) {
	table := NewTable()
	table.Register(Broker{Cluster: "c", Name: "b", Addr: "1:1"}, topicTable(1, "x", "y"), nil, time.Now())
	if table.SetWrite("nobody", false) != -1 || table.SetWrite("b", false) != 2 || routeOf(table, "x").QueueDatas[0].Perm != 4 {
		t.Fatal("wiping")
	}
	if table.SetWrite("b", true) != 2 || routeOf(table, "y").QueueDatas[0].Perm != 6 {
		t.Fatal("adding back")
	}
}

func TestClusterScopes(t *testing.T) {
	table := NewTable()
	table.Register(Broker{Cluster: "c1", Name: "a", Addr: "1:1"}, topicTable(1, "x", "only1"), nil, time.Now())
	table.Register(Broker{Cluster: "c2", Name: "b", Addr: "2:1"}, topicTable(1, "x"), nil, time.Now())
	list := func(cluster string) (out []string) {
		table.Topics(cluster, func(n string, _ int32) { out = append(out, n) })
		return out
	}
	if got := list("c2"); !reflect.DeepEqual(got, []string{"x"}) {
		t.Fatal(got)
	}
	table.DeleteTopic("x", "c2")
	if got := list(""); !reflect.DeepEqual(got, []string{"only1", "x"}) {
		t.Fatal(got)
	}
	info := body.ClusterInfo{BrokerAddrTable: map[string]body.BrokerData{}, ClusterAddrTable: map[string][]string{}}
	table.Clusters(&info)
	if !reflect.DeepEqual(info.ClusterAddrTable, map[string][]string{"c1": {"a"}, "c2": {"b"}}) {
		t.Fatalf("%+v", info)
	}
	table.Unregister("a", 0, "1:1")
	if got := list("c1"); got != nil {
		t.Fatal(got)
	}
}
