package main

import (
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/configs"
)

func newServe() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use:   "serve",
		Short: "Run a broker: name server, Remoting, gRPC, health and metrics",
		Long: `Runs a broker until SIGINT or SIGTERM. Nothing needs to be configured: one folder holds everything (--data), and
clients connect to the name server on 9876 (Remoting, mqadmin, dashboard) or to 8081 (gRPC).

Every key of cairn.yaml is also a flag and an environment variable (--log-level, CAIRN_LOG_LEVEL); flags win over the
environment, and that over the file. 'cairn config sample' prints a file with every key explained.`,
		Example: `  cairn serve
  cairn serve --data /var/lib/cairn --advertise broker.example.com
  cairn serve --config cairn.yaml --durability interval`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := configs.Load(file, cmd.Flags(), configs.Default())
			if err != nil {
				return &usageError{err}
			}
			log := newLogger(os.Stderr, cfg.LogLevel, cfg.LogFormat)
			srv, err := start(cmd.Context(), cfg, log)
			if err != nil {
				return err
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
	configs.AddFlags(c.Flags(), configs.Default())
	return c
}
