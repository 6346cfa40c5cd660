package system

import (
	"net"
	"strconv"
	"testing"

	"github.com/cairnmq/cairn/internal/wire"
)

// Clients with vipChannelEnabled, as RocketMQ Dashboard's is by default, connect two below the port that they are told.
func TestVIPChannel(t *testing.T) {
	cairnOnly(t, "it is about the ports that Cairn opens")
	c := newCairn(t)
	var vip string
	for vip == "" { // two ports that are free
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		below := net.JoinHostPort("127.0.0.1", strconv.Itoa(ln.Addr().(*net.TCPAddr).Port-2))
		if other, err := net.Listen("tcp", below); err == nil {
			_ = other.Close()
			c.fixed.Remoting, vip = ln.Addr().String(), below
		}
		_ = ln.Close()
	}
	c.start()
	for _, addr := range []string{c.fixed.Remoting, vip} {
		conn, err := wire.Dial(t.Context(), addr, wire.ClientOptions{})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := conn.Invoke(t.Context(), wire.NewRequest(wire.GetBrokerRuntimeInfo))
		if err != nil || resp.Code != wire.Success || len(resp.Body) == 0 {
			t.Errorf("%s: %+v, %v", addr, resp, err)
		}
		conn.Close()
	}
}
