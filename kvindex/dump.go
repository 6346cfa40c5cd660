package kvindex

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// AllSpaces asks Dump for every row.
const AllSpaces Space = 0

var values struct {
	sync.RWMutex
	print [256]func(key, value []byte) string
}

// RegisterValue sets how the values of a space are printed; its owner calls it from an init function, once. f gets the whole
// key, must not keep or change either slice, and must cope with any bytes: a damaged row is what it is needed for.
func RegisterValue(space Space, f func(key, value []byte) string) {
	values.Lock()
	defer values.Unlock()
	if spaceByByte[space] == nil || values.print[space] != nil {
		panic(fmt.Sprintf("kvindex: value printer for %v, which is not declared or has one", space))
	}
	values.print[space] = f
}

// Describe prints any row in readable form. What nobody knows how to print is printed in hex.
func Describe(key, value []byte) (space, keyText, valueText string) {
	if len(key) == 0 {
		return "none", "empty key", hexText(value)
	}
	info := spaceByByte[key[0]]
	if info == nil {
		return Space(key[0]).String(), fmt.Sprintf("0x%x", key[1:]), hexText(value)
	}
	return info.name, printKey(info, key[1:]), describeValue(info.space, key, value)
}

func describeValue(space Space, key, value []byte) string {
	switch {
	case space == SpaceApplied:
		if a, ok := decodeApplied(value); ok {
			return fmt.Sprintf("end=%d index=%d timestamp=%s", a.End, a.Index, FormatTime(a.Timestamp))
		}
		return hexText(value)
	case space == SpaceMeta && string(key[1:]) == formatName:
		if len(value) == 4 {
			return fmt.Sprintf("version=%d", binary.BigEndian.Uint32(value))
		}
		return hexText(value)
	}
	values.RLock()
	print := values.print[space]
	values.RUnlock()
	if print == nil {
		return hexText(value)
	}
	return print(key, value)
}

func hexText(b []byte) string {
	if len(b) == 0 {
		return "empty"
	}
	return fmt.Sprintf("0x%x", b)
}

// Dump writes the rows of a space (AllSpaces: of all) to w in key order, one line each: space, key, "=", value. It stops
// after limit rows; a limit ≤ 0 is none.
func Dump(w io.Writer, r Reader, space Space, limit int) (err error) {
	var lower, upper []byte
	if space != AllSpaces {
		lower = []byte{byte(space)}
		upper = PrefixEnd(lower)
	}
	it, err := r.NewIter(lower, upper)
	if err != nil {
		return fmt.Errorf("dumping rows: %w", err)
	}
	defer closeIter(it, &err)
	out := bufio.NewWriter(w)
	n := 0
	for ok := it.First(); ok && (limit <= 0 || n < limit); ok = it.Next() {
		n++
		space, key, value := Describe(it.Key(), it.Value())
		if key != "" {
			key = " " + key
		}
		if _, err := fmt.Fprintf(out, "%s%s = %s\n", space, key, value); err != nil {
			return fmt.Errorf("dumping rows: %w", err)
		}
	}
	if err := out.Flush(); err != nil {
		return fmt.Errorf("dumping rows: %w", err)
	}
	return nil
}

// closeIter closes it and keeps the first error.
func closeIter(it Iter, err *error) {
	ierr := it.Error()
	if cerr := it.Close(); ierr == nil {
		ierr = cerr
	}
	if *err == nil && ierr != nil {
		*err = fmt.Errorf("iterating rows: %w", ierr)
	}
}

// Diff compares all rows of a and b byte by byte. It returns "" when they are equal, else the first difference in readable
// form, with a called the first and b the second.
func Diff(a, b Reader) (diff string, err error) {
	ia, err := a.NewIter(nil, nil)
	if err != nil {
		return "", fmt.Errorf("comparing rows, the first: %w", err)
	}
	defer closeIter(ia, &err)
	ib, err := b.NewIter(nil, nil)
	if err != nil {
		return "", fmt.Errorf("comparing rows, the second: %w", err)
	}
	defer closeIter(ib, &err)
	oka, okb := ia.First(), ib.First()
	for oka && okb {
		switch order := bytes.Compare(ia.Key(), ib.Key()); {
		case order < 0:
			return "only the first has " + rowText(ia), nil
		case order > 0:
			return "only the second has " + rowText(ib), nil
		case !bytes.Equal(ia.Value(), ib.Value()):
			return differentValues(ia.Key(), ia.Value(), ib.Value()), nil
		}
		oka, okb = ia.Next(), ib.Next()
	}
	switch {
	case oka:
		return "only the first has " + rowText(ia), nil
	case okb:
		return "only the second has " + rowText(ib), nil
	}
	return "", nil
}

func rowText(it Iter) string {
	space, key, value := Describe(it.Key(), it.Value())
	return fmt.Sprintf("%s %s = %s", space, key, value)
}

func differentValues(key, a, b []byte) string {
	space, keyText, textA := Describe(key, a)
	_, _, textB := Describe(key, b)
	if textA == textB { // what differs is not printed
		textA, textB = hexText(a), hexText(b)
	}
	return fmt.Sprintf("%s %s: the first has %s, the second %s", space, keyText, textA, textB)
}
