package catalog

import "testing"

func TestVirtualQueuesAttribute(t *testing.T) {
	for change, want := range map[string]bool{"": false, "+queues.virtual=true": true, "+queues.virtual=false": false} {
		attrs, err := ApplyGroupAttributes(nil, change, false)
		if g := (Group{Attributes: attrs}); err != nil || g.VirtualQueues() != want {
			t.Errorf("%q: %t, %v", change, g.VirtualQueues(), err)
		}
	}
	for _, change := range []string{"+queues.virtual=yes", "+queues.virtual", "-queues.virtual"} {
		if _, err := ApplyGroupAttributes(nil, change, false); err == nil {
			t.Errorf("%s is taken", change)
		}
	}
}
