package message

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
)

func TestClearLeavesPlaceAndTimes(t *testing.T) {
	for _, topic := range []string{"t", strings.Repeat("t", 200)} {
		for _, host := range []string{"10.0.0.1:5000", "[2001:db8::1]:5000"} {
			m := Message{
				Topic: topic, QueueID: 3, Body: []byte("secret body"), Properties: EncodeProperties(map[string]string{"KEYS": "secret key"}),
				BornTimestamp: 5, StoreTimestamp: 7, PhysicalOffset: 4096, BornHost: netip.MustParseAddrPort(host),
				StoreHost: netip.MustParseAddrPort("10.0.0.2:10911"),
			}
			rec, err := m.AppendEncode(nil)
			if err != nil {
				t.Fatal(err)
			}
			size := len(rec)
			if Cleared(rec) {
				t.Fatal("it is said to be cleared before it is")
			}
			Clear(rec)
			if !Cleared(rec) || len(rec) != size || bytes.Contains(rec, []byte("secret")) || bytes.Contains(rec, []byte("tttt")) {
				t.Errorf("%q", rec)
			}
			if QueueIDOf(rec) != 3 || PhysicalOffsetOf(rec) != 4096 || StoreTimestampOf(rec) != 7 {
				t.Errorf("queue %d at %d, stored at %d", QueueIDOf(rec), PhysicalOffsetOf(rec), StoreTimestampOf(rec))
			}
			if len(PropertiesOf(rec)) != 0 || len(TopicOf(rec)) != 0 || len(bytes.Trim(BodyOf(rec), "\x00")) != 0 {
				t.Errorf("properties %q, topic %q, body %q", PropertiesOf(rec), TopicOf(rec), BodyOf(rec))
			}
			if _, _, err := Decode(rec); err == nil {
				t.Error("it is decoded as a message")
			}
			again := bytes.Clone(rec)
			if Clear(again); !bytes.Equal(again, rec) {
				t.Error("clearing once more changes it")
			}
		}
	}
}
