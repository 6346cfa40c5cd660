package objects

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/encrypt"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Options are what an address does not say.
type Options struct {
	// Encryption is what the service does with contents before it stores them: "" or "none" (as the bucket is set), "AES256" (a
	// key of the service), "aws:kms" (the bucket's key) or "aws:kms:KEY". A folder knows none.
	Encryption string
	// Stall ends a request in which no byte has moved for that long; 0 is 30 s.
	Stall time.Duration
	// Requests bounds how many are under way at once, connections with them; 0 is 32.
	Requests int
}

func (o Options) stall() time.Duration {
	if o.Stall <= 0 {
		return 30 * time.Second
	}
	return o.Stall
}

func (o Options) requests() int {
	if o.Requests <= 0 {
		return 32
	}
	return o.Requests
}

// serverSide is nil for none.
func (o Options) serverSide() (encrypt.ServerSide, error) {
	switch key, kms := strings.CutPrefix(o.Encryption, "aws:kms"); {
	case o.Encryption == "" || o.Encryption == "none":
		return nil, nil
	case o.Encryption == "AES256":
		return encrypt.NewSSE(), nil
	case kms && key == "":
		return encrypt.NewSSEKMS("", nil)
	case kms && len(key) > 1 && key[0] == ':':
		return encrypt.NewSSEKMS(key[1:], nil)
	}
	return nil, fmt.Errorf("encryption %q: write none, AES256, aws:kms or aws:kms:KEY", o.Encryption)
}

// usage is what to write instead of a wrong address.
const usage = "write file:///folder or s3://bucket/prefix?endpoint=host:port&region=name&path-style=true&insecure=true, where all behind the bucket may be left out"

// Open returns the store at an address:
//
//	file:///folder                  the folder, made when absent
//	s3://bucket                     Amazon's service, the bucket's whole name space
//	s3://bucket/prefix?parameters   names go below prefix/
//	gs://bucket/prefix              Google's service, in builds with the tag gocloud
//	azblob://container/prefix       Azure's, likewise
//
// The parameters of s3 are endpoint (host, or host:port; http:// in front is insecure=true), region (else AWS_REGION, else as the
// service says), path-style (true for most services that are not Amazon's) and insecure (http). Credentials are never part of
// an address: they come from the environment, ~/.aws/credentials or the machine's role.
//
// Open does not ask the service, so it succeeds while that is out of reach; missing credentials or a missing bucket show in the
// first call. CheckCreate says whether the store can be written to, and keeps what Create promises.
func Open(ctx context.Context, address string, o Options) (Store, error) {
	u, err := parse(address)
	if err != nil {
		return nil, fmt.Errorf("address of the object store: %w", err)
	}
	store, err := openURL(ctx, u, o)
	if err != nil {
		return nil, fmt.Errorf("object store %s: %w", address, err)
	}
	return store, nil
}

func parse(address string) (*url.URL, error) {
	u, err := url.Parse(address)
	switch {
	case err != nil:
		return nil, errors.New(usage)
	case u.User != nil:
		return nil, errors.New("credentials do not belong in it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
	}
	return u, nil
}

// CheckAddress says what is wrong with an address, or with options for it, without opening a store. Those of the native services are
// only looked at as a whole.
func CheckAddress(address string, o Options) error {
	u, err := parse(address)
	if err != nil {
		return err
	}
	switch u.Scheme {
	case "file":
		return checkFolderURL(u, o)
	case "s3":
		if _, err := o.serverSide(); err != nil {
			return err
		}
		_, err := parseS3(u)
		return err
	case "gs", "azblob":
		return nil
	}
	return fmt.Errorf("scheme %q: %s", u.Scheme, usage)
}

func openURL(ctx context.Context, u *url.URL, o Options) (Store, error) {
	switch u.Scheme {
	case "file":
		return openFolderURL(u, o)
	case "s3":
		at, err := parseS3(u)
		if err != nil {
			return nil, err
		}
		s, err := openS3(at, o)
		if err != nil {
			return nil, err // not a nil *s3 in a Store
		}
		return s, nil
	case "gs", "azblob":
		return openNative(ctx, u, o)
	}
	return nil, fmt.Errorf("scheme %q: %s", u.Scheme, usage)
}

func checkFolderURL(u *url.URL, o Options) error {
	switch {
	case u.Host != "":
		return fmt.Errorf("a folder's address has three slashes (file:///%s%s)", u.Host, u.Path)
	case !strings.HasPrefix(u.Path, "/") || u.RawQuery != "" || u.Fragment != "":
		return errors.New("write file:///folder, and nothing behind the folder")
	case o.Encryption != "" && o.Encryption != "none":
		return fmt.Errorf("encryption %s: a folder does not encrypt; encrypt its file system", o.Encryption)
	}
	return nil
}

func openFolderURL(u *url.URL, o Options) (Store, error) {
	if err := checkFolderURL(u, o); err != nil {
		return nil, err
	}
	return OpenFolder(u.Path)
}

// parseS3 reads what an s3:// address says, and completes it from the environment.
func parseS3(u *url.URL) (s3Address, error) {
	at := s3Address{bucket: u.Host, prefix: strings.Trim(u.Path, "/"), endpoint: "s3.amazonaws.com", region: regionOfEnvironment()}
	if err := s3utils.CheckValidBucketName(at.bucket); err != nil {
		return at, fmt.Errorf("bucket %q: %w: %s", at.bucket, err, usage)
	}
	if at.prefix != "" {
		if err := CheckName(at.prefix); err != nil {
			return at, fmt.Errorf("prefix: %w", err)
		}
		at.prefix += "/"
	}
	if u.Fragment != "" {
		return at, fmt.Errorf("#%s: %s", u.Fragment, usage)
	}
	parameters, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return at, fmt.Errorf("%w: %s", err, usage)
	}
	for name, values := range parameters {
		if len(values) != 1 {
			return at, fmt.Errorf("%s is there %d times", name, len(values))
		}
		if err := at.set(name, values[0]); err != nil {
			return at, err
		}
	}
	return at, nil
}

func (at *s3Address) set(name, value string) (err error) {
	switch name {
	case "endpoint":
		return at.setEndpoint(value)
	case "region":
		at.region = value
	case "path-style":
		at.pathStyle, err = strconv.ParseBool(value)
	case "insecure":
		insecure, parseErr := strconv.ParseBool(value)
		at.insecure, err = at.insecure || insecure, parseErr
	default:
		return fmt.Errorf("parameter %q: %s", name, usage)
	}
	if err != nil {
		return fmt.Errorf("%s=%s: write true or false", name, value)
	}
	return nil
}

// setEndpoint takes host, host:port, or one of them behind http:// or https://.
func (at *s3Address) setEndpoint(value string) error {
	host, plain := strings.CutPrefix(value, "http://")
	host = strings.TrimSuffix(strings.TrimPrefix(host, "https://"), "/")
	name, port, err := net.SplitHostPort(host)
	if err != nil {
		name, port = host, "443"
	}
	number, portErr := strconv.ParseUint(port, 10, 16)
	if name == "" || portErr != nil || number == 0 || slices.ContainsFunc([]byte(name), func(c byte) bool { return strings.IndexByte("/?#@ ", c) >= 0 }) {
		return fmt.Errorf("endpoint=%s: write host or host:port", value)
	}
	at.endpoint, at.insecure, at.condition = host, at.insecure || plain, conditionOf(host)
	return nil
}

func regionOfEnvironment() string {
	for _, variable := range []string{"AWS_REGION", "AWS_DEFAULT_REGION"} {
		if region := os.Getenv(variable); region != "" {
			return region
		}
	}
	return ""
}
