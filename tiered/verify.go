package tiered

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/internal/record"
	"github.com/cairnmq/cairn/tiered/objects"
)

// Finding is something in a tier that is not as the manifest says.
type Finding struct {
	Object   string          `json:"object"`
	Position record.Position `json:"position"` // of the log: where the part or snapshot begins, or the record that is damaged
	Missing  bool            `json:"missing"`
	Problem  string          `json:"problem"`
}

// VerifyPart reads all of a part, its log twice: both objects by their checksums, every batch and record of the log, every row of the
// table. Errors: ErrClosed, the store's when it is temporary; what is missing or damaged is no error but a finding.
func (t *Tier) VerifyPart(ctx context.Context, p *Part) (found []Finding, err error) {
	log, table := p.LogName(), p.TableName()
	checks := []struct {
		object string
		check  func() error
	}{
		{log, func() error { return readBack(ctx, t.fetch.store, log, Sum{p.LogBytes, p.LogCRC}) }},
		{log, func() error {
			return commitlog.Edit(t.Bodies(ctx, p), io.Discard, p.Start, p.End, func(*commitlog.Batch) (bool, error) { return false, nil })
		}},
		{table, func() error { return readBack(ctx, t.fetch.store, table, Sum{p.TableBytes, p.TableCRC}) }},
		{table, func() error { return t.verifyRows(ctx, p) }},
	}
	for _, c := range checks {
		f, err := finding(c.object, p.Start, c.check())
		if err != nil {
			return found, err
		}
		// What the checksum of an object shows is not told once more by what is in it, but where it is.
		if f != nil && (len(found) == 0 || found[len(found)-1].Object != c.object || !found[len(found)-1].Missing && f.Position != p.Start) {
			found = append(found, *f)
		}
	}
	return found, nil
}

// VerifySnapshot reads a snapshot by its checksum; errors are as those of VerifyPart.
func (t *Tier) VerifySnapshot(ctx context.Context, s *Snapshot) (*Finding, error) {
	return finding(s.Name(), s.Position, readBack(ctx, t.fetch.store, s.Name(), Sum{s.Bytes, s.CRC}))
}

// verifyRows reads every row of a part's table.
func (t *Tier) verifyRows(ctx context.Context, p *Part) error {
	rows, err := t.tables.rows(ctx, p)
	if err != nil {
		return err
	}
	ok, err := rows.seekGE([]byte{0})
	for err == nil && ok {
		ok, err = rows.next()
	}
	return errors.Join(err, rows.close())
}

// finding makes one of an error that says what an object is; other errors are returned.
func finding(object string, at record.Position, err error) (*Finding, error) {
	var damage *DamageError
	var corrupt *commitlog.CorruptError
	switch {
	case err == nil:
		return nil, nil
	case errors.Is(err, objects.ErrNotFound):
		return &Finding{object, at, true, "it is missing"}, nil
	case errors.As(err, &damage):
		return &Finding{object, at, false, damage.Error()}, nil
	case errors.As(err, &corrupt):
		return &Finding{object, corrupt.Position, false, fmt.Sprintf("the log is damaged at position %d: %s", corrupt.Position, corrupt.Reason)}, nil
	}
	return nil, err
}
