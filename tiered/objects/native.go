//go:build !gocloud

package objects

import (
	"context"
	"errors"
	"net/url"
)

// openNative opens the stores that are in builds with the tag gocloud.
func openNative(context.Context, *url.URL, Options) (Store, error) {
	return nil, errors.New("this build has no Google and Azure stores: build with -tags gocloud, or use the service's S3 interface (s3://bucket?endpoint=…)")
}
