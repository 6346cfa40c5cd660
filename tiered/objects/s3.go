package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

const (
	// partSize in bytes: an object that is longer goes up in parts of this length, one after the other, each held in memory.
	partSize = 16 << 20
	// attempts bounds how often one request is sent. The second is for what a connection that was idle brings with it, and for a
	// bucket that turns out to be in another region; the loops above try again in their own time.
	attempts = 2
)

// s3 is the store in a bucket of an S3 service, below a prefix.
type s3 struct {
	client    *minio.Core
	transport *http.Transport
	bucket    string
	prefix    string // empty, or ends with a slash
	sse       encrypt.ServerSide
	condition condition // of Create
}

// s3Address is where a bucket is, as an s3:// address says.
type s3Address struct {
	bucket, prefix string
	endpoint       string // host, or host:port
	region         string // empty: as the service says
	pathStyle      bool   // the bucket is in the path, not in the host's name
	insecure       bool   // http
	condition      condition
}

// openS3 asks the service nothing: a store whose service is out of reach opens, too.
func openS3(at s3Address, o Options) (*s3, error) {
	sse, err := o.serverSide()
	if err != nil {
		return nil, err
	}
	transport, err := minio.DefaultTransport(!at.insecure)
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost = o.requests()
	transport.ResponseHeaderTimeout = 0 // patience counts from the last byte that moved
	lookup := minio.BucketLookupAuto
	if at.pathStyle {
		lookup = minio.BucketLookupPath
	}
	client, err := minio.NewCore(at.endpoint, &minio.Options{
		Creds: findCredentials(), Secure: !at.insecure, Region: at.region, BucketLookup: lookup, MaxRetries: attempts,
		Transport: conditional{newPatience(transport, o.requests(), o.stall())},
	})
	if err != nil {
		return nil, err
	}
	return &s3{client: client, transport: transport, bucket: at.bucket, prefix: at.prefix, sse: sse, condition: at.condition}, nil
}

func (s *s3) String() string { return "s3://" + s.bucket + "/" + s.prefix }

func (s *s3) Close() error {
	s.transport.CloseIdleConnections()
	return nil
}

// span is the part of an object that an answer brings, from its Content-Range.
type span struct{ first, last, total int64 }

func (s *s3) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := checkRead(ctx, name, off); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	var opts minio.GetObjectOptions
	if err := opts.SetRange(off, off+int64(len(p))-1); err != nil {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	body, info, header, err := s.client.GetObject(ctx, s.bucket, s.prefix+name, opts)
	if err != nil {
		if minio.ToErrorResponse(err).StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return 0, io.EOF
		}
		return 0, s3Error("read", name, err)
	}
	defer body.Close()
	got, err := spanOf(header.Get("Content-Range"), info.Size)
	if err != nil || got.first != off {
		return 0, fmt.Errorf("read %s from %d: the answer has another range: %q", name, off, header.Get("Content-Range"))
	}
	n, err := io.ReadFull(body, p[:min(int64(len(p)), got.last+1-off)])
	switch {
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	case err == nil && n < len(p) && got.last+1 == got.total:
		return n, io.EOF
	case err == nil && n < len(p):
		err = fmt.Errorf("the answer ends at %d of %d", got.last, got.total)
	case err == nil:
		return n, nil
	}
	return n, fmt.Errorf("read %s: %w", name, err)
}

// spanOf reads a Content-Range; without one the answer is the whole object.
func spanOf(contentRange string, size int64) (span, error) {
	if contentRange == "" {
		return span{0, size - 1, size}, nil
	}
	var s span
	if _, err := fmt.Sscanf(contentRange, "bytes %d-%d/%d", &s.first, &s.last, &s.total); err != nil {
		return span{}, err
	}
	if s.first < 0 || s.last < s.first || s.total <= s.last {
		return span{}, errors.New("not a range")
	}
	return s, nil
}

// Put of more than one part that fails ends the upload at the service, which may take a minute after the context is over.
func (s *s3) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := content.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	// the library takes no more than size bytes, and would close a file
	exact := &exactReader{ReadSeeker: content, size: size}
	if err := exact.check(); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	_, err := s.client.Client.PutObject(ctx, s.bucket, s.prefix+name, exact, size, s.putOptions(size))
	return s3Error("put", name, err)
}

// putOptions has the service check what arrives: each request carries the MD5 sum of its content, and the signature covers
// that. Google's service takes no parts from this library, so a large object goes there in one request, with no sum: that would
// need all of it in memory.
func (s *s3) putOptions(size int64) minio.PutObjectOptions {
	return minio.PutObjectOptions{
		ServerSideEncryption: s.sse, PartSize: partSize, DisableContentSha256: true,
		SendContentMd5: size <= partSize || !s3utils.IsGoogleEndpoint(*s.client.EndpointURL()),
	}
}

func (s *s3) Create(ctx context.Context, name string, content []byte) error {
	if err := checkCreate(name, content); err != nil {
		return err
	}
	opts := s.putOptions(int64(len(content)))
	opts.DisableMultipart = true
	if s.condition == (condition{}) {
		opts.SetMatchETagExcept("*")
	} else {
		ctx = s.condition.within(ctx)
	}
	_, err := s.client.Client.PutObject(ctx, s.bucket, s.prefix+name, bytes.NewReader(content), int64(len(content)), opts)
	return s3Error("create", name, err)
}

func (s *s3) Stat(ctx context.Context, name string) (Info, error) {
	if err := checkRead(ctx, name, 0); err != nil {
		return Info{}, err
	}
	info, err := s.client.StatObject(ctx, s.bucket, s.prefix+name, minio.StatObjectOptions{})
	if err != nil {
		return Info{}, s3Error("stat", name, err)
	}
	return Info{Name: name, Size: info.Size, Modified: info.LastModified.Truncate(time.Second)}, nil
}

func (s *s3) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		opts := minio.ListObjectsOptions{Prefix: s.prefix + prefix, Recursive: true}
		if after != "" {
			opts.StartAfter = s.prefix + after
		}
		for object := range s.client.ListObjectsIter(ctx, s.bucket, opts) {
			if object.Err != nil {
				yield(Info{}, s3Error("list", prefix, object.Err))
				return
			}
			name := strings.TrimPrefix(object.Key, s.prefix)
			if name <= after || CheckName(name) != nil { // a folder's own entry, or somebody else's object
				continue
			}
			if !yield(Info{Name: name, Size: object.Size, Modified: object.LastModified.Truncate(time.Second)}, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Info{}, err)
		}
	}
}

func (s *s3) Delete(ctx context.Context, name string) error {
	if err := checkRead(ctx, name, 0); err != nil {
		return err
	}
	err := s3Error("delete", name, s.client.RemoveObject(ctx, s.bucket, s.prefix+name, minio.RemoveObjectOptions{}))
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Sweep ends the uploads in parts that began before the time.
func (s *s3) Sweep(ctx context.Context, before time.Time) (int, error) {
	removed, key, upload := 0, "", ""
	for {
		page, err := s.client.ListMultipartUploads(ctx, s.bucket, s.prefix, key, upload, "", 1000)
		if err != nil {
			return removed, s3Error("sweep", s.prefix, err)
		}
		for _, u := range page.Uploads {
			if !strings.HasPrefix(u.Key, s.prefix) || !u.Initiated.Before(before) {
				continue
			}
			err := s3Error("sweep", u.Key, s.client.AbortMultipartUpload(ctx, s.bucket, u.Key, u.UploadID))
			if err != nil && !errors.Is(err, ErrNotFound) {
				return removed, err
			}
			removed++
		}
		if !page.IsTruncated {
			return removed, nil
		}
		key, upload = page.NextKeyMarker, page.NextUploadIDMarker
	}
}

// exactReader hides what else the content can do, and fails when there is more of it than was said.
type exactReader struct {
	io.ReadSeeker
	size int64
}

func (r *exactReader) check() error {
	end, err := r.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	if end != r.size {
		return sizeError(end, r.size)
	}
	_, err = r.Seek(0, io.SeekStart)
	return err
}
