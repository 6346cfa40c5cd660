package objects

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAddresses(t *testing.T) {
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "eu-central-1")
	for address, want := range map[string]s3Address{
		"s3://bucket":               {bucket: "bucket", endpoint: "s3.amazonaws.com", region: "eu-central-1"},
		"s3://bucket/":              {bucket: "bucket", endpoint: "s3.amazonaws.com", region: "eu-central-1"},
		"s3://bucket/a/b/?region=x": {bucket: "bucket", prefix: "a/b/", endpoint: "s3.amazonaws.com", region: "x"},
		"s3://bucket/a?endpoint=minio:9000&path-style=true&insecure=true&region=": {bucket: "bucket", prefix: "a/", endpoint: "minio:9000", pathStyle: true, insecure: true},
		"s3://bucket?endpoint=http://10.0.0.1:9000/":                              {bucket: "bucket", endpoint: "10.0.0.1:9000", insecure: true, region: "eu-central-1"},
		"s3://bucket?endpoint=https%3A%2F%2Fs3.example.org&insecure=false":        {bucket: "bucket", endpoint: "s3.example.org", region: "eu-central-1"},
		"s3://bucket?endpoint=oss-cn-hangzhou.aliyuncs.com": {bucket: "bucket", endpoint: "oss-cn-hangzhou.aliyuncs.com", region: "eu-central-1",
			condition: condition{"X-Oss-Forbid-Overwrite", "true"}},
		"s3://bucket?endpoint=cos.ap-guangzhou.myqcloud.com:443": {bucket: "bucket", endpoint: "cos.ap-guangzhou.myqcloud.com:443", region: "eu-central-1",
			condition: condition{"X-Cos-Forbid-Overwrite", "true"}},
	} {
		u, err := parse(address)
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		got, err := parseS3(u)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", address, got, err)
		}
		s, err := Open(t.Context(), address, Options{})
		if err != nil {
			t.Errorf("open %s: %v", address, err)
			continue
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A wrong address gets an error that says what to write.
func TestWrongAddresses(t *testing.T) {
	for address, says := range map[string]string{
		"":                                   "write file:///folder",
		"/var/lib/tier":                      "write file:///folder",
		"gopher://x":                         "write file:///folder",
		"gs://bucket/.a":                     " ", // tagged builds know the scheme, others say so
		"file://var/lib/tier":                "file:///var/lib/tier",
		"file:relative":                      "file:///folder",
		"file:///tmp/x?sync=no":              "nothing behind the folder",
		"s3://":                              "s3://bucket/prefix",
		"s3://a":                             "bucket",
		"s3:///prefix":                       "bucket",
		"s3://bucket/a//b":                   "prefix",
		"s3://bucket/.a":                     "prefix",
		"s3://bucket#x":                      "s3://bucket/prefix",
		"s3://bucket?endpont=x":              `"endpont"`,
		"s3://bucket?region=a&region=b":      "2 times",
		"s3://bucket?path-style=yes":         "true or false",
		"s3://bucket?insecure=maybe":         "true or false",
		"s3://bucket?endpoint=":              "host:port",
		"s3://bucket?endpoint=http://a/b":    "host:port",
		"s3://bucket?endpoint=a:port":        "host:port",
		"s3://bucket?endpoint=a:0":           "host:port",
		"s3://bucket?endpoint=ftp://a":       "host:port",
		"s3://bucket?region=%zz":             "s3://bucket/prefix",
		"s3://key:secret@bucket":             "AWS_ACCESS_KEY_ID",
		"s3://bucket/prefix?endpoint=a%20b":  "host:port",
		"s3://bucket/prefix?endpoint=u@host": "host:port",
	} {
		s, err := Open(t.Context(), address, Options{})
		if err == nil {
			_ = s.Close()
			t.Errorf("%q was opened", address)
			continue
		}
		if !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v; does not say %q", address, err, says)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the error tells the secret: %v", address, err)
		}
	}
}

func TestEncryption(t *testing.T) {
	for text, headers := range map[string]string{"": "", "none": "", "AES256": "AES256", "aws:kms": "aws:kms", "aws:kms:arn:aws:kms:x": "aws:kms arn:aws:kms:x"} {
		sse, err := Options{Encryption: text}.serverSide()
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		h := map[string][]string{}
		if sse != nil {
			sse.Marshal(h)
		}
		got := ""
		for _, name := range []string{"X-Amz-Server-Side-Encryption", "X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"} {
			if v := h[name]; len(v) > 0 {
				got = strings.TrimSpace(got + " " + v[0])
			}
		}
		if got != headers {
			t.Errorf("%q sets %q, not %q", text, got, headers)
		}
	}
	for _, text := range []string{"aes256", "kms", "aws:kms:", "aws:kmsx"} {
		if _, err := (Options{Encryption: text}).serverSide(); err == nil {
			t.Errorf("%q is an encryption", text)
		}
	}
	if _, err := Open(t.Context(), "file://"+t.TempDir(), Options{Encryption: "AES256"}); err == nil {
		t.Error("a folder encrypts")
	}
}

// Leftovers go when they are old, and what is being written stays.
func TestFolderSweepsAtOpen(t *testing.T) {
	root := filepath.Join(t.TempDir(), "not/there/yet")
	s, err := OpenFolder(root)
	if err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{"old": leftover + time.Minute, "young": leftover - time.Minute} {
		file := filepath.Join(root, unfinished, name)
		if err := os.WriteFile(file, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = OpenFolder(root); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	entries, err := os.ReadDir(filepath.Join(root, unfinished))
	if err != nil || len(entries) != 1 || entries[0].Name() != "young" {
		t.Errorf("left: %v, %v", entries, err)
	}
	for range s.List(t.Context(), "", "") {
		t.Error("a leftover is listed")
	}
	if n, err := s.Sweep(t.Context(), time.Now()); n != 1 || err != nil {
		t.Errorf("a sweep of all: %d, %v", n, err)
	}
}

// No link leads out of the folder.
func TestFolderHasNoWayOut(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(root, "way")); err != nil {
		t.Fatal(err)
	}
	s, err := OpenFolder(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if n, err := s.ReadAt(t.Context(), "way/secret", make([]byte, 1), 0); err == nil {
		t.Errorf("read %d bytes from outside", n)
	}
	if err := s.Put(t.Context(), "way/new", strings.NewReader("x"), 1); err == nil {
		t.Error("wrote outside")
	}
	if _, err := os.Stat(filepath.Join(outside, "new")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file outside: %v", err)
	}
}

func TestFolderRefusals(t *testing.T) {
	root := t.TempDir()
	s, err := OpenFolder(root)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := os.RemoveAll(root); err != nil {
		t.Fatal(err)
	}
	if err := s.Create(t.Context(), "manifest/1", nil); !errors.Is(err, ErrRefused) {
		t.Errorf("create in a folder that is gone: %v", err)
	}
	if _, err := s.Stat(t.Context(), "manifest/1"); !errors.Is(err, ErrNotFound) {
		t.Errorf("stat in a folder that is gone: %v", err)
	}
	if _, err := OpenFolder("/dev/null/folder"); !errors.Is(err, ErrRefused) {
		t.Errorf("a folder within a file: %v", err)
	}
}
