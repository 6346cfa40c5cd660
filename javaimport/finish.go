package javaimport

import (
	"context"
	"math"
	"slices"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/kvindex"
	"github.com/cairnmq/cairn/message"
	"github.com/cairnmq/cairn/pop"
	"github.com/cairnmq/cairn/store"
)

// groups are those that come along: not those of the broker itself.
func (p *plan) groups() []catalog.Group {
	var out []catalog.Group
	for _, g := range p.folder.Groups.Groups {
		if !catalog.IsSystemGroup(g.Name) && catalog.ValidateGroupName(g.Name) == nil {
			out = append(out, g)
		}
	}
	return out
}

// offsetChunk is how many offsets one record has.
const offsetChunk = 1000

// finish sets where groups stand. Each record leads to the same place when it is applied again.
func (im *importer) finish(ctx context.Context) error {
	groups := map[string]kvindex.ID{}
	for _, g := range im.plan.groups() {
		found, err := im.store.Catalog.Group(g.Name)
		if err != nil {
			return err
		}
		groups[g.Name] = found.ID
	}
	flights, err := im.flights(groups)
	if err != nil {
		return err
	}
	var commits []pop.Commit
	cursors := map[receive]int64{}
	for _, o := range im.plan.folder.Offsets {
		group, there := groups[o.Group]
		t := im.plan.topics[o.Topic]
		if !there || t == nil || o.Queue < 0 || o.Queue >= t.Queues() || o.Offset < 0 {
			continue
		}
		commits = append(commits, pop.Commit{Group: group, Topic: im.topics[o.Topic], Queue: o.Queue, Offset: o.Offset})
		cursors[receive{group: o.Group, topic: o.Topic, queue: o.Queue}] = o.Offset
	}
	im.plan.report.Offsets = len(commits)
	var recs []record.Record
	for len(flights) > 0 {
		n := 1
		for n < len(flights) && flights[n].group == flights[0].group && flights[n].at == flights[0].at {
			n++
		}
		f := flights[0]
		of, err := im.popRecords(groups[f.group], flights[:n], cursors[receive{group: f.group, topic: f.at.topic, queue: f.at.queue}])
		if err != nil {
			return err
		}
		recs, flights = append(recs, of...), flights[n:]
	}
	for c := range slices.Chunk(commits, offsetChunk) {
		recs = append(recs, pop.CommitRecord(c))
	}
	for len(recs) > catalogChunk {
		if err := im.reach(ctx, im.now, im.state, recs[:catalogChunk:catalogChunk]...); err != nil {
			return err
		}
		recs = recs[catalogChunk:]
	}
	next := im.state
	next.Stage = StageDone
	return im.reach(ctx, im.now, next, recs...)
}

// flights are what groups have in flight, by group, queue and offset; what the Java broker had copied to a retry topic is the message
// itself again.
func (im *importer) flights(groups map[string]kvindex.ID) ([]flight, error) {
	flights, open := im.plan.retries.open(im.plan.pops.inFlight(), im.plan.committed)
	flights = slices.DeleteFunc(flights, func(f flight) bool {
		_, topic := im.topics[f.at.topic]
		return !topic || groups[f.group] == 0
	})
	lost := 0
	for _, a := range open {
		topic, ok := im.topics[a.topic]
		if !ok || groups[a.group] == 0 {
			continue
		}
		at, offset, found, err := im.byID(topic, a.id)
		if err != nil {
			return nil, err
		}
		if !found {
			lost++
			continue
		}
		at.topic = a.topic
		visible := a.visibleAt
		if visible == 0 {
			visible = im.now
		}
		flights = append(flights, flight{group: a.group, at: at, offset: offset, poppedAt: visible, visibleAt: visible})
	}
	if lost > 0 {
		im.plan.warn("%d messages that groups were to get again are not in the commitlog any more", lost)
	}
	sortFlights(flights)
	return slices.CompactFunc(flights, sameMessage), nil
}

// byID finds the queue and the offset of a message by its unique id.
func (im *importer) byID(topic kvindex.ID, id string) (at place, offset int64, found bool, err error) {
	buf := store.NewBuffer()
	defer buf.Release()
	ends, err := im.store.Query(topic, kvindex.IndexUniqueID, id, 0, math.MaxInt64, 1, buf)
	if err != nil || len(ends) == 0 {
		return place{}, 0, false, err
	}
	m, _, err := message.Decode(buf.B[:ends[0]])
	return place{queue: m.QueueID}, m.QueueOffset, err == nil, err
}

// popRecords make checkpoints of what a group has in flight in one queue, below the offset that it has reached.
func (im *importer) popRecords(group kvindex.ID, flights []flight, cursor int64) ([]record.Record, error) {
	topic := im.topics[flights[0].at.topic]
	var entries []pop.Entry
	var kept []flight
	for _, f := range flights {
		found, err := im.store.Entries(topic, f.at.queue, f.offset, 1, nil)
		if err != nil {
			return nil, err
		}
		if f.offset >= cursor || len(found) == 0 || found[0].Offset != f.offset {
			continue // it comes anyway, or is gone
		}
		entries = append(entries, pop.Entry{Offset: f.offset, Position: found[0].Position, Size: found[0].Size})
		kept = append(kept, f)
	}
	im.plan.report.InFlight += int64(len(kept))
	var recs []record.Record
	for from := 0; from < len(kept); {
		f := kept[from]
		to := from + 1
		for to < len(kept) && to-from < pop.MaxItems && kept[to].visibleAt == f.visibleAt && kept[to].poppedAt == f.poppedAt {
			to++
		}
		end := cursor
		if to < len(kept) {
			end = kept[to].offset
		}
		p := &pop.Pop{
			Group: group, Topic: topic, PoppedAt: f.poppedAt, VisibleAt: max(f.visibleAt, f.poppedAt), Nonce: uint64(f.offset) + 1,
			Ranges:  []pop.Range{{Queue: f.at.queue, Start: f.offset, End: end, Count: to - from}},
			Entries: entries[from:to],
		}
		recs = append(recs, p.Record())
		from = to
	}
	return recs, nil
}
