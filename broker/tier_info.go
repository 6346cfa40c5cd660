package broker

import (
	"time"

	"github.com/cairnmq/cairn/tiered"
)

// TierInfo is how the tier of a broker is. Times are ms since 1970, sizes bytes, positions bytes of the log.
type TierInfo struct {
	State string `json:"state"` // a TierState
	Since int64  `json:"since"` // when it became that
	Error string `json:"error,omitempty"`

	Store      string `json:"store,omitempty"` // whose the tier is; empty before its manifest was read
	Generation uint64 `json:"generation"`      // of the manifest
	Parts      int    `json:"parts"`
	Snapshots  int    `json:"snapshots"`
	Messages   int64  `json:"messages"`
	First      int64  `json:"first"` // position of the first part's first byte
	End        int64  `json:"end"`   // and behind the last part
	From       int64  `json:"from"`  // time of the first part's first batch
	Until      int64  `json:"until"` // and behind the last part
	// RawBytes are what the parts have of the log, LiveBytes those of them that retention has not cleared, StoredBytes what the
	// objects take.
	RawBytes    int64 `json:"rawBytes"`
	LiveBytes   int64 `json:"liveBytes"`
	StoredBytes int64 `json:"storedBytes"`

	BehindSegments int   `json:"behindSegments"` // that are sealed and not in the tier
	BehindBytes    int64 `json:"behindBytes"`
	BehindMillis   int64 `json:"behindMillis"` // since the oldest of them was sealed

	// Since the broker was started:
	Uploads      int64 `json:"uploads"`
	Failures     int64 `json:"failures"` // tries at an upload
	CacheHits    int64 `json:"cacheHits"`
	CacheMisses  int64 `json:"cacheMisses"`
	CacheBytes   int64 `json:"cacheBytes"` // in memory, now
	DiskBytes    int64 `json:"diskBytes"`  // in the disk cache, now
	ReadRequests int64 `json:"readRequests"`
	ReadBytes    int64 `json:"readBytes"`
}

// Tier tells of the tier. CodeNotFound when the broker has none.
func (b *Broker) Tier() (TierInfo, error) {
	if err := b.gate.enter(); err != nil {
		return TierInfo{}, err
	}
	defer b.gate.leave()
	if b.uploader == nil {
		return TierInfo{}, refuse(CodeNotFound, "this broker has no tier: tiered.url names an object store for one")
	}
	return b.uploader.info(), nil
}

func (u *uploader) info() TierInfo {
	since, err := u.Why()
	i := TierInfo{State: u.State().String(), Since: since.UnixMilli(), Uploads: u.counts.uploads.Load(), Failures: u.counts.failures.Load()}
	if err != nil {
		i.Error = err.Error()
	}
	if view := u.tier.Manifests().View(); view != nil {
		i.Store = view.Store.String()
		i.addManifest(view)
	}
	s := u.tier.Stats()
	i.CacheHits, i.CacheMisses, i.CacheBytes, i.DiskBytes = s.Hits, s.Misses, s.Memory, s.Disk
	i.ReadRequests, i.ReadBytes = s.Requests, s.Bytes
	lag := u.Lag()
	i.BehindSegments, i.BehindBytes = lag.Segments, lag.Bytes
	if lag.Segments > 0 {
		i.BehindMillis = max(0, u.clock.Now().Sub(time.UnixMilli(lag.Sealed)).Milliseconds())
	}
	return i
}

// addManifest adds what a manifest says.
func (i *TierInfo) addManifest(view *tiered.Manifest) {
	i.Generation, i.Parts, i.Snapshots = view.Generation, len(view.Parts), len(view.Snapshots)
	for k := range view.Parts {
		p := &view.Parts[k]
		i.Messages += p.Messages
		i.RawBytes += p.RawBytes()
		i.LiveBytes += p.LiveBytes
		i.StoredBytes += p.LogBytes + p.TableBytes
	}
	if n := len(view.Parts); n > 0 {
		first, last := &view.Parts[0], &view.Parts[n-1]
		i.First, i.End, i.From, i.Until = int64(first.Start), int64(last.End), first.From, last.Until
	}
	for k := range view.Snapshots {
		i.StoredBytes += view.Snapshots[k].Bytes
	}
}
