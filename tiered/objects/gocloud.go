//go:build gocloud

package objects

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"time"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/azureblob" // azblob://
	_ "gocloud.dev/blob/gcsblob"   // gs://
	"gocloud.dev/gcerrors"
	"google.golang.org/api/googleapi"
)

// slowest is the rate in bytes per second below which a content is given up.
const slowest = 256 << 10

// native is the store in a bucket of Google's service or a container of Azure's.
type native struct {
	bucket *blob.Bucket
	slots  chan struct{}
	stall  time.Duration
}

// openNative opens gs://bucket/prefix and azblob://container/prefix. Parameters are those of the library (gcsblob and azureblob in
// gocloud.dev/blob), and so are the places where credentials are found.
func openNative(ctx context.Context, u *url.URL, o Options) (Store, error) {
	if o.Encryption != "" && o.Encryption != "none" {
		return nil, fmt.Errorf("encryption %s: set it for the bucket: this service encrypts as the bucket says", o.Encryption)
	}
	at := *u
	at.Path, at.RawPath = "", ""
	prefix := strings.Trim(u.Path, "/")
	if prefix != "" {
		if err := CheckName(prefix); err != nil {
			return nil, fmt.Errorf("prefix: %w", err)
		}
	}
	bucket, err := blob.OpenBucket(ctx, at.String())
	if err != nil {
		return nil, err
	}
	if prefix != "" {
		bucket = blob.PrefixedBucket(bucket, prefix+"/")
	}
	return newNative(bucket, o), nil
}

func newNative(bucket *blob.Bucket, o Options) *native {
	return &native{bucket: bucket, slots: make(chan struct{}, o.requests()), stall: o.stall()}
}

func (s *native) Close() error { return s.bucket.Close() }

// begin waits for a place among the requests, and bounds one that moves so many bytes.
func (s *native) begin(ctx context.Context, size int64) (context.Context, func(), error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, s.stall+time.Duration(size/slowest)*time.Second)
	return ctx, func() {
		cancel()
		<-s.slots
	}, nil
}

func (s *native) ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error) {
	if err := checkRead(ctx, name, off); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	ctx, end, err := s.begin(ctx, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer end()
	r, err := s.bucket.NewRangeReader(ctx, name, off, int64(len(p)), nil)
	if err != nil {
		if a, statErr := s.bucket.Attributes(ctx, name); statErr == nil && off >= a.Size {
			return 0, io.EOF
		}
		return 0, s.failed("read", name, err)
	}
	defer r.Close()
	n, err := io.ReadFull(r, p)
	switch {
	case err == nil:
		return n, nil
	case (err == io.EOF || err == io.ErrUnexpectedEOF) && off+int64(n) >= r.Size():
		return n, io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, s.failed("read", name, err)
}

func (s *native) Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error {
	return s.write(ctx, "put", name, content, size, false)
}

func (s *native) Create(ctx context.Context, name string, content []byte) error {
	if err := checkCreate(name, content); err != nil {
		return err
	}
	return s.write(ctx, "create", name, bytes.NewReader(content), int64(len(content)), true)
}

func (s *native) write(ctx context.Context, verb, name string, content io.ReadSeeker, size int64, create bool) error {
	if err := CheckName(name); err != nil {
		return err
	}
	exact := &exactReader{ReadSeeker: content, size: size}
	if err := exact.check(); err != nil {
		return fmt.Errorf("%s %s: %w", verb, name, err)
	}
	ctx, end, err := s.begin(ctx, size)
	if err != nil {
		return err
	}
	defer end()
	// a writer whose context is over before it is closed writes nothing
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := s.bucket.NewWriter(ctx, name, &blob.WriterOptions{ContentType: "application/octet-stream", IfNotExist: create, MaxConcurrency: 1})
	if err != nil {
		return s.failedWrite(verb, name, err)
	}
	if _, err := io.Copy(w, exact); err != nil {
		cancel()
		_ = w.Close()
		return s.failedWrite(verb, name, err)
	}
	if err := w.Close(); err != nil {
		if create && gcerrors.Code(err) == gcerrors.FailedPrecondition {
			return fmt.Errorf("%s %s: %w", verb, name, ErrExists)
		}
		return s.failedWrite(verb, name, err)
	}
	return nil
}

func (s *native) Stat(ctx context.Context, name string) (Info, error) {
	if err := checkRead(ctx, name, 0); err != nil {
		return Info{}, err
	}
	ctx, end, err := s.begin(ctx, 0)
	if err != nil {
		return Info{}, err
	}
	defer end()
	a, err := s.bucket.Attributes(ctx, name)
	if err != nil {
		return Info{}, s.failed("stat", name, err)
	}
	return Info{Name: name, Size: a.Size, Modified: a.ModTime.Truncate(time.Second)}, nil
}

func (s *native) List(ctx context.Context, prefix, after string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		objects := s.bucket.List(&blob.ListOptions{Prefix: prefix})
		for {
			object, err := objects.Next(ctx)
			if err == io.EOF {
				return
			}
			if err == nil {
				err = ctx.Err()
			}
			if err != nil {
				yield(Info{}, s.failed("list", prefix, err))
				return
			}
			if object.Key <= after || CheckName(object.Key) != nil {
				continue
			}
			if !yield(Info{Name: object.Key, Size: object.Size, Modified: object.ModTime.Truncate(time.Second)}, nil) {
				return
			}
		}
	}
}

func (s *native) Delete(ctx context.Context, name string) error {
	if err := checkRead(ctx, name, 0); err != nil {
		return err
	}
	ctx, end, err := s.begin(ctx, 0)
	if err != nil {
		return err
	}
	defer end()
	if err := s.bucket.Delete(ctx, name); err != nil {
		if err = s.failed("delete", name, err); !errors.Is(err, ErrNotFound) {
			return err
		}
	}
	return nil
}

// Sweep has nothing to do: both services remove uploads that did not end, within a week.
func (s *native) Sweep(ctx context.Context, _ time.Time) (int, error) { return 0, ctx.Err() }

// failed says which of the errors that callers decide on the service's answer is, if any.
func (s *native) failed(verb, name string, err error) error {
	kind := s.kindOf(err)
	switch kind {
	case nil:
		return fmt.Errorf("%s %s: %w", verb, name, err)
	case ErrNotFound:
		return fmt.Errorf("%s %s: %w", verb, name, kind)
	}
	return fmt.Errorf("%s %s: %w: %w", verb, name, kind, err)
}

// failedWrite is failed for calls that need no object: what is not found is the bucket.
func (s *native) failedWrite(verb, name string, err error) error {
	if s.kindOf(err) == ErrNotFound {
		return fmt.Errorf("%s %s: %w: %w", verb, name, ErrRefused, err)
	}
	return s.failed(verb, name, err)
}

// kindOf sorts an error; nil is a temporary one.
func (s *native) kindOf(err error) error {
	// the library calls it "not found" when Google refuses
	var google *googleapi.Error
	if s.bucket.ErrorAs(err, &google) && (google.Code == http.StatusForbidden || google.Code == http.StatusUnauthorized) {
		return ErrRefused
	}
	switch gcerrors.Code(err) {
	case gcerrors.NotFound:
		return ErrNotFound
	case gcerrors.PermissionDenied, gcerrors.InvalidArgument, gcerrors.Unimplemented:
		return ErrRefused
	}
	return nil
}
