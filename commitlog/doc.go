// Package commitlog keeps batches of records on disk, in order, for good: it is the only durable truth of a broker, and
// it knows no topic.
//
// # Order of reading
//
//   - format.go: how a batch and a record look on disk.
//   - segment.go: the files that hold them, and the handles that readers share.
//   - log.go: the types that callers see; options.go: what can be set; errors.go: what can go wrong.
//   - propose.go → writer.go → sync.go: the path of a proposal. prepare.go: the room ahead of the tail.
//   - scan.go, recover.go: what is believed after a crash. read.go, retention.go: reads and deletion.
//
// # The path of a proposal
//
//	 Propose ──▶ queue ──▶ writer ──▶ written ──▶ syncer ──▶ committed ──▶ committer ──▶ OnCommit, Done
//	                      one pwrite              one fdatasync             one at a time
//	                                              for all written
//	preparer: zero-fills ahead of the tail, makes the next segment, notices when a full disk has room again
//
// Each stage is one goroutine, so order needs no care. The writer owns the tail. It gathers what was proposed since its
// last write into one batch; there is no timer, so a lone proposal is written at once. While a sync is under way a new
// batch is written beside it only when a good deal is waiting (writeAhead): one big batch costs less CPU than many small
// ones, here and in whoever applies them, and none of them would be acknowledged before that sync ends anyway.
// In the modes interval and os the syncer is off the path: written is committed.
//
// # Rules
//
//  1. A position never changes meaning, and a batch never spans two segments.
//  2. A batch says where the one before it ended. So a log is a chain: a missing link shows, wherever files begin or end.
//  3. A batch says what was known to be durable when it was written. Syncs are pipelined, so after a power cut a whole
//     batch may legitimately follow a torn one; only a later batch that knew the torn one to be durable proves that the
//     disk lost something. The first is a torn tail and is cut; the second is a *CorruptError and nothing is touched.
//  4. Whatever recovery hands out or leaves in place is made durable first, and a cut is durable before the next append.
//  5. A failed write or sync stops the log for good (ErrFailed): after it nobody knows what the disk holds, and a second
//     try that "succeeds" would prove nothing. A full disk is no failure but a pause (ErrDiskFull): nothing was
//     half-done that is not undone before the next write, and it ends by itself.
//  6. The records of a deleted segment live on in the view only. At least one durable batch always stays, so that index
//     and time go on from it.
//
// # What a commit means
//
// ModeSync: it survives a power cut. ModeInterval: a process kill, and a power cut but for the last Interval. ModeOS: a
// process kill. See docs/promises.md.
package commitlog
