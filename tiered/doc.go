// Package tiered keeps sealed segments of the log, and their part of the index, in an object store, and reads them back as if
// they were here: the same log and sorted index in another place, with a manifest that says what is there.
//
// # Order of reading
//
//   - tiered/objects: what a store promises.
//   - names.go, part.go: what lies where. errors.go: what can go wrong.
//   - bodies.go: how a bodies object looks, and who writes it; blocks.go takes it apart.
//   - rows.go: the rows of a table object; keyrows.go, tablewriter.go write them; table.go, rowcursor.go read them.
//   - memory.go, disk.go, fetch.go, streams.go: how pages of objects are cached, fetched once for all, and fetched ahead.
//   - manifest.go: what a manifest says; manifests.go: how one is found and the next one is made; gc.go: what is left over.
//   - tier.go, runs.go, keys.go: what readers call.
//
// # How a read goes
//
//	Tier.ReadRaw ─▶ part of the manifest ─▶ block index ─┐
//	Tier.Runs, Keys ─▶ part ─▶ table: footer, index, rows ┴▶ pages: memory ─▶ under way? ─▶ disk ─▶ store, one request
//
// # Rules
//
//  1. Objects of parts, pages and snapshots never change: what is made anew has another generation, and so another name. So what is
//     cached is never stale.
//  2. A generation of the manifest is an object that is created and never written again. So of two writers one wins, and the
//     other goes on from what that one made, or learns that it may not.
//  3. Everything read has a checksum: blocks of bodies, blocks and footers of tables, manifests. What does not match is read once
//     more before it is called damaged.
//  4. A request to the store belongs to the fetcher, not to who asked first: who asks for the same page waits for it, and who
//     goes away stops nobody. Close waits for all.
//  5. No length is believed before its checksum was checked, and none beyond the bounds that are written where it is read.
//  6. Retention may clear bytes of a part (zeros in their place), so positions never change.
package tiered
