package objects

import (
	"context"
	"net/http"
	"strings"
)

// condition is the header with which a service is asked to write only what is not there. The empty one is the standard's,
// If-None-Match: *, which Amazon, MinIO, Ceph and most others honour.
type condition struct{ header, value string }

// ownConditions are those of services that answer the standard's with NotImplemented, by the end of their hosts' names. Both answer
// 409 FileAlreadyExists, and ignore the header in buckets that keep versions.
var ownConditions = map[string]condition{
	".aliyuncs.com": {"X-Oss-Forbid-Overwrite", "true"},
	".myqcloud.com": {"X-Cos-Forbid-Overwrite", "true"},
}

func conditionOf(endpoint string) condition {
	host, _, _ := strings.Cut(endpoint, ":")
	for suffix, c := range ownConditions {
		if strings.HasSuffix(host, suffix) {
			return c
		}
	}
	return condition{}
}

type conditionKey struct{}

// within marks the request of the context as one to which the condition belongs: the library knows the standard's only.
func (c condition) within(ctx context.Context) context.Context {
	return context.WithValue(ctx, conditionKey{}, c)
}

// conditional sets the header of the request's condition. It comes behind the signature, which need not cover it.
type conditional struct{ next http.RoundTripper }

func (t conditional) RoundTrip(req *http.Request) (*http.Response, error) {
	if c, ok := req.Context().Value(conditionKey{}).(condition); ok {
		req = req.Clone(req.Context())
		req.Header.Set(c.header, c.value)
	}
	return t.next.RoundTrip(req)
}
