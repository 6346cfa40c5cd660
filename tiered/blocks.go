package tiered

import (
	"bytes"
	"context"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/zstd"
)

// blockIndex says where the blocks of a bodies object are, and takes them apart.
type blockIndex struct {
	footer
	name    string
	entries []byte // indexEntry bytes for each block
}

// locateBlockIndex finds index and footer of the object of size bytes that ends with tail, and checks the footer. When tail is too
// short, more says how long it must be. The index aliases tail, and is checked by check. An error is a *DamageError.
func locateBlockIndex(name string, tail []byte, size int64) (x *blockIndex, more int64, err error) {
	f, wrong := parseFooter(tail, size)
	if wrong != "" {
		return nil, 0, &DamageError{Object: name, Offset: max(size-bodiesFooter, 0), Reason: wrong}
	}
	if need := f.indexLength + bodiesFooter; need > int64(len(tail)) {
		return nil, need, nil
	}
	end := len(tail) - bodiesFooter
	return &blockIndex{footer: f, name: name, entries: tail[end-int(f.indexLength) : end : end]}, 0, nil
}

// check checks the index: after it, the blocks follow each other without gaps. An error is a *DamageError.
func (x *blockIndex) check() error {
	if crc32.Checksum(x.entries, castagnoli) != x.indexCRC {
		return &DamageError{Object: x.name, Offset: x.indexOffset, Reason: "the block index's checksum does not match"}
	}
	at := int64(0)
	for i := range int(x.blocks()) {
		off, n := x.place(i)
		if off != at || n == 0 || n > x.rawLength(i) || off+int64(n) > x.indexOffset {
			return &DamageError{Object: x.name, Offset: x.indexOffset + int64(i)*indexEntry, Reason: "impossible entry in the block index"}
		}
		at += int64(n)
	}
	if at != x.indexOffset {
		return &DamageError{Object: x.name, Offset: at, Reason: "bytes between the last block and the block index"}
	}
	return nil
}

func (x *blockIndex) objectName() string { return x.name }
func (x *blockIndex) kind() pageKind     { return pageBlock }

// place says where block i is in the object, and its length there.
func (x *blockIndex) place(i int) (off int64, n int) {
	e := x.entries[i*indexEntry:]
	return int64(le.Uint64(e)), int(le.Uint32(e[8:]))
}

// decode gives the bytes of the log of block i, whose stored bytes these are, in memory of its own. An error is a *DamageError.
func (x *blockIndex) decode(dec *zstd.Decoder, i int, stored []byte) (raw []byte, err error) {
	n := x.rawLength(i)
	raw = make([]byte, 0, n)
	off, length := x.place(i)
	switch {
	case len(stored) != length:
		return nil, &DamageError{Object: x.name, Offset: off, Reason: fmt.Sprintf("%d bytes instead of a block of %d", len(stored), length)}
	case length == n:
		raw = append(raw, stored...)
	default:
		if raw, err = dec.DecodeAll(stored, raw); err != nil {
			return nil, &DamageError{Object: x.name, Offset: off, Reason: "a block cannot be decompressed", Cause: err}
		}
	}
	if len(raw) != n || crc32.Checksum(raw, castagnoli) != le.Uint32(x.entries[i*indexEntry+12:]) {
		return nil, &DamageError{Object: x.name, Offset: off, Reason: "a block's checksum does not match"}
	}
	return raw, nil
}

// newDecoder makes what decodes blocks; it never gives more than there is room for in what it decodes to. Its memory is bounded
// by how many processors there are.
func newDecoder() (*zstd.Decoder, error) {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderMaxMemory(maxBlockSize))
	if err != nil {
		return nil, fmt.Errorf("tiered: decompress blocks: %w", err)
	}
	return dec, nil
}

// bodiesTail is the end of a bodies object as one page, whose number is its length.
type bodiesTail struct {
	name string
	size int64 // of the object
}

// tailLength is how long the end of the bodies object of a segment of raw bytes is that has index and footer, when its
// blocks have today's size.
func tailLength(raw, size int64) int {
	return int(min(((raw-1)/BlockSize+1)*indexEntry+bodiesFooter, size))
}

func (t bodiesTail) objectName() string             { return t.name }
func (t bodiesTail) kind() pageKind                 { return pageTail }
func (t bodiesTail) place(n int) (off int64, _ int) { return t.size - int64(n), n }

// decode checks what is whole of it.
func (t bodiesTail) decode(_ *zstd.Decoder, _ int, stored []byte) ([]byte, error) {
	tail := bytes.Clone(stored)
	x, more, err := locateBlockIndex(t.name, tail, t.size)
	if err == nil && more == 0 {
		err = x.check()
	}
	return tail, err
}

// openBodies gets the block index of a part's bodies object. The one that is cached is checked already. An index that is longer
// than the object would have with today's blocks costs a second read.
func (f *fetcher) openBodies(ctx context.Context, p *Part) (*blockIndex, error) {
	t := bodiesTail{p.LogName(), p.LogBytes}
	n := tailLength(p.RawBytes(), p.LogBytes)
	for {
		tail, err := f.pages(ctx, t, n, n)
		if err != nil {
			return nil, err
		}
		x, more, err := locateBlockIndex(t.name, tail[0], t.size)
		if err != nil {
			return nil, err
		}
		if more > 0 {
			n = int(more)
			continue
		}
		if x.start != p.Start || x.end != p.End {
			return nil, &DamageError{Object: t.name, Offset: t.size - bodiesFooter, Reason: fmt.Sprintf(
				"it has positions %d to %d, not %d to %d", x.start, x.end, p.Start, p.End)}
		}
		return x, nil
	}
}
