package catalog

import (
	"strings"
	"testing"

	"github.com/cairnmq/cairn/kvindex"
)

func TestRowsCanBePrinted(t *testing.T) {
	h := newHost(t)
	h.apply(t, h.c.PutTopic(Topic{Name: "orders", ReadQueues: 3}), h.c.PutGroup(DefaultGroup("g")),
		h.c.PutKV("ns", "k", "value"))
	g, err := h.c.Group("g")
	if err != nil {
		t.Fatal(err)
	}
	h.apply(t, h.c.DeleteGroup(g, false))
	var out strings.Builder
	if err := kvindex.Dump(&out, h.engine, kvindex.AllSpaces, 0); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"last_topic=1 last_group=1 topics=1 groups=0 version=3", `"readQueueNums":3`, "orders", "value",
		"id=1 created=1970-01-01T00:00:01", "deleted, offsets kept",
	} {
		if !strings.Contains(strings.ReplaceAll(out.String(), `\"`, `"`), want) {
			t.Errorf("no %s in\n%s", want, out.String())
		}
	}
	if got := printEntry(nil, []byte("x")) + printCounters(nil, nil); !strings.Contains(got, "0x78") {
		t.Errorf("damaged rows print as %q", got)
	}
}
