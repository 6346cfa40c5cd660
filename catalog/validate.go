package catalog

import (
	"fmt"
	"strings"
)

// NameError says what is wrong with a topic or group name, or with an attribute. Doors answer it as a parameter error.
type NameError struct{ What, Name, Reason string }

func (e *NameError) Error() string { return e.What + " " + quoteLong(e.Name) + ": " + e.Reason }

// quoteLong keeps a hostile name from filling a log line or an answer.
func quoteLong(name string) string {
	const limit = 300
	if len(name) > limit {
		return fmt.Sprintf("%q… (%d bytes)", name[:limit], len(name))
	}
	return fmt.Sprintf("%q", name)
}

// Longest names in bytes. Retry and dead-letter topics carry a group's name behind a prefix.
const (
	MaxTopicName      = 127
	MaxGroupTopicName = 255
	MaxGroupName      = 120
)

// Prefixes of the topics that belong to a group.
const (
	RetryPrefix = "%RETRY%"
	DLQPrefix   = "%DLQ%"
)

// ValidateTopicName accepts 1 to 127 bytes (255 behind %RETRY% and %DLQ%) of letters, digits, '%', '|', '_' and '-'.
// The error is a *NameError.
func ValidateTopicName(name string) error {
	limit := MaxTopicName
	if strings.HasPrefix(name, RetryPrefix) || strings.HasPrefix(name, DLQPrefix) {
		limit = MaxGroupTopicName
	}
	return validateName("topic", name, limit)
}

// ValidateGroupName accepts 1 to 120 bytes of the same alphabet. The error is a *NameError.
func ValidateGroupName(name string) error { return validateName("group", name, MaxGroupName) }

func validateName(what, name string, limit int) error {
	switch {
	case strings.TrimSpace(name) == "":
		return &NameError{what, name, "the name is blank"}
	case len(name) > limit:
		return &NameError{what, name, fmt.Sprintf("the name is longer than %d bytes", limit)}
	}
	for i := range len(name) {
		if !nameByte(name[i]) {
			return &NameError{what, name, "the name may only contain %, |, _, -, letters and digits"}
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '%' || c == '|' || c == '_' || c == '-'
}
