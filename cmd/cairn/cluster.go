package main

import (
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

func newCluster() *cobra.Command {
	t := &tools{}
	c := &cobra.Command{Use: "cluster", Short: "Show brokers and what they are doing", Example: `  cairn cluster brokers
  cairn cluster rates
  cairn cluster status broker-a -o json`}
	t.flags(c)
	c.AddCommand(&cobra.Command{Use: "list", Aliases: []string{"brokers"}, Short: "List clusters and brokers", Args: cobra.NoArgs, RunE: t.run(func([]string) error { return t.listCluster() })},
		&cobra.Command{Use: "status [BROKER]", Short: "Show a broker's runtime figures", Args: cobra.MaximumNArgs(1),
			RunE: t.run(func(args []string) error { return t.status(args) })},
		&cobra.Command{Use: "rates", Short: "Show how many messages come and go", Args: cobra.NoArgs,
			RunE: t.run(func([]string) error { return t.clusterRates() })})
	return c
}

type brokerRow struct {
	Cluster string            `json:"cluster"`
	Broker  string            `json:"broker"`
	Addrs   map[int64]string  `json:"addresses"`
	Runtime map[string]string `json:"runtime,omitempty"`
}

func (t *tools) runtime(addr string) (map[string]string, error) {
	var kv body.KVTable
	_, err := t.call(addr, wire.GetBrokerRuntimeInfo, nil, nil, &kv)
	return kv.Table, err
}

func (t *tools) listCluster() error {
	all, err := t.masters()
	if err != nil {
		return err
	}
	rows := make([]brokerRow, 0, len(all))
	for _, b := range all {
		info, err := t.runtime(b.BrokerAddrs[0])
		if err != nil {
			return fmt.Errorf("broker %s: %w", b.BrokerName, err)
		}
		rows = append(rows, brokerRow{b.Cluster, b.BrokerName, b.BrokerAddrs, info})
	}
	return t.print(rows, "CLUSTER\tBROKER\tADDRESS\tVERSION\tIN/S\tOUT/S", func(w io.Writer) {
		for _, r := range rows {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.Cluster, r.Broker, r.Addrs[0], r.Runtime["brokerVersionDesc"], r.Runtime["putTps"], r.Runtime["getTransferredTps"])
		}
	})
}

func (t *tools) status(args []string) error {
	return t.eachMaster(func(name, addr string) error {
		if len(args) == 1 && args[0] != name {
			return nil
		}
		info, err := t.runtime(addr)
		if err != nil {
			return err
		}
		return t.print(info, name+"\t"+addr, func(w io.Writer) {
			for _, k := range slices.Sorted(maps.Keys(info)) {
				fmt.Fprintf(w, "%s\t%s\n", k, info[k])
			}
		})
	})
}
