package javastore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
)

// Queue is what a consume queue in files says: where the queue begins and ends, and which messages of the commitlog are its own. A
// queue of a topic that was deleted and made anew has only the messages from First on.
type Queue struct {
	Min, Max int64 // offset of the first entry, and the one behind the last
	First    int64 // position in the commitlog of the message of the first entry; -1 when there is no entry
	Last     int64 // position of the last entry's; -1 when there is none
}

// An entry of a consume queue, big-endian. Its files are named by the position of their first byte in the queue, 20 bytes for each
// offset, have room for 300,000 entries by default, and are zeros behind the last one.
//
//	┌────────────┬─────────┬────────────────────┐
//	│ position 8 │ size 4  │ hash of the tag 8  │ in the commitlog; of the message; for SCHEDULE_TOPIC_XXXX: when it is due, ms
//	└────────────┴─────────┴────────────────────┘
//
// Entries before the first one of a queue that does not begin at 0 have size maxInt32: they fill the file up.
const entryBytes = 20

const fillSize = 1<<31 - 1

// entry is one entry of a consume queue.
type entry struct {
	position int64
	size     int32
	tag      int64
}

// ReadQueue looks into the folder of one queue, consumequeue/TOPIC/QUEUE. Entries of messages before the position firstPosition, the
// commitlog's first, are gone. A folder that is missing or without files is an empty queue.
func ReadQueue(dir string, firstPosition int64) (Queue, error) {
	empty := Queue{First: -1, Last: -1}
	q, err := openQueue(dir)
	if err != nil || len(q.files) == 0 {
		return empty, err
	}
	defer q.close()
	low, high := q.files[0].start/entryBytes, (q.files[len(q.files)-1].start+q.files[len(q.files)-1].size)/entryBytes
	// Entries rise in the commitlog, what fills a file up lies before them, and zeros lie behind.
	end, err := q.search(low, high, func(e entry) bool { return e.size == 0 })
	if err != nil {
		return empty, err
	}
	first, err := q.search(low, end, func(e entry) bool { return e.size != fillSize && e.position >= firstPosition })
	if err != nil || first == end {
		return Queue{Min: end, Max: end, First: -1, Last: -1}, err
	}
	out := Queue{Min: first, Max: end}
	a, err := q.at(first)
	if err != nil {
		return empty, err
	}
	b, err := q.at(end - 1)
	out.First, out.Last = a.position, b.position
	return out, err
}

// DueTimes reads from a queue of SCHEDULE_TOPIC_XXXX when the messages from offset from on are due (ms). It calls f for each until
// the end, or until f returns false.
func DueTimes(dir string, from int64, f func(offset, due int64) bool) error {
	q, err := openQueue(dir)
	if err != nil || len(q.files) == 0 {
		return err
	}
	defer q.close()
	last := q.files[len(q.files)-1]
	for offset := max(from, q.files[0].start/entryBytes); offset < (last.start+last.size)/entryBytes; offset++ {
		e, err := q.at(offset)
		if err != nil || e.size == 0 {
			return err
		}
		if e.size != fillSize && !f(offset, e.tag) {
			return nil
		}
	}
	return nil
}

// queueFiles are the files of one consume queue.
type queueFiles struct {
	dir   string
	files []logFile
	open  *os.File
	which int
}

func openQueue(dir string) (*queueFiles, error) {
	q := &queueFiles{dir: dir}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return q, nil
	}
	if err != nil {
		return nil, fmt.Errorf("javastore: %w", err)
	}
	for _, e := range entries {
		start, err := strconv.ParseInt(e.Name(), 10, 64)
		if err != nil || len(e.Name()) != 20 || start < 0 || start%entryBytes != 0 {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("javastore: %w", err)
		}
		q.files = append(q.files, logFile{e.Name(), start, info.Size() / entryBytes * entryBytes})
	}
	slices.SortFunc(q.files, func(a, b logFile) int { return int(min(max(a.start-b.start, -1), 1)) })
	return q, nil
}

// at reads the entry of an offset; one that no file has is zeros.
func (q *queueFiles) at(offset int64) (e entry, err error) {
	pos := offset * entryBytes
	i, _ := slices.BinarySearchFunc(q.files, pos, func(f logFile, pos int64) int { return int(min(max(f.start+f.size-1-pos, -1), 1)) })
	if i == len(q.files) || pos < q.files[i].start {
		return entry{}, nil
	}
	if q.open == nil || q.which != i {
		q.close()
		if q.open, err = os.Open(filepath.Join(q.dir, q.files[i].name)); err != nil {
			return entry{}, fmt.Errorf("javastore: %w", err)
		}
		q.which = i
	}
	var b [entryBytes]byte
	if _, err := q.open.ReadAt(b[:], pos-q.files[i].start); err != nil {
		return entry{}, fmt.Errorf("javastore: read %s: %w", filepath.Join(q.dir, q.files[i].name), err)
	}
	be := binary.BigEndian
	return entry{int64(be.Uint64(b[:])), int32(be.Uint32(b[8:])), int64(be.Uint64(b[12:]))}, nil
}

// search finds the first offset in low..high for which reached holds, high when there is none; it must stay true once it is.
func (q *queueFiles) search(low, high int64, reached func(entry) bool) (int64, error) {
	for low < high {
		mid := low + (high-low)/2
		e, err := q.at(mid)
		if err != nil {
			return 0, err
		}
		if reached(e) {
			high = mid
		} else {
			low = mid + 1
		}
	}
	return low, nil
}

func (q *queueFiles) close() {
	if q.open != nil {
		_ = q.open.Close() // only read
		q.open = nil
	}
}
