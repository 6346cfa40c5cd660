//go:build gocloud

package objects_test

import (
	"testing"

	"github.com/cairnmq/cairn/tiered/objects"
	"gocloud.dev/blob"
	"gocloud.dev/blob/memblob"
)

// The library's bucket in memory stands for the services, which the library's own tests run against.
func TestNative(t *testing.T) {
	conform(t, func(t *testing.T) objects.Store {
		s := objects.NewNative(blob.PrefixedBucket(memblob.OpenBucket(nil), "cluster/broker/"), objects.Options{})
		t.Cleanup(func() { _ = s.Close() })
		return s
	})
}
