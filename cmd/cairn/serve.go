package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/configs"
)

func newServe() *cobra.Command {
	var file, from string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run a broker: name server, Remoting, gRPC, health and metrics",
		Long: `Runs a broker until SIGINT or SIGTERM. Nothing needs to be configured: one folder holds everything (--data), and
clients connect to the name server on 9876 (Remoting, mqadmin, dashboard) or to 8081 (gRPC).

Every key of cairn.yaml is also a flag and an environment variable (--log-level, CAIRN_LOG_LEVEL); flags win over the
environment, and that over the file. 'cairn config sample' prints a file with every key explained.

With --restore-from tier a machine that has nothing takes over from one that is lost: topics, groups, offsets, timers and open
transactions are as of the last segment in the object store (tiered.url), and messages are fetched from there as they are read, so
it is ready within seconds. What the lost machine acknowledged later, and had not uploaded, is lost with it; the log says since
when. Should that machine still run, it keeps what it has and uploads no more. Start without the flag from then on.`,
		Example: `  cairn serve
  cairn serve --data /var/lib/cairn --advertise broker.example.com
  cairn serve --config cairn.yaml --durability interval
  cairn serve --config cairn.yaml --restore-from tier   # in an empty data folder`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configs.Load(file, cmd.Flags(), configs.Default())
			if err != nil {
				return &usageError{err}
			}
			log := newLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat)
			if cmd.Flags().Changed("restore-from") {
				if err := restore(cmd.Context(), cfg, from, log); err != nil {
					return err
				}
			}
			srv, err := start(cmd.Context(), cfg, log)
			if err != nil {
				return explainRestore(err, cfg)
			}
			select {
			case <-cmd.Context().Done():
				log.Info().Msg("stopping")
			case err = <-srv.failed:
				log.Error().Err(err).Msg("a door failed, stopping")
			}
			began := time.Now()
			if cerr := srv.close(); err == nil {
				err = cerr
			}
			if err == nil {
				log.Info().Dur("took", time.Since(began)).Msg("stopped")
			}
			return err
		},
	}
	c.Flags().StringVarP(&file, "config", "c", "", "configuration file (YAML)")
	c.Flags().StringVar(&from, "restore-from", "", `"tier": make the data folder, which must be empty, of what the object store of tiered.url has`)
	configs.AddFlags(c.Flags(), configs.Default())
	return c
}
