package javastore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/cairnmq/cairn/catalog"
)

// Errors of OpenFolder.
var (
	// ErrRunning says that a broker still runs on the store.
	ErrRunning = errors.New("a Java broker still runs on this store; stop it first")
	// ErrRocksConfig says that topics, groups and offsets are in a RocksDB, not in files.
	ErrRocksConfig = errors.New("this store keeps topics, groups and offsets in RocksDB; write them to JSON first, with the broker off: " +
		"mqadmin rocksDBConfigToJson -p STORE/config -t topics -e STORE/config/topics.json, likewise with -t subscriptionGroups " +
		"(subscriptionGroup.json) and -t consumerOffsets (consumerOffset.json)")
)

// Folder is what a store's folder holds beside its messages.
type Folder struct {
	Dir     string
	Log     *Commitlog
	Topics  []catalog.Topic // by name
	Groups  Groups
	Offsets []Offset
	// Lite is how many offsets of lite topics there are, which Offsets leaves out.
	Lite int
	// DelayOffsets are those of ParseDelayOffsets.
	DelayOffsets map[int32]int64
	Timers       TimerCheck
	// PopInRocks says that the state of POP is in a RocksDB, where it is not read.
	PopInRocks bool
}

// OpenFolder reads the small files of a store. Errors to decide on: ErrRunning, ErrRocksConfig, ErrConfig, ErrDamaged.
func OpenFolder(dir string) (*Folder, error) {
	if err := checkIdle(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	f := &Folder{Dir: dir}
	var err error
	if f.Log, err = OpenCommitlog(filepath.Join(dir, "commitlog")); err != nil {
		return nil, fmt.Errorf("%w (is %s the store folder of a broker, its storePathRootDir?)", err, dir)
	}
	config := filepath.Join(dir, "config")
	topics, err := readConfig(config, TopicsFile)
	if err != nil {
		return nil, err
	}
	if topics == nil {
		if inRocks(config) {
			return nil, ErrRocksConfig
		}
		return nil, fmt.Errorf("%s has no %s: is it the store folder of a broker, its storePathRootDir?", config, TopicsFile)
	}
	if f.Topics, err = ParseTopics(topics); err != nil {
		return nil, err
	}
	if err := f.readGroups(config); err != nil {
		return nil, err
	}
	if data, err := readConfig(config, DelayOffsetsFile); err != nil {
		return nil, err
	} else if data != nil {
		if f.DelayOffsets, err = ParseDelayOffsets(data); err != nil {
			return nil, err
		}
	}
	f.PopInRocks = hasFiles(filepath.Join(dir, "kvStore"))
	f.Timers, err = ReadTimerCheck(filepath.Join(config, "timercheck"))
	return f, err
}

// readGroups reads groups and their offsets. A broker with lite topics has the offsets in LiteOffsetsFile, and one that was switched
// has both: the newer one counts.
func (f *Folder) readGroups(config string) error {
	data, err := readConfig(config, GroupsFile)
	if err != nil {
		return err
	}
	if data != nil {
		if f.Groups, err = ParseGroups(data); err != nil {
			return err
		}
	}
	name := OffsetsFile
	if changed(config, LiteOffsetsFile).After(changed(config, OffsetsFile)) {
		name = LiteOffsetsFile
	}
	if data, err = readConfig(config, name); err != nil || data == nil {
		return err
	}
	if f.Offsets, err = ParseOffsets(data); err != nil {
		return err
	}
	f.Lite, err = LiteOffsets(data)
	return err
}

// changed is when a file of config/ was written last; long ago when it is not there.
func changed(config, name string) time.Time {
	info, err := os.Stat(filepath.Join(config, name))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Queue looks at the consume queue of a queue; known is false when the store has no consume queues in files.
func (f *Folder) Queue(topic string, queue int32) (q Queue, known bool, err error) {
	if _, err := os.Stat(filepath.Join(f.Dir, "consumequeue")); errors.Is(err, fs.ErrNotExist) {
		return Queue{First: -1, Last: -1}, false, nil
	}
	q, err = ReadQueue(f.queueDir(topic, queue), f.Log.First())
	return q, true, err
}

// DueTimes is DueTimes of a queue of the topic of delay levels.
func (f *Folder) DueTimes(topic string, queue int32, from int64, each func(offset, due int64) bool) error {
	return DueTimes(f.queueDir(topic, queue), from, each)
}

func (f *Folder) queueDir(topic string, queue int32) string {
	return filepath.Join(f.Dir, "consumequeue", topic, strconv.Itoa(int(queue)))
}

// readConfig reads a file of config/, or what it held before when it is missing or empty; nil when there is neither.
func readConfig(config, name string) ([]byte, error) {
	for _, file := range []string{name, name + ".bak"} {
		data, err := os.ReadFile(filepath.Join(config, file))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("javastore: %w", err)
		}
		if len(data) > 0 {
			return data, nil
		}
	}
	return nil, nil
}

// inRocks tells whether a folder config/ has topics in a RocksDB: one for all (version v2), or one for each kind.
func inRocks(config string) bool {
	return hasFiles(filepath.Join(config, "rdb")) || hasFiles(filepath.Join(config, "topics")) || hasFiles(filepath.Join(config, "metadata"))
}

func hasFiles(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// checkIdle looks whether a process holds the lock that a broker takes on its store.
func checkIdle(file string) error {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("javastore: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart}
	if err := syscall.FcntlFlock(f.Fd(), syscall.F_GETLK, &lock); err != nil {
		return nil // a file system without locks has none to respect
	}
	if lock.Type != syscall.F_UNLCK {
		return fmt.Errorf("%w (process %d)", ErrRunning, lock.Pid)
	}
	return nil
}
