package wire

import (
	"fmt"
	"strconv"
)

// Field is one pair of a custom header; the value is text whatever its Java type.
type Field struct{ Key, Value string }

// Fields are the pairs of a custom header in wire order. When a key comes twice the later one counts.
type Fields []Field

// FieldError says which field of a request is missing or cannot be read as what it should be.
type FieldError struct {
	Field   string
	Value   string
	Missing bool
	Type    string // "int32", "int64", "bool"; empty when missing
}

func (e *FieldError) Error() string {
	if e.Missing {
		return fmt.Sprintf("the field %s is missing", e.Field)
	}
	return fmt.Sprintf("the field %s is not of type %s: %q", e.Field, e.Type, e.Value)
}

// Get looks a field up.
func (f Fields) Get(key string) (value string, ok bool) {
	for i := len(f) - 1; i >= 0; i-- {
		if f[i].Key == key {
			return f[i].Value, true
		}
	}
	return "", false
}

// Text is the value of a field, empty when it is absent.
func (f Fields) Text(key string) string {
	v, _ := f.Get(key)
	return v
}

// Need is the value of a field that must be there and not be empty.
func (f Fields) Need(key string) (string, error) {
	v, _ := f.Get(key)
	if v == "" {
		return "", &FieldError{Field: key, Missing: true}
	}
	return v, nil
}

// Int32 reads a field that must be there. The error is a *FieldError, as in all methods below.
func (f Fields) Int32(key string) (int32, error) {
	v, err := f.Need(key)
	if err != nil {
		return 0, err
	}
	return ParseInt32(key, v)
}

// Int32Or is def when the field is absent or empty.
func (f Fields) Int32Or(key string, def int32) (int32, error) {
	v, _ := f.Get(key)
	if v == "" {
		return def, nil
	}
	return ParseInt32(key, v)
}

// Int64 reads a field that must be there.
func (f Fields) Int64(key string) (int64, error) {
	v, err := f.Need(key)
	if err != nil {
		return 0, err
	}
	return ParseInt64(key, v)
}

// Int64Or is def when the field is absent or empty.
func (f Fields) Int64Or(key string, def int64) (int64, error) {
	v, _ := f.Get(key)
	if v == "" {
		return def, nil
	}
	return ParseInt64(key, v)
}

// Bool reads a field that must be there.
func (f Fields) Bool(key string) (bool, error) {
	v, err := f.Need(key)
	if err != nil {
		return false, err
	}
	return ParseBool(key, v)
}

// BoolOr is def when the field is absent or empty.
func (f Fields) BoolOr(key string, def bool) (bool, error) {
	v, _ := f.Get(key)
	if v == "" {
		return def, nil
	}
	return ParseBool(key, v)
}

// Set replaces or adds a field.
func (f *Fields) Set(key, value string) {
	for i := range *f {
		if (*f)[i].Key == key {
			(*f)[i].Value = value
			return
		}
	}
	f.Add(key, value)
}

// Add adds a field that is known not to be there.
func (f *Fields) Add(key, value string) { *f = append(*f, Field{key, value}) }

// AddInt adds a number.
func (f *Fields) AddInt(key string, v int64) { f.Add(key, strconv.FormatInt(v, 10)) }

// AddBool adds a boolean.
func (f *Fields) AddBool(key string, v bool) { f.Add(key, strconv.FormatBool(v)) }

// ParseInt32 reads the value of a field that was met while going through Fields.
func ParseInt32(key, value string) (int32, error) {
	n, err := strconv.ParseInt(value, 10, 32)
	if err != nil {
		return 0, &FieldError{Field: key, Value: value, Type: "int32"}
	}
	return int32(n), nil
}

// ParseInt64 is ParseInt32 for 64 bits.
func ParseInt64(key, value string) (int64, error) {
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil {
		return 0, &FieldError{Field: key, Value: value, Type: "int64"}
	}
	return n, nil
}

// ParseBool takes what Java writes, in any case of letters.
func ParseBool(key, value string) (bool, error) {
	switch value {
	case "true", "TRUE", "True":
		return true, nil
	case "false", "FALSE", "False":
		return false, nil
	}
	return false, &FieldError{Field: key, Value: value, Type: "bool"}
}
