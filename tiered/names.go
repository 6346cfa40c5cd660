package tiered

import (
	"crypto/rand"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cairnmq/cairn/internal/record"
)

// The folders of a tier, below the prefix that the store was opened with.
const (
	partsPrefix     = "parts/"
	manifestPrefix  = "manifest/"
	snapshotsPrefix = "snapshots/"
	pagePrefix      = manifestPrefix + "page-"
)

// newGeneration makes a generation for names of objects that no other try at any object has, of this process or another: the time in
// ms since 1970, and sixteen random bits.
func newGeneration() uint64 {
	var b [2]byte
	_, _ = rand.Read(b[:]) // never fails
	return uint64(time.Now().UnixMilli())<<16 | uint64(le.Uint16(b[:]))
}

// LogName is the name of a part's bodies object. The generation tells it from another try at uploading the same segment, and
// from what compaction made of it.
func LogName(start record.Position, generation uint64) string {
	return fmt.Sprintf("%s%020d-%d.log", partsPrefix, start, generation)
}

// TableName is the name of a part's table object.
func TableName(start record.Position, generation uint64) string {
	return fmt.Sprintf("%s%020d-%d.idx", partsPrefix, start, generation)
}

// SnapshotName is the name of a snapshot object.
func SnapshotName(at record.Position, generation uint64) string {
	return fmt.Sprintf("%s%020d-%d", snapshotsPrefix, at, generation)
}

// manifestName is the name of the manifest of a generation.
func manifestName(generation uint64) string {
	return fmt.Sprintf("%s%020d", manifestPrefix, generation)
}

// manifestGeneration is the generation that a name says, ok false when it is not that of a manifest.
func manifestGeneration(name string) (generation uint64, ok bool) {
	digits, ok := strings.CutPrefix(name, manifestPrefix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	generation, err := strconv.ParseUint(digits, 10, 64)
	return generation, err == nil && manifestName(generation) == name
}
