// Package configs composes and checks Cairn's configuration: defaults, then a YAML file, then CAIRN_… environment
// variables, then flags. An unknown key is an error.
package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"github.com/cairnmq/cairn/commitlog"
	"github.com/cairnmq/cairn/delay"
	"github.com/cairnmq/cairn/internal/telemetry"
	"github.com/cairnmq/cairn/tiered/objects"
)

// Config is everything that can be set. The key tag is the name in cairn.yaml (and, in upper case with underscores, of the
// environment variable: log-level is CAIRN_LOG_LEVEL, tiered.url is CAIRN_TIERED_URL); the flag of `cairn serve` has the same name.
type Config struct {
	Data             string        `key:"data" help:"folder that holds the commitlog and the index"`
	Cluster          string        `key:"cluster" help:"cluster name that clients and tools see"`
	Name             string        `key:"name" help:"broker name that clients and tools see"`
	Advertise        string        `key:"advertise" help:"host or address that clients are told to connect to; empty: found by itself"`
	NameServer       string        `key:"nameserver" help:"listen address of the embedded name server; 'off' for none"`
	Remoting         string        `key:"remoting" help:"listen address of the Remoting protocol; clients with vipChannelEnabled are served two ports below"`
	GRPC             string        `key:"grpc" help:"listen address of the gRPC protocol; 'off' for none"`
	HTTP             string        `key:"http" help:"listen address of health, metrics and the JSON endpoints of 'cairn timer' and 'cairn txn'; 'off' for none"`
	NameServers      []string      `key:"name-servers" help:"external name servers to register with, host:port each"`
	TLSCert          string        `key:"tls-cert" help:"PEM certificate that makes every port speak TLS as well as plain text"`
	TLSKey           string        `key:"tls-key" help:"PEM key of tls-cert"`
	Durability       string        `key:"durability" help:"what an acknowledgement survives: sync (power cut), interval (process kill; a power cut loses at most sync-interval), os (process kill)"`
	SyncInterval     time.Duration `key:"sync-interval" help:"longest time between two syncs with durability interval"`
	Retention        time.Duration `key:"retention" help:"how long messages are kept"`
	SegmentSize      ByteSize      `key:"segment-size" help:"size of one commitlog file; the disk is given back in this step"`
	Engine           string        `key:"engine" help:"index engine: pebble, or rocksdb in binaries built with the tag grocksdb"`
	Memory           ByteSize      `key:"memory" help:"budget for the index's caches and write buffers"`
	AutoCreateTopics bool          `key:"auto-create-topics" help:"a send to an unknown topic makes it"`
	AutoCreateGroups bool          `key:"auto-create-groups" help:"a consumer of an unknown group makes it"`
	DefaultQueues    int           `key:"default-queues" help:"queues of a topic that is made on demand"`
	MaxMessageSize   ByteSize      `key:"max-message-size" help:"largest body of one message"`
	DelayLevels      string        `key:"delay-levels" help:"delays that the property DELAY of a message chooses from, level 1 first"`
	MaxDelay         time.Duration `key:"max-delay" help:"longest time that a message may be delayed by"`
	TxTimeout        time.Duration `key:"transaction-timeout" help:"time after which a producer is asked for the end of its transaction"`
	TxCheckInterval  time.Duration `key:"transaction-check-interval" help:"time between two such questions"`
	TxMaxChecks      int           `key:"transaction-max-checks" help:"questions after which a transaction is parked: not asked for any more, until 'cairn txn' ends it"`
	TieredURL        string        `key:"tiered.url" help:"object store that sealed segments go to, file:///folder or s3://bucket/prefix?endpoint=host:port&region=name&path-style=true; empty: none. Names in it begin with CLUSTER/NAME/"`
	TieredRetention  time.Duration `key:"tiered.retention" help:"how long messages are kept there; retention is then how long they are kept here, too"`
	TieredMemory     ByteSize      `key:"tiered.cache.memory" help:"memory for what was read from the object store"`
	TieredDisk       ByteSize      `key:"tiered.cache.disk" help:"disk space for what was read from the object store, below the data folder; 0 for none"`
	TieredBandwidth  ByteSize      `key:"tiered.upload.bandwidth" help:"bytes a second that uploads take at most; 0 for no limit"`
	TieredEncryption string        `key:"tiered.encryption" help:"what an S3 service encrypts objects with: none (as the bucket is set), AES256, aws:kms or aws:kms:KEY"`
	OTLPEndpoint     string        `key:"metrics-otlp-endpoint" help:"OpenTelemetry collector that metrics are pushed to over gRPC, host:port or https://host:port; empty: none"`
	OTLPInterval     time.Duration `key:"metrics-otlp-interval" help:"time between two such pushes"`
	LogLevel         string        `key:"log-level" help:"debug, info, warn or error"`
	LogFormat        string        `key:"log-format" help:"text, json, or auto (text on a terminal)"`
}

// ByteSize is a number of bytes; it is written as 64MiB, 1GiB or a plain number.
type ByteSize int64

// Default is the configuration of a broker that was told nothing.
func Default() Config {
	return Config{
		Data: "cairn-data", Cluster: "DefaultCluster", Name: "broker-a",
		NameServer: ":9876", Remoting: ":10911", GRPC: ":8081", HTTP: ":9877",
		Durability: "sync", SyncInterval: 200 * time.Millisecond, Retention: 72 * time.Hour,
		SegmentSize: 1 << 30, Engine: "pebble", Memory: 64 << 20,
		AutoCreateTopics: true, AutoCreateGroups: true, DefaultQueues: 8, MaxMessageSize: 4 << 20,
		DelayLevels: delay.DefaultLevels, MaxDelay: 365 * 24 * time.Hour,
		TxTimeout: 6 * time.Second, TxCheckInterval: 30 * time.Second, TxMaxChecks: 15,
		TieredRetention: 365 * 24 * time.Hour, TieredMemory: 64 << 20, TieredDisk: 1 << 30, TieredEncryption: "none",
		OTLPInterval: time.Minute, LogLevel: "info", LogFormat: "auto",
	}
}

// Off is the listen address of a port that is not opened.
const Off = "off"

// Error lists everything that is wrong with a configuration, so that one run shows it all.
type Error struct{ Problems []string }

func (e *Error) Error() string { return "configuration: " + strings.Join(e.Problems, "; ") }

// AddFlags declares a flag for every key, with the defaults of d.
func AddFlags(fs *pflag.FlagSet, d Config) {
	each(&d, func(key, help string, v reflect.Value) {
		switch x := v.Addr().Interface().(type) {
		case *string:
			fs.String(key, *x, help)
		case *bool:
			fs.Bool(key, *x, help)
		case *int:
			fs.Int(key, *x, help)
		case *time.Duration:
			fs.Duration(key, *x, help)
		case *[]string:
			fs.StringSlice(key, *x, help)
		case *ByteSize:
			fs.String(key, x.String(), help)
		default:
			panic(fmt.Sprintf("configs: no flag for the type of %s", key))
		}
	})
}

// noDelimiter is in no key, so that a dot in one is part of it.
const noDelimiter = "::"

// Load composes a configuration: defaults d, the file (when not empty), the environment, and the flags that were set.
// Errors are *Error, or those of reading the file.
func Load(file string, flags *pflag.FlagSet, d Config) (Config, error) {
	v := viper.NewWithOptions(viper.KeyDelimiter(noDelimiter))
	v.SetEnvPrefix("CAIRN")
	v.SetEnvKeyReplacer(strings.NewReplacer("-", "_", ".", "_"))
	v.AutomaticEnv()
	each(&d, func(key, _ string, val reflect.Value) {
		v.SetDefault(key, val.Interface())
		if flags != nil {
			if f := flags.Lookup(key); f != nil && f.Changed {
				_ = v.BindPFlag(key, f) // fails for a nil flag only
			}
		}
	})
	if file != "" {
		v.SetConfigFile(file)
		if err := v.ReadInConfig(); err != nil {
			return Config{}, fmt.Errorf("read configuration %s: %w", file, err)
		}
	}
	c := d
	hooks := mapstructure.ComposeDecodeHookFunc(byteSizeHook, mapstructure.StringToTimeDurationHookFunc(), mapstructure.StringToSliceHookFunc(","))
	err := v.UnmarshalExact(&c, viper.DecodeHook(hooks), func(dc *mapstructure.DecoderConfig) { dc.TagName = "key" })
	if err != nil {
		return Config{}, &Error{Problems: problemsOf(err)}
	}
	return c, c.Check()
}

func problemsOf(err error) []string {
	var joined interface{ WrappedErrors() []error }
	if errors.As(err, &joined) {
		var out []string
		for _, e := range joined.WrappedErrors() {
			out = append(out, strings.TrimPrefix(e.Error(), "'' "))
		}
		return out
	}
	return []string{err.Error()}
}

// Check returns nil or *Error.
func (c *Config) Check() error {
	var p []string
	bad := func(key, format string, args ...any) { p = append(p, key+": "+fmt.Sprintf(format, args...)) }
	if c.Data == "" {
		bad("data", "must name a folder")
	}
	if c.Cluster == "" || c.Name == "" {
		bad("cluster, name", "must not be empty")
	}
	for key, a := range map[string]*string{"nameserver": &c.NameServer, "remoting": &c.Remoting, "grpc": &c.GRPC, "http": &c.HTTP} {
		if *a == Off && key != "remoting" {
			continue
		}
		if _, err := strconv.Atoi(*a); err == nil {
			*a = ":" + *a
		}
		if _, _, err := net.SplitHostPort(*a); err != nil {
			bad(key, "%q is not a listen address such as :10911 or 127.0.0.1:10911", *a)
		}
	}
	for _, a := range c.NameServers {
		if _, _, err := net.SplitHostPort(a); err != nil {
			bad("name-servers", "%q is not host:port", a)
		}
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		bad("tls-cert, tls-key", "give both or none")
	}
	if _, ok := modes[c.Durability]; !ok {
		bad("durability", "%q is none of sync, interval, os", c.Durability)
	}
	if c.SyncInterval < time.Millisecond || c.SyncInterval > time.Minute {
		bad("sync-interval", "%s is not between 1ms and 1m", c.SyncInterval)
	}
	c.checkKeeping(bad)
	if c.SegmentSize < 16<<20 || c.SegmentSize > 64<<30 {
		bad("segment-size", "%s is not between 16MiB and 64GiB", c.SegmentSize)
	}
	if c.Memory < 16<<20 {
		bad("memory", "%s is under the least, 16MiB", c.Memory)
	}
	if c.Engine != "pebble" && c.Engine != "rocksdb" {
		bad("engine", "%q is none of pebble, rocksdb", c.Engine)
	}
	if c.DefaultQueues < 1 || c.DefaultQueues > 1024 {
		bad("default-queues", "%d is not between 1 and 1024", c.DefaultQueues)
	}
	if c.MaxMessageSize < 1 || c.MaxMessageSize > 12<<20 {
		bad("max-message-size", "%s is not between 1 and 12MiB (a frame holds 16MiB)", c.MaxMessageSize)
	}
	c.checkTime(bad)
	if c.OTLPEndpoint != "" {
		if err := telemetry.CheckEndpoint(c.OTLPEndpoint); err != nil {
			bad("metrics-otlp-endpoint", "%v", err)
		}
	}
	if c.OTLPInterval < time.Second || c.OTLPInterval > time.Hour {
		bad("metrics-otlp-interval", "%s is not between 1s and 1h", c.OTLPInterval)
	}
	switch c.LogLevel {
	case "debug", "info", "warn", "error":
	default:
		bad("log-level", "%q is none of debug, info, warn, error", c.LogLevel)
	}
	switch c.LogFormat {
	case "auto", "text", "json":
	default:
		bad("log-format", "%q is none of auto, text, json", c.LogFormat)
	}
	if len(p) > 0 {
		return &Error{Problems: p}
	}
	return nil
}

// The least that can be set.
const (
	leastRetention     = time.Hour   // of messages that are nowhere else
	leastWithTier      = time.Second // of those that are in the tier, too
	leastTieredMemory  = 4 << 20     // bytes
	leastTieredDisk    = 16 << 20
	leastTieredUploads = 64 << 10 // bytes a second
)

// checkKeeping checks how long messages are kept, and the keys of the tier.
func (c *Config) checkKeeping(bad func(key, format string, args ...any)) {
	least := leastRetention
	if c.TieredURL != "" {
		least = leastWithTier
	}
	if c.Retention < least {
		bad("retention", "%s is under the least, %s", c.Retention, least)
	}
	if c.TieredURL == "" {
		return
	}
	if err := objects.CheckAddress(c.TieredURL, objects.Options{Encryption: c.TieredEncryption}); err != nil {
		bad("tiered.url, tiered.encryption", "%v", err)
	}
	if c.TieredRetention < c.Retention {
		bad("tiered.retention", "%s is less than retention, %s: messages would leave the object store before they leave this machine", c.TieredRetention, c.Retention)
	}
	if c.TieredMemory < leastTieredMemory {
		bad("tiered.cache.memory", "%s is under the least, %s", c.TieredMemory, ByteSize(leastTieredMemory))
	}
	if c.TieredDisk != 0 && c.TieredDisk < leastTieredDisk {
		bad("tiered.cache.disk", "%s is neither 0 nor at least %s", c.TieredDisk, ByteSize(leastTieredDisk))
	}
	if c.TieredBandwidth != 0 && c.TieredBandwidth < leastTieredUploads {
		bad("tiered.upload.bandwidth", "%s a second is neither 0 nor at least %s", c.TieredBandwidth, ByteSize(leastTieredUploads))
	}
}

// checkTime checks the keys of timers and transactions.
func (c *Config) checkTime(bad func(key, format string, args ...any)) {
	if _, err := delay.ParseLevels(c.DelayLevels); err != nil {
		bad("delay-levels", "%v", err)
	}
	if c.MaxDelay < time.Second || c.MaxDelay > longestDelay {
		bad("max-delay", "%s is not between 1s and %s", c.MaxDelay, longestDelay)
	}
	for key, d := range map[string]time.Duration{"transaction-timeout": c.TxTimeout, "transaction-check-interval": c.TxCheckInterval} {
		if d < 100*time.Millisecond || d > 24*time.Hour {
			bad(key, "%s is not between 100ms and 24h", d)
		}
	}
	if c.TxMaxChecks < 1 || c.TxMaxChecks > 1000 {
		bad("transaction-max-checks", "%d is not between 1 and 1000", c.TxMaxChecks)
	}
}

// longestDelay that can be set: a century.
const longestDelay = 100 * 365 * 24 * time.Hour

// Levels are the delay levels of a configuration that Check has found good.
func (c *Config) Levels() delay.Levels {
	l, _ := delay.ParseLevels(c.DelayLevels)
	return l
}

var modes = map[string]commitlog.Mode{"sync": commitlog.ModeSync, "interval": commitlog.ModeInterval, "os": commitlog.ModeOS}

// Mode is the commitlog's durability mode.
func (c *Config) Mode() commitlog.Mode { return modes[c.Durability] }

// AdvertiseHost is the address that clients are told: what was set (a name is resolved), else the machine's first
// address that is not loopback, else 127.0.0.1.
func (c *Config) AdvertiseHost() (netip.Addr, error) {
	if c.Advertise != "" {
		if a, err := netip.ParseAddr(c.Advertise); err == nil {
			return a, nil
		}
		ips, err := net.LookupIP(c.Advertise)
		if err != nil {
			return netip.Addr{}, fmt.Errorf("resolve advertise %q: %w", c.Advertise, err)
		}
		for _, ip := range ips {
			if a, ok := netip.AddrFromSlice(ip); ok {
				return a.Unmap(), nil
			}
		}
	}
	if host, _, err := net.SplitHostPort(c.Remoting); err == nil {
		if a, err := netip.ParseAddr(host); err == nil && !a.IsUnspecified() {
			return a, nil
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err == nil {
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && !p.Addr().IsLoopback() && !p.Addr().IsLinkLocalUnicast() {
				return p.Addr(), nil
			}
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
}

// Sample is a commented cairn.yaml with every key at its default.
func Sample() string {
	d := Default()
	var b strings.Builder
	b.WriteString("# Cairn's configuration: every key with its default. An unknown key is an error.\n")
	b.WriteString("# Each can also be set by a flag of `cairn serve` (--key) or the environment (CAIRN_KEY, dashes and dots as underscores).\n")
	each(&d, func(key, help string, v reflect.Value) {
		fmt.Fprintf(&b, "\n# %s.\n%s: %s\n", strings.ToUpper(help[:1])+help[1:], key, yamlValue(v))
	})
	return b.String()
}

func yamlValue(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		return strconv.Quote(x)
	case []string:
		return "[" + strings.Join(x, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}

func each(c *Config, f func(key, help string, v reflect.Value)) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		t := v.Type().Field(i)
		f(t.Tag.Get("key"), t.Tag.Get("help"), v.Field(i))
	}
}

var sizeUnits = []struct {
	suffix string
	bytes  int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

// ParseByteSize reads 64MiB, 1GiB, 512KiB or a plain number of bytes.
func ParseByteSize(s string) (ByteSize, error) {
	for _, u := range sizeUnits {
		if n, ok := strings.CutSuffix(s, u.suffix); ok {
			v, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			if err != nil || v < 0 || v > (1<<62)/u.bytes {
				return 0, fmt.Errorf("%q is not a size such as 64MiB", s)
			}
			return ByteSize(v * u.bytes), nil
		}
	}
	return 0, fmt.Errorf("%q is not a size such as 64MiB", s)
}

func (b ByteSize) String() string {
	for _, u := range sizeUnits {
		if u.bytes > 1 && int64(b)%u.bytes == 0 && b != 0 {
			return fmt.Sprintf("%d%s", int64(b)/u.bytes, u.suffix)
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

func byteSizeHook(from, to reflect.Type, data any) (any, error) {
	if to != reflect.TypeFor[ByteSize]() || from.Kind() != reflect.String {
		return data, nil
	}
	return ParseByteSize(data.(string))
}

// WriteSample writes the sample to a file that does not exist yet.
func WriteSample(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("write sample configuration: %w", err)
	}
	_, err = f.WriteString(Sample())
	return errors.Join(err, f.Close())
}
