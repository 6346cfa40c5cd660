package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	doorgrpc "github.com/cairnmq/cairn/server/grpc"
	"github.com/cairnmq/cairn/server/nameserver"
	"github.com/cairnmq/cairn/server/remoting"
)

var rewrite = flag.Bool("rewrite", false, "write the tables of docs/compatibility.md anew")

const tablesMark = "<!-- what follows is made from the doors' own tables: go test ./cmd/cairn -run Compatibility -rewrite -->\n"

func tables() string {
	var b strings.Builder
	state := func(served bool) string {
		if served {
			return "yes"
		}
		return "no"
	}
	codes := remoting.Codes()
	var served int
	for _, c := range codes {
		if c.Served {
			served++
		}
	}
	for _, service := range []struct {
		name string
		rpcs []doorgrpc.RPC
	}{{"MessagingService", doorgrpc.Rpcs()}, {"Admin", doorgrpc.AdminRpcs()}} {
		fmt.Fprintf(&b, "\n## gRPC: %s\n\n| rpc | served | note |\n|---|---|---|\n", service.name)
		for _, r := range service.rpcs {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", r.Name, state(r.Served), r.Note)
		}
	}
	ns := nameserver.Codes()
	fmt.Fprintf(&b, "\n## Remoting: name server\n\n| code | name |\n|---|---|\n")
	for _, code := range slices.Sorted(maps.Keys(ns)) {
		fmt.Fprintf(&b, "| %d | %s |\n", code, ns[code])
	}
	fmt.Fprintf(&b, "\n## Remoting: broker\n\n%d of %d known request codes are served. Tier A: ordinary clients; B: administration; C: between brokers.\n\n", served, len(codes))
	fmt.Fprintf(&b, "| code | name | tier | served | answer otherwise |\n|---|---|---|---|---|\n")
	for _, c := range codes {
		fmt.Fprintf(&b, "| %d | %s | %c | %s | %s |\n", c.Number, c.Name, c.Tier, state(c.Served), c.Why)
	}
	return b.String()
}

func TestCompatibilityTables(t *testing.T) {
	file := filepath.Join("..", "..", "docs", "compatibility.md")
	page, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, kept, ok := strings.Cut(string(page), tablesMark)
	if !ok {
		t.Fatalf("%s has lost its mark %q", file, tablesMark)
	}
	want := tables()
	if *rewrite {
		if err := os.WriteFile(file, []byte(head+tablesMark+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if kept != want {
		t.Fatal("docs/compatibility.md is not what the doors serve: run go test ./cmd/cairn -run Compatibility -rewrite")
	}
}
