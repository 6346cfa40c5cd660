package tiered

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"

	"github.com/cairnmq/cairn/internal/record"
)

// StoreID tells the stores of brokers apart: 16 random bytes that a broker made once. A tier belongs to one of them.
type StoreID [16]byte

func (s StoreID) String() string { return hex.EncodeToString(s[:]) }

// MarshalText implements encoding.TextMarshaler.
func (s StoreID) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *StoreID) UnmarshalText(text []byte) error {
	if n, err := hex.Decode(s[:], text[:min(len(text), 2*len(s))]); err != nil || n != len(s) || len(text) != 2*len(s) {
		return fmt.Errorf("tiered: %.40q is no store id: want %d hexadecimal digits", text, 2*len(s))
	}
	return nil
}

// Snapshot is an object with the rows of the index that no part holds, as of a position of the log.
type Snapshot struct {
	Position   record.Position `json:"position"`
	Generation uint64          `json:"generation"` // of the object's name
	Bytes      int64           `json:"bytes"`
	CRC        uint32          `json:"crc"`  // CRC-32C of the object
	Time       int64           `json:"time"` // ms since 1970, of the log's last batch before Position
}

// Name is the name of the object.
func (s *Snapshot) Name() string { return SnapshotName(s.Position, s.Generation) }

// Manifest says what a tier has, as of a generation. One that was loaded or committed is never changed.
type Manifest struct {
	Store      StoreID
	Generation uint64
	Writer     string // random, of the process that made this generation
	Owner      string // the writer that claimed the tier last
	Parts      []Part // in the order of the log
	Snapshots  []Snapshot

	previous uint32 // CRC-32C of the object of the generation before, 0 in the first
	crc      uint32 // CRC-32C of this one's object
	pages    []page
}

// page is a run of old parts in an object of its own, so that a manifest stays small whatever years it spans.
type page struct {
	pageRef
	parts []Part
}

// pageRef names a page.
type pageRef struct {
	Start record.Position `json:"start"` // of its first part
	ID    string          `json:"id"`    // makes the name unique
	Parts int             `json:"parts"`
	CRC   uint32          `json:"crc"` // CRC-32C of the object
}

func (r *pageRef) name() string { return fmt.Sprintf("%s%020d-%s", pagePrefix, r.Start, r.ID) }

const (
	manifestFormat = 1
	// pageParts is how many parts go to a page at once; the manifest itself holds less than twice as many.
	pageParts = 512
	// maxManifest bounds a manifest or page before compression, in bytes.
	maxManifest = 64 << 20
	// maxPages bounds the pages of a manifest: with whole pages of 1 GiB parts that is two exbibytes.
	maxPages = 1 << 12
)

// manifestFile is a manifest as JSON.
type manifestFile struct {
	Format     int        `json:"format"`
	Store      StoreID    `json:"store"`
	Generation uint64     `json:"generation"`
	Previous   uint32     `json:"previous"` // CRC-32C of the object of the generation before
	Writer     string     `json:"writer"`
	Owner      string     `json:"owner"`
	Pages      []pageRef  `json:"pages,omitempty"`
	Parts      []Part     `json:"parts,omitempty"` // those behind the pages
	Snapshots  []Snapshot `json:"snapshots,omitempty"`
}

// pageFile is a page as JSON.
type pageFile struct {
	Format int    `json:"format"`
	Parts  []Part `json:"parts"`
}

// clone returns a copy whose lists may be changed.
func (m *Manifest) clone() *Manifest {
	c := *m
	c.Parts, c.Snapshots = slices.Clone(m.Parts), slices.Clone(m.Snapshots)
	return &c
}

// check says what is wrong with a manifest.
func (m *Manifest) check() error {
	if m.Generation == 0 || m.Store == (StoreID{}) || m.Writer == "" || m.Owner == "" {
		return fmt.Errorf("manifest %d of store %s by writer %q, owner %q", m.Generation, m.Store, m.Writer, m.Owner)
	}
	for i := range m.Snapshots {
		if s := &m.Snapshots[i]; s.Position < 0 || s.Bytes <= 0 || s.Time < 0 {
			return fmt.Errorf("snapshot at %d of %d bytes", s.Position, s.Bytes)
		}
	}
	return checkParts(m.Parts)
}

// objects yields the names that the manifest needs.
func (m *Manifest) objects(yield func(string)) {
	for i := range m.pages {
		yield(m.pages[i].name())
	}
	for i := range m.Parts {
		yield(m.Parts[i].LogName())
		yield(m.Parts[i].TableName())
	}
	for i := range m.Snapshots {
		yield(m.Snapshots[i].Name())
	}
}

// A manifest object, and that of a page, is JSON in a frame; numbers are little-endian:
//
//	┌─────────┬───────┬───────────────┐
//	│ magic 8 │ crc 4 │ zstd of JSON… │ crc is the CRC-32C of everything after it
//	└─────────┴───────┴───────────────┘
const (
	manifestMagic = "CAIRNMAN"
	manifestHead  = 12
)

// seal makes an object of v.
func seal(v any) ([]byte, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("tiered: encode manifest: %w", err)
	}
	if len(text) > maxManifest {
		return nil, fmt.Errorf("tiered: a manifest of %d bytes is too large (most %d)", len(text), maxManifest)
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	if err != nil {
		return nil, fmt.Errorf("tiered: compress manifest: %w", err)
	}
	raw := enc.EncodeAll(text, append([]byte(manifestMagic), 0, 0, 0, 0))
	le.PutUint32(raw[8:], crc32.Checksum(raw[manifestHead:], castagnoli))
	return raw, enc.Close()
}

// unseal fills v with what the object holds. What v does not know is an error, since this process would lose it when it makes
// the next generation. An error is a *DamageError.
func unseal(name string, raw []byte, v any) error {
	damage := func(reason string, cause error) error {
		return &DamageError{Object: name, Reason: reason, Cause: cause}
	}
	if len(raw) < manifestHead || string(raw[:8]) != manifestMagic {
		return damage("it is no manifest", nil)
	}
	if crc32.Checksum(raw[manifestHead:], castagnoli) != le.Uint32(raw[8:]) {
		return damage("its checksum does not match", nil)
	}
	dec, err := zstd.NewReader(bytes.NewReader(raw[manifestHead:]), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20),
		zstd.WithDecoderMaxMemory(maxManifest))
	if err != nil {
		return damage("it cannot be decompressed", err)
	}
	defer dec.Close()
	// The decoder is read piece by piece: what the frame claims to hold is not believed.
	text, err := io.ReadAll(io.LimitReader(dec, maxManifest+1))
	if err != nil || len(text) > maxManifest {
		return damage("it cannot be decompressed", err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return damage("it is not understood; a newer version may have written it", err)
	}
	return nil
}

// decodeManifest reads a manifest without its pages.
func decodeManifest(name string, raw []byte) (*manifestFile, error) {
	f := &manifestFile{}
	if err := unseal(name, raw, f); err != nil {
		return nil, err
	}
	m := Manifest{Store: f.Store, Generation: f.Generation, Writer: f.Writer, Owner: f.Owner, Parts: f.Parts, Snapshots: f.Snapshots}
	err := m.check()
	switch {
	case f.Format != manifestFormat:
		err = fmt.Errorf("it has format %d, not %d", f.Format, manifestFormat)
	case err == nil && len(f.Pages) > maxPages:
		err = fmt.Errorf("it has %d pages", len(f.Pages))
	}
	for i := range f.Pages {
		if p := &f.Pages[i]; p.Start < 0 || p.Parts <= 0 || p.Parts > 2*pageParts || len(p.ID) != 16 || !isHex(p.ID) {
			err = errors.Join(err, fmt.Errorf("page at %d of %d parts", p.Start, p.Parts))
		}
	}
	if err != nil {
		return nil, &DamageError{Object: name, Reason: "it is impossible", Cause: err}
	}
	return f, nil
}

func isHex(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil
}

// decodePage reads the parts of a page.
func decodePage(ref *pageRef, raw []byte) ([]Part, error) {
	if crc32.Checksum(raw, castagnoli) != ref.CRC {
		return nil, &DamageError{Object: ref.name(), Reason: "its checksum is not the one that the manifest has"}
	}
	f := &pageFile{}
	if err := unseal(ref.name(), raw, f); err != nil {
		return nil, err
	}
	err := checkParts(f.Parts)
	if err == nil && (f.Format != manifestFormat || len(f.Parts) != ref.Parts || f.Parts[0].Start != ref.Start) {
		err = fmt.Errorf("format %d, %d parts", f.Format, len(f.Parts))
	}
	if err != nil {
		return nil, &DamageError{Object: ref.name(), Reason: "it is impossible", Cause: err}
	}
	return f.Parts, nil
}
