package store

// Options are what the store was opened with, defaults filled in; for tools.
func (s *Store) Options() Options { return s.opts }
