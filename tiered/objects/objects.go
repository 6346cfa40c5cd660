// Package objects keeps immutable bytes under names, in a folder or in a bucket of an S3 service.
//
// Read Store first: it says what every store promises and what none does. Then folder.go and s3.go, which keep the promise
// each in its own way; open.go makes one of them from an address.
package objects

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"
)

// The errors that a caller decides on, found with errors.Is; the text has what the store said. Every other error is
// temporary: the same call may succeed later, and whether this one was carried out is unknown.
var (
	// ErrNotFound: there is no object of that name.
	ErrNotFound = errors.New("no such object")
	// ErrExists: Create found an object of that name.
	ErrExists = errors.New("object exists already")
	// ErrRefused: the store will say no until somebody changes something: credentials, a missing bucket, a quota or a full disk.
	ErrRefused = errors.New("store refuses")
	// ErrName: the name is none that an object can have; see CheckName.
	ErrName = errors.New("bad object name")
)

// Store holds objects under names. Implementations are safe for concurrent use, and try a request hardly more than once: who
// owns the loop above decides when to try again. Calls end with an error when their context does.
//
// What callers may rely on:
//   - An object appears whole or not at all, also after a power cut and when the writer died in the middle.
//   - Read after write: when Put, Create or Delete has returned nil, every later ReadAt and Stat sees what it did, from any
//     process.
//   - Of any number of Creates of one name, from any number of processes, at most one makes the object, and none replaces one.
//
// What they may not:
//   - Lists may be stale: they may lack what was just made and name what was just deleted.
//   - A call that failed with a temporary error may have been carried out, or may be soon. A request whose answer was lost is
//     sent once more, so a Create that returns ErrExists may have found the caller's own object. That is the caller's to
//     resolve: who must know reads the object back, and finds in it who wrote it.
//   - What was written is what is read only as far as the service and the way to it are sound: contents carry checksums of
//     their own.
//
// No object's name may be a folder of another's name: beside a/b there is no a.
type Store interface {
	// ReadAt fills p with the object's bytes from off on and returns how many it got. It is io.ReaderAt: fewer bytes than len(p)
	// come with an error, which is io.EOF when the object ends there.
	ReadAt(ctx context.Context, name string, p []byte, off int64) (int, error)
	// Put writes the object, replacing one of the same name. The content is read from its start on, once more when it must be
	// sent again; one that has not exactly size bytes is an error.
	Put(ctx context.Context, name string, content io.ReadSeeker, size int64) error
	// Create writes the object if there is none of that name, and returns ErrExists otherwise. It is meant for small objects,
	// of up to MaxCreate bytes. On a temporary error, and on ErrExists after one, the object may be the caller's own.
	Create(ctx context.Context, name string, content []byte) error
	// Stat returns what is known of the object without its content.
	Stat(ctx context.Context, name string) (Info, error)
	// List goes over the objects whose names begin with prefix and are greater than after, in the byte order of their names.
	// Both may be empty. An error ends it.
	List(ctx context.Context, prefix, after string) iter.Seq2[Info, error]
	// Delete removes the object; that there is none is no error.
	Delete(ctx context.Context, name string) error
	// Sweep removes what Puts and Creates that never ended have left, of those that began before the time, and returns how many
	// that were. They are no objects, but take room. It ends those that are still under way, so the time lies well back.
	Sweep(ctx context.Context, before time.Time) (int, error)
	// Close gives back connections and files. No call may be under way or follow.
	Close() error
}

// Info is what a store knows of an object.
type Info struct {
	Name string
	// Size is the length of the content in bytes.
	Size int64
	// Modified is when the object was written by the store's own clock, to the second.
	Modified time.Time
}

const (
	// MaxCreate is the length in bytes of the longest content that Create takes.
	MaxCreate = 64 << 20
	// MaxName is the length in bytes of the longest name, prefixes of the store's address included.
	MaxName = 800
	// maxElement bounds what is between two slashes: file names end at 255 bytes.
	maxElement = 200
)

// CheckName returns an error (ErrName) unless the name can be an object's in every store: elements of letters, digits and
// !#$%&'()+,-.:;=@_~ that are separated by single slashes, and none of which begins with a dot.
func CheckName(name string) error {
	if name == "" || len(name) > MaxName {
		return fmt.Errorf("%w: %.60q has %d bytes, not 1 to %d", ErrName, name, len(name), MaxName)
	}
	for element := range strings.SplitSeq(name, "/") {
		if element == "" || len(element) > maxElement || element[0] == '.' {
			return fmt.Errorf("%w: in %q each part between slashes needs 1 to %d bytes and no dot in front", ErrName, name, maxElement)
		}
	}
	for _, c := range []byte(name) {
		if c != '/' && !nameByte(c) {
			return fmt.Errorf("%w: %q has %q", ErrName, name, c)
		}
	}
	return nil
}

// nameByte says whether c may stand between slashes: printable ASCII but what shells, browsers or services read otherwise.
func nameByte(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune("/\\\"*<>?[]^`{|}", rune(c))
}
