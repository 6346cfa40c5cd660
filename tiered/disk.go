package tiered

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// disk keeps pages as they were fetched in files of a folder, those used last up to a number of bytes. It is a cache and nothing
// else: a file that cannot be read, or is not what it says, is a page that is not there, and what cannot be written is left. Its
// list of files is in memory, about 150 bytes for each.
//
// A file is named after the hash of its content's name, and holds
//
//	┌───────┬────────────────┬──────┬────────┐
//	│ crc 4 │ name length 2  │ name │ page…  │ crc is the CRC-32C of everything after it
//	└───────┴────────────────┴──────┴────────┘
type disk struct {
	dir    string
	limit  int64        // bytes of files
	failed atomic.Int64 // reads and writes of files that failed
	mu     struct {
		sync.Mutex
		lru   *simplelru.LRU[string, int64] // file names, sizes
		bytes int64
	}
}

// diskHead is the fixed part in front of a page.
const diskHead = 6

// openDisk takes over the folder, which is made when missing; what lies in it from before is used.
func openDisk(dir string, limit int64) (*disk, error) {
	d := &disk{dir: dir, limit: limit}
	lru, err := simplelru.NewLRU[string, int64](math.MaxInt, func(_ string, n int64) { d.mu.bytes -= n })
	if err != nil {
		panic(err) // only a size below 1
	}
	d.mu.lru = lru
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("tiered: disk cache: %w", err)
	}
	return d, d.scan()
}

// scan lists what is there, oldest first, and removes what was being written when the process ended.
func (d *disk) scan() error {
	type found struct {
		name string
		size int64
		time int64
	}
	var files []found
	err := filepath.WalkDir(d.dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		rel, err := filepath.Rel(d.dir, path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(rel, diskTemp) {
			return os.Remove(path)
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if name := filepath.ToSlash(rel); isDiskName(name) {
			files = append(files, found{name, info.Size(), info.ModTime().UnixNano()})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("tiered: disk cache: %w", err)
	}
	slices.SortFunc(files, func(a, b found) int { return int(min(max(a.time-b.time, -1), 1)) })
	for _, f := range files {
		d.add(f.name, f.size)
	}
	return nil
}

const diskTemp = ".new"

// diskName is the name of the file of a page: two digits of folder and 14 of file, of the hash.
func diskName(k pageKey) (file, content string) {
	content = fmt.Sprintf("%s %c%d", k.object, k.kind, k.page)
	var sum [8]byte
	le.PutUint64(sum[:], xxhash.Sum64String(content))
	digits := hex.EncodeToString(sum[:])
	return digits[:2] + "/" + digits[2:], content
}

func isDiskName(name string) bool {
	folder, file, ok := strings.Cut(name, "/")
	_, err := hex.DecodeString(folder + file)
	return ok && err == nil && len(folder) == 2 && len(file) == 14
}

// get reads a page. A nil disk has none.
func (d *disk) get(k pageKey) (page []byte, ok bool) {
	if d == nil {
		return nil, false
	}
	file, content := diskName(k)
	d.mu.Lock()
	_, ok = d.mu.lru.Get(file)
	d.mu.Unlock()
	if !ok {
		return nil, false
	}
	b, err := os.ReadFile(filepath.Join(d.dir, file))
	if err == nil && (len(b) < diskHead || crc32.Checksum(b[4:], castagnoli) != le.Uint32(b)) {
		err = errors.New("checksum does not match")
	}
	if err != nil {
		d.failed.Add(1)
		d.drop(file)
		return nil, false
	}
	n := diskHead + int(le.Uint16(b[4:]))
	if len(b) < n || string(b[diskHead:n]) != content {
		return nil, false // another page with the same hash
	}
	return b[n:], true
}

// put keeps a page, and removes those that were not used for longest. Nothing is synced: what a crash tears has a checksum.
func (d *disk) put(k pageKey, page []byte) {
	if d == nil {
		return
	}
	file, content := diskName(k)
	b := make([]byte, diskHead, diskHead+len(content)+len(page))
	le.PutUint16(b[4:], uint16(len(content)))
	b = append(append(b, content...), page...)
	le.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
	if err := d.write(file, b); err != nil {
		d.failed.Add(1)
		return
	}
	d.add(file, int64(len(b)))
}

func (d *disk) write(file string, b []byte) error {
	path := filepath.Join(d.dir, file)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "*"+diskTemp)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

// add notes a file that is there, and removes others until there is room for it.
func (d *disk) add(file string, size int64) {
	var gone []string
	d.mu.Lock()
	d.mu.lru.Remove(file)
	d.mu.lru.Add(file, size)
	for d.mu.bytes += size; d.mu.bytes > d.limit; {
		old, _, ok := d.mu.lru.RemoveOldest()
		if !ok {
			break
		}
		gone = append(gone, old)
	}
	d.mu.Unlock()
	for _, old := range gone {
		d.remove(old)
	}
}

// drop forgets a file and removes it.
func (d *disk) drop(file string) {
	d.mu.Lock()
	d.mu.lru.Remove(file)
	d.mu.Unlock()
	d.remove(file)
}

func (d *disk) remove(file string) {
	if err := os.Remove(filepath.Join(d.dir, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.failed.Add(1)
	}
}

// forget drops a page.
func (d *disk) forget(k pageKey) {
	if d == nil {
		return
	}
	file, _ := diskName(k)
	d.mu.Lock()
	known := d.mu.lru.Contains(file)
	d.mu.Unlock()
	if known {
		d.drop(file)
	}
}

// size is how many bytes the files have, and how often one could not be read or written.
func (d *disk) size() (bytes, failed int64) {
	if d == nil {
		return 0, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.bytes, d.failed.Load()
}
