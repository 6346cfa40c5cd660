package filter

import (
	"strconv"
	"strings"
)

// maxNumber bounds what is read as a number, in bytes, so that no message makes a comparison slow.
const maxNumber = 512

// as reads a text as a value of another kind, as Java does. ok is false when it is none.
func (v value) as(k kind) (out value, ok bool) {
	switch k {
	case boolean:
		return truth(len(v.text) == 4 && strings.EqualFold(v.text, "true")), true
	case integer32, integer64:
		bits := 64
		if k == integer32 {
			bits = 32
		}
		n, ok := parseInteger(v.text, bits)
		return value{kind: k, bits: uint64(n)}, ok
	}
	f, ok := parseDouble(v.text)
	return float(f), ok
}

// parseInteger reads what Java's Integer and Long read, in ASCII: an optional sign and decimal digits.
func parseInteger(s string, bits int) (n int64, ok bool) {
	if s == "" || len(s) > maxNumber {
		return 0, false
	}
	limit := uint64(1)<<(bits-1) - 1
	minus := s[0] == '-'
	if minus {
		limit++
	}
	if minus || s[0] == '+' {
		if s = s[1:]; s == "" {
			return 0, false
		}
	}
	u := uint64(0)
	for i := range len(s) {
		if !isDigit(s[i]) {
			return 0, false
		}
		if u > limit/10 {
			return 0, false
		}
		if u = u*10 + uint64(s[i]-'0'); u > limit {
			return 0, false
		}
	}
	if minus {
		return -int64(u), true
	}
	return int64(u), true
}

// parseDouble reads what Java's Double reads: blanks around, a sign, NaN, Infinity, decimal and hexadecimal numbers, and one of
// the suffixes f and d. What is too large or too small is infinite or 0.
func parseDouble(s string) (f float64, ok bool) {
	if len(s) > maxNumber {
		return 0, false
	}
	if s = trim(s); s == "" {
		return 0, false
	}
	number := s
	if number[0] == '+' || number[0] == '-' {
		number = number[1:]
	}
	if number != "NaN" && number != "Infinity" {
		if s = s[:len(s)-suffix(number)]; !isFloat(s) {
			return 0, false
		}
	} else if number == "NaN" {
		s = number
	}
	f, _ = strconv.ParseFloat(s, 64) // the only error left is that it is out of range
	return f, true
}

// suffix is how many bytes of the number's end say its Java type.
func suffix(number string) int {
	if number == "" || strings.IndexByte("fFdD", number[len(number)-1]) < 0 {
		return 0
	}
	return 1
}

// isFloat says that s is a number without anything around it: of digits, a point and an exponent, which a hexadecimal number
// must have. What strconv takes beside, Java does not.
func isFloat(s string) bool {
	w := scanner{text: s}
	if s != "" && (s[0] == '+' || s[0] == '-') {
		w.at++
	}
	if rest := s[w.at:]; strings.HasPrefix(rest, "0x") || strings.HasPrefix(rest, "0X") {
		return isHexFloat(rest[2:])
	}
	whole := w.digits()
	if w.at < len(s) && s[w.at] == '.' {
		w.at++
		whole += w.digits()
	}
	w.exponent()
	return whole > 0 && w.at == len(s)
}

func isHexFloat(s string) bool {
	at := strings.IndexAny(s, "pP")
	if at < 0 {
		return false
	}
	digits, exponent := s[:at], s[at+1:]
	whole, fraction, _ := strings.Cut(digits, ".")
	if whole+fraction == "" || strings.Trim(whole+fraction, "0123456789abcdefABCDEF") != "" {
		return false
	}
	if exponent != "" && (exponent[0] == '+' || exponent[0] == '-') {
		exponent = exponent[1:]
	}
	return exponent != "" && strings.Trim(exponent, "0123456789") == ""
}
