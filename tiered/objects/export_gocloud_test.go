//go:build gocloud

package objects

import "gocloud.dev/blob"

// NewNative is the store in any bucket of the library.
func NewNative(bucket *blob.Bucket, o Options) Store { return newNative(bucket, o) }
