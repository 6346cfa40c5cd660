package javastore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/cairnmq/cairn/message"
)

// ErrDamaged says that the commitlog of a store holds something else than messages where messages must be.
var ErrDamaged = errors.New("the commitlog of the Java store is damaged")

// Commitlog is the messages of a store. Its files are named by the position of their first byte (20 decimal digits), are all of the
// same length, 1 GiB by default, and are sparse behind the last message:
//
//	┌─────────┬─────────┬───┬─────────┬─────────────────────┬───────────┐
//	│ message │ message │ … │ message │ length 4 │ blank 4  │ anything  │  a file that is full
//	├─────────┼─────────┼───┼─────────┼──────────┴──────────┴───────────┤
//	│ message │ message │ … │ message │ zeros                           │  the last one
//	└─────────┴─────────┴───┴─────────┴─────────────────────────────────┘
//
// All numbers are big-endian; a message is drawn in package message (the stored layout). The two numbers behind a file's last message
// are the length of what is left of the file, and blankMagic.
type Commitlog struct {
	dir   string
	files []logFile
}

type logFile struct {
	name        string
	start, size int64
}

// blankMagic marks the rest of a full file.
const blankMagic = 0xCBD43194

// maxMessage bounds what is read as one message: Java's own bound is 4 MiB of body unless it is set higher, and the records of
// Cairn's log have theirs.
const maxMessage = 128 << 20

// Message is one message of the commitlog. Its slices alias the reader's buffer and are valid until the next one is read.
type Message struct {
	message.Message
	Position int64  // of its first byte: its physical offset
	Stored   []byte // the whole of it in the stored layout
}

// OpenCommitlog lists the files of a folder commitlog/. A missing folder is an error; an empty one is an empty log.
func OpenCommitlog(dir string) (*Commitlog, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("javastore: %w", err)
	}
	c := &Commitlog{dir: dir}
	for _, e := range entries {
		start, err := strconv.ParseInt(e.Name(), 10, 64)
		if err != nil || len(e.Name()) != 20 || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("javastore: %w", err)
		}
		c.files = append(c.files, logFile{e.Name(), start, info.Size()})
	}
	slices.SortFunc(c.files, func(a, b logFile) int { return int(min(max(a.start-b.start, -1), 1)) })
	for i := 1; i < len(c.files); i++ {
		if before := c.files[i-1]; before.start+before.size != c.files[i].start {
			return nil, fmt.Errorf("%w: file %s ends at %d, and the next is %s", ErrDamaged, before.name, before.start+before.size,
				c.files[i].name)
		}
	}
	return c, nil
}

// First is the position of the first byte that is there.
func (c *Commitlog) First() int64 {
	if len(c.files) == 0 {
		return 0
	}
	return c.files[0].start
}

// End is behind the last byte of the last file, which the last message may not reach.
func (c *Commitlog) End() int64 {
	if len(c.files) == 0 {
		return 0
	}
	last := c.files[len(c.files)-1]
	return last.start + last.size
}

// Reader reads messages one after the other.
type Reader struct {
	log  *Commitlog
	file *os.File
	at   int // index of file in log.files
	pos  int64
	buf  []byte // what was read ahead
	from int    // first byte of buf that is not used yet: that of pos
	// Torn is set at the end when behind the last whole message there is one that is cut short or does not fit its checksum: what a
	// broker that was killed leaves behind, and drops itself at its next start.
	Torn bool
}

// readAhead is how many bytes are read at a time.
const readAhead = 1 << 20

// ReadFrom begins at the message at a position, or at the log's first one when that lies behind it.
func (c *Commitlog) ReadFrom(pos int64) (*Reader, error) {
	r := &Reader{log: c, pos: max(pos, c.First()), at: -1, buf: make([]byte, 0, readAhead)}
	for i, f := range c.files {
		if r.pos >= f.start && r.pos < f.start+f.size {
			return r, r.open(i)
		}
	}
	r.at = len(c.files)
	return r, nil
}

// Close gives the reader's file free.
func (r *Reader) Close() error {
	if r.file == nil {
		return nil
	}
	f := r.file
	r.file = nil
	return f.Close()
}

// Position is where the next message is looked for: behind the one that was read last.
func (r *Reader) Position() int64 { return r.pos }

func (r *Reader) open(i int) error {
	if err := r.Close(); err != nil {
		return err
	}
	r.at, r.buf, r.from = i, r.buf[:0], 0
	if i == len(r.log.files) {
		return nil
	}
	r.pos = max(r.pos, r.log.files[i].start)
	f, err := os.Open(filepath.Join(r.log.dir, r.log.files[i].name))
	if err != nil {
		return fmt.Errorf("javastore: %w", err)
	}
	r.file = f
	return nil
}

// peek makes the next n bytes of the file available; fewer at its end.
func (r *Reader) peek(n int) ([]byte, error) {
	if len(r.buf)-r.from >= n {
		return r.buf[r.from : r.from+n], nil
	}
	f := r.log.files[r.at]
	left := f.start + f.size - r.pos
	n = int(min(int64(n), left))
	r.buf = append(r.buf[:0], r.buf[r.from:]...)
	r.from = 0
	have := len(r.buf)
	want := int(min(int64(max(n, readAhead)), left))
	if want <= have {
		return r.buf[:n], nil
	}
	r.buf = slices.Grow(r.buf, want-have)
	got, err := r.file.ReadAt(r.buf[have:want], r.pos-f.start+int64(have))
	r.buf = r.buf[:have+got]
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("javastore: read %s: %w", f.name, err)
	}
	return r.buf[:min(n, len(r.buf))], nil
}

func (r *Reader) skip(n int) { r.from, r.pos = r.from+n, r.pos+int64(n) }

// Next reads the next message into m; false at the end of the log. The error is ErrDamaged for what is not at the end.
func (r *Reader) Next(m *Message) (bool, error) {
	for r.at < len(r.log.files) {
		head, err := r.peek(8)
		if err != nil {
			return false, err
		}
		if len(head) == 8 {
			size, magic := binary.BigEndian.Uint32(head), binary.BigEndian.Uint32(head[4:])
			switch {
			case magic == message.MagicV1 || magic == message.MagicV2:
				return r.message(m, size)
			case magic == blankMagic || size == 0 && magic == 0 && r.atLast():
			case r.atLast():
				return false, r.tear()
			default:
				return false, r.damaged("no message begins there")
			}
		}
		if r.atLast() && len(head) == 8 && binary.BigEndian.Uint32(head[4:]) == 0 {
			return false, nil // nothing was written from here on
		}
		if err := r.open(r.at + 1); err != nil {
			return false, err
		}
	}
	return false, nil
}

// message reads the message of that size at pos.
func (r *Reader) message(m *Message, size uint32) (bool, error) {
	wrong := "impossible length"
	if size <= maxMessage {
		raw, err := r.peek(int(size))
		if err != nil {
			return false, err
		}
		if wrong = check(raw, int(size), m); wrong == "" {
			m.Position, m.Stored = r.pos, raw
			r.skip(int(size))
			return true, nil
		}
	}
	if r.atLast() {
		return false, r.tear()
	}
	return false, r.damaged(wrong)
}

// check decodes a message and compares its checksum; it says what is wrong, or "".
func check(raw []byte, size int, m *Message) string {
	if len(raw) < size {
		return "the file ends within the message"
	}
	decoded, n, err := message.DecodeAs(raw, m.Topic)
	switch {
	case err != nil:
		return err.Error()
	case n != size:
		return fmt.Sprintf("a message of %d bytes says that it has %d", n, size)
	case message.BodyCRC(decoded.Body) != decoded.BodyCRC:
		return "the checksum of the body does not match"
	}
	m.Message = decoded
	return ""
}

// atLast says that no later file has messages.
func (r *Reader) atLast() bool {
	if r.at >= len(r.log.files)-1 {
		return true
	}
	f, err := os.Open(filepath.Join(r.log.dir, r.log.files[r.at+1].name))
	if err != nil {
		return errors.Is(err, fs.ErrNotExist)
	}
	defer f.Close() //nolint:errcheck // only read
	var head [8]byte
	n, _ := f.ReadAt(head[:], 0)
	return n == len(head) && head == [8]byte{} // made ahead, and not used yet
}

// tear ends the log at pos.
func (r *Reader) tear() error {
	r.Torn = true
	return r.open(len(r.log.files))
}

func (r *Reader) damaged(why string) error {
	return fmt.Errorf("%w: file %s, position %d: %s", ErrDamaged, r.log.files[r.at].name, r.pos, why)
}
