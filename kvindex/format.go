package kvindex

import (
	"encoding/binary"
	"fmt"

	"github.com/cairnmq/cairn/internal/record"
)

// FormatVersion is the newest layout of keys and values that this program knows. A change of any layout raises it.
//
//	1  the first one
const FormatVersion = 1

// formatName is the row of SpaceMeta that holds the format version:
//
//	┌────────────┐
//	│ version 4  │ big-endian
//	└────────────┘
const formatName = "format"

// FormatError says that the rows are laid out in a way that this program does not know.
type FormatError struct {
	Found uint32 // 0: there are rows but no format row
	Known uint32 // the newest that this program knows
}

func (e *FormatError) Error() string {
	if e.Found == 0 {
		return "the index has rows but does not say which format they have: it is not one of ours, or it is damaged"
	}
	return fmt.Sprintf("the index has format %d, this program knows formats up to %d: use a newer program", e.Found, e.Known)
}

// checkFormat reads the format row, and writes it when the index is empty. That row is the first of all batches, so that
// no crash leaves rows without it.
func checkFormat(e Engine, readOnly bool) error {
	key := AppendMetaKey(nil, formatName)
	val, ok, err := e.Get(key, nil)
	if err != nil {
		return fmt.Errorf("reading the format version: %w", err)
	}
	if ok {
		if len(val) != 4 {
			return &RowError{Key: key, Value: val, Reason: "the format version has 4 bytes"}
		}
		if v := binary.BigEndian.Uint32(val); v == 0 || v > FormatVersion {
			return &FormatError{Found: v, Known: FormatVersion}
		}
		return nil
	}
	empty, err := isEmpty(e)
	if err != nil {
		return fmt.Errorf("looking for rows: %w", err)
	}
	if !empty {
		return &FormatError{Known: FormatVersion}
	}
	if readOnly {
		return nil
	}
	w := e.NewWriter()
	defer w.Close()
	w.Set(key, binary.BigEndian.AppendUint32(nil, FormatVersion))
	if err := w.Commit(); err != nil {
		return fmt.Errorf("writing the format version: %w", err)
	}
	return nil
}

func isEmpty(r Reader) (bool, error) {
	it, err := r.NewIter(nil, nil)
	if err != nil {
		return false, err
	}
	found := it.First()
	err = it.Error()
	if cerr := it.Close(); err == nil {
		err = cerr
	}
	return !found, err
}

// RowError says that a row's value is not what its space calls for: the index is damaged.
type RowError struct {
	Key, Value []byte
	Reason     string
}

func (e *RowError) Error() string {
	space, key, value := Describe(e.Key, e.Value)
	return fmt.Sprintf("damaged row %s %s = %s: %s", space, key, value, e.Reason)
}

// Applied is the row that says how far the log has been applied. It is written with every batch, at SpaceApplied:
//
//	┌────────┬──────────┬────────────────┐
//	│ end 8  │ index 8  │ timestamp ms 8 │ big-endian
//	└────────┴──────────┴────────────────┘
type Applied struct {
	End       record.Position // the log position after the last applied batch
	Index     uint64
	Timestamp int64 // ms
}

const appliedSize = 24

var appliedKey = []byte{byte(SpaceApplied)}

func (a Applied) append(dst []byte) []byte {
	return be64(be64(be64(dst, uint64(a.End)), a.Index), uint64(a.Timestamp))
}

func decodeApplied(val []byte) (a Applied, ok bool) {
	if len(val) != appliedSize {
		return Applied{}, false
	}
	a.End = record.Position(binary.BigEndian.Uint64(val))
	a.Index = binary.BigEndian.Uint64(val[8:])
	a.Timestamp = int64(binary.BigEndian.Uint64(val[16:]))
	return a, a.End >= 0
}

// ReadApplied returns the zero Applied when there is none; *RowError when it is damaged.
func ReadApplied(r Reader) (Applied, error) {
	var buf [appliedSize]byte
	val, ok, err := r.Get(appliedKey, buf[:0])
	if err != nil {
		return Applied{}, fmt.Errorf("reading the applied position: %w", err)
	}
	if !ok {
		return Applied{}, nil
	}
	a, ok := decodeApplied(val)
	if !ok {
		return Applied{}, &RowError{Key: appliedKey, Value: val, Reason: "the applied position has 24 bytes and is not negative"}
	}
	return a, nil
}
