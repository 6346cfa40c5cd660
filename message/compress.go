package message

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// CompressionType is the value of sysFlag bits 8-10.
type CompressionType int32

// Types. CompressionLegacy is what clients before 5.0 say when they mean zlib.
const (
	CompressionLegacy CompressionType = 0
	CompressionLZ4    CompressionType = 1 // an LZ4 frame
	CompressionZstd   CompressionType = 2
	CompressionZlib   CompressionType = 3

	compressionShift = 8
	compressionMask  = 7
)

func (t CompressionType) String() string {
	switch t {
	case CompressionLegacy, CompressionZlib:
		return "zlib"
	case CompressionLZ4:
		return "lz4"
	case CompressionZstd:
		return "zstd"
	}
	return fmt.Sprintf("CompressionType(%d)", int32(t))
}

// CompressionOf is the type that sysFlag names; it has a meaning when FlagCompressed is set.
func CompressionOf(sysFlag int32) CompressionType {
	return CompressionType(sysFlag >> compressionShift & compressionMask)
}

// MaxDecompressed is the most bytes that Decompress makes: a few KiB can claim to hold gigabytes.
const MaxDecompressed = 64 << 20

// Decompress returns body as its sender had it: a new slice, or body itself when sysFlag says that it is not compressed.
// The errors are ErrTooLarge for more than MaxDecompressed bytes, ErrCompression and ErrCorrupt.
func Decompress(sysFlag int32, body []byte) ([]byte, error) {
	if sysFlag&FlagCompressed == 0 {
		return body, nil
	}
	var out []byte
	var err error
	kind := CompressionOf(sysFlag)
	switch kind {
	case CompressionLegacy, CompressionZlib:
		out, err = unzlib(body)
	case CompressionLZ4:
		out, err = unlz4(body)
	case CompressionZstd:
		out, err = unzstd(body)
	default:
		return nil, fmt.Errorf("decompress body: type %d: %w", kind, ErrCompression)
	}
	if err != nil {
		return nil, fmt.Errorf("decompress %s body of %d bytes: %w", kind, len(body), err)
	}
	return out, nil
}

// Compress returns body compressed, and the bits that say so in sysFlag. The error is ErrCompression.
func Compress(kind CompressionType, body []byte) (out []byte, sysFlag int32, err error) {
	switch kind {
	case CompressionLegacy, CompressionZlib:
		out, err = writeThrough(&zlibWriters, body)
	case CompressionLZ4:
		out, err = writeThrough(&lz4Writers, body)
	case CompressionZstd:
		out = zstdEncoder().EncodeAll(body, nil)
	default:
		err = ErrCompression
	}
	if err != nil {
		return nil, 0, fmt.Errorf("compress body with type %d: %w", kind, err)
	}
	return out, FlagCompressed | int32(kind)<<compressionShift, nil
}

// readBounded reads all of r, at most MaxDecompressed bytes; hint is the length of the compressed form.
func readBounded(r io.Reader, hint int) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(min(4*hint, MaxDecompressed) + bytes.MinRead)
	n, err := out.ReadFrom(io.LimitReader(r, MaxDecompressed+1))
	if n > MaxDecompressed {
		return nil, fmt.Errorf("over %d bytes: %w", MaxDecompressed, ErrTooLarge)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return out.Bytes(), nil
}

var (
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	zlibReaders sync.Pool // of io.ReadCloser that is a zlib.Resetter
)

func ungzip(body []byte) ([]byte, error) {
	r := gzipReaders.Get().(*gzip.Reader)
	defer gzipReaders.Put(r)
	if err := r.Reset(bytes.NewReader(body)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return readBounded(r, len(body))
}

// unzlib reads gzip too, which gRPC clients send under the same type; the first byte of a zlib stream is never gzip's.
func unzlib(body []byte) ([]byte, error) {
	if bytes.HasPrefix(body, []byte{0x1f, 0x8b}) {
		return ungzip(body)
	}
	src := bytes.NewReader(body)
	r, pooled := zlibReaders.Get().(io.ReadCloser)
	var err error
	if pooled {
		err = r.(zlib.Resetter).Reset(src, nil)
	} else {
		r, err = zlib.NewReader(src)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	defer zlibReaders.Put(r)
	return readBounded(r, len(body))
}

var lz4Readers = sync.Pool{New: func() any { return lz4.NewReader(nil) }}

func unlz4(body []byte) ([]byte, error) {
	r := lz4Readers.Get().(*lz4.Reader)
	defer lz4Readers.Put(r)
	r.Reset(bytes.NewReader(body))
	return readBounded(r, len(body))
}

// One decoder and one encoder serve the process: their …All methods are safe for concurrent use and start no goroutine.
var zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(MaxDecompressed), zstd.WithDecoderMaxWindow(MaxDecompressed))
	if err != nil {
		panic(fmt.Sprintf("message: zstd decoder's options: %v", err))
	}
	return d
})

func unzstd(body []byte) ([]byte, error) {
	out, err := zstdDecoder().DecodeAll(body, nil)
	switch {
	case errors.Is(err, zstd.ErrDecoderSizeExceeded), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return nil, fmt.Errorf("over %d bytes: %w", MaxDecompressed, ErrTooLarge)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return out, nil
}

var zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		panic(fmt.Sprintf("message: zstd encoder's options: %v", err))
	}
	return e
})

// resetWriter is what the writers of zlib and LZ4 share.
type resetWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

var (
	zlibWriters = sync.Pool{New: func() any { return zlib.NewWriter(nil) }}
	lz4Writers  = sync.Pool{New: func() any { return lz4.NewWriter(nil) }}
)

func writeThrough(writers *sync.Pool, body []byte) ([]byte, error) {
	w := writers.Get().(resetWriter)
	defer writers.Put(w)
	var out bytes.Buffer
	w.Reset(&out)
	if _, err := w.Write(body); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}
