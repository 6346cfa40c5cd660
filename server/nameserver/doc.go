// Package nameserver is the door that tells clients where topics are: a name server for our own broker and for any others
// that register with it.
package nameserver
