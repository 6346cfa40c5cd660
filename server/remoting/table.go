package remoting

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cairnmq/cairn/internal/wire"
)

// Tier says who uses a request code.
type Tier byte

// Tiers.
const (
	TierClient   Tier = 'A' // ordinary producers and consumers
	TierAdmin    Tier = 'B' // mqadmin, dashboards
	TierInternal Tier = 'C' // brokers among themselves, controllers
)

// Code is one request code of the table. docs/compatibility.md is made from these.
type Code struct {
	Number int
	Name   string
	Tier   Tier
	Served bool
	Why    string // what the door says where it does not serve the code
}

// inline is a handler that runs on the connection's reader goroutine. It must not block, and it owns req as
// wire.Handler.Serve does.
type inline func(d *Door, s *session, req *wire.Command)

// pooled is a handler that runs on the door's worker pool, where it may block until ctx ends. It fills in resp, which is
// a success until it says otherwise. An error becomes the response that errors.go makes of it; resp is dropped then. The
// door releases req and resp.
type pooled func(ctx context.Context, d *Door, s *session, req, resp *wire.Command) error

type entry struct {
	Code
	label  string // the name for metrics
	inline inline
	pooled pooled
}

// table holds every request code that is known, by number. It is filled by the init functions of the files of this
// package, one file for each family of codes, and not changed afterwards.
var table = map[int]*entry{}

func add(e *entry) {
	if old := table[e.Number]; old != nil {
		panic(fmt.Sprintf("request code %d is %s and %s", e.Number, old.Name, e.Name))
	}
	e.label = strings.ToLower(e.Name)
	table[e.Number] = e
}

// serveInline registers a handler that never blocks.
func serveInline(number int, name string, tier Tier, h inline) {
	add(&entry{Code: Code{Number: number, Name: name, Tier: tier, Served: true}, inline: h})
}

// servePooled registers a handler that may block.
func servePooled(number int, name string, tier Tier, h pooled) {
	add(&entry{Code: Code{Number: number, Name: name, Tier: tier, Served: true}, pooled: h})
}

// refuseCode registers a code that is known and answered with code 3 and why.
func refuseCode(number int, name string, tier Tier, why string) {
	add(&entry{Code: Code{Number: number, Name: name, Tier: tier, Why: why}, inline: func(_ *Door, s *session, req *wire.Command) {
		s.conn.Respond(req, req.Reply(wire.RequestCodeNotSupported, name+" is not supported: "+why))
	}})
}

// Codes lists the request codes that the door knows, by number.
func Codes() []Code {
	all := make([]Code, 0, len(table))
	for _, n := range slices.Sorted(maps.Keys(table)) {
		all = append(all, table[n].Code)
	}
	return all
}
