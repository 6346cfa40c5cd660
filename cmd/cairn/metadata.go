package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnmq/cairn/catalog"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
	"github.com/cairnmq/cairn/javastore"
)

// configsAtOnce is how many topics or groups one request asks for.
const configsAtOnce = 2000

// mostAnew is how often a list may change while it is read.
const mostAnew = 20

// metadata is what a broker knows of topics, groups and offsets.
type metadata struct {
	topics  []catalog.Topic
	groups  []catalog.Group
	offsets []javastore.Offset
}

func newMetadata() *cobra.Command {
	t := &tools{}
	c := &cobra.Command{Use: "metadata", Short: "Export and import topics, groups and offsets", Example: `  cairn metadata export ./config
  cairn metadata import ./config --dry-run`}
	t.flags(c)
	var broker string
	c.PersistentFlags().StringVar(&broker, "broker", "", "name of the broker; not needed when there is only one")
	var force bool
	export := &cobra.Command{Use: "export FOLDER", Short: "Write a broker's topics, groups and offsets as a Java broker's files", Args: cobra.ExactArgs(1),
		Long: "Writes topics.json, subscriptionGroup.json and consumerOffset.json, as a Java broker has them in the folder config of its store.\n" +
			"Topics and groups of the system are left out: each broker has its own.",
		Example: "  cairn metadata export ./config",
		RunE:    t.run(func(args []string) error { return t.exportMetadata(args[0], broker, force) })}
	export.Flags().BoolVar(&force, "force", false, "write over files that are there")
	var dry bool
	load := &cobra.Command{Use: "import FOLDER", Short: "Make topics, groups and offsets from a Java broker's files", Args: cobra.ExactArgs(1),
		Long: "Reads topics.json, subscriptionGroup.json and consumerOffset.json, those of them that are there, from the folder config of a Java\n" +
			"broker's store or from `cairn metadata export`. A topic or group that is there already gets the configuration of the file.\n" +
			"Offsets are those of the broker that wrote the file: they fit where the messages have moved too.",
		Example: "  cairn metadata import /opt/rocketmq/store/config --dry-run\n  cairn metadata import ./config",
		RunE:    t.run(func(args []string) error { return t.importMetadata(args[0], broker, dry) })}
	load.Flags().BoolVar(&dry, "dry-run", false, "only say what would be done")
	c.AddCommand(export, load)
	return c
}

// brokerNamed is the address of a broker, or of the only one.
func (t *tools) brokerNamed(name string) (string, error) {
	all, err := t.masters()
	if err != nil {
		return "", err
	}
	var names []string
	for _, b := range all {
		if b.BrokerName == name || name == "" && len(all) == 1 {
			return b.BrokerAddrs[0], nil
		}
		names = append(names, b.BrokerName)
	}
	if name == "" {
		return "", usagef("there are %d brokers: choose one with --broker (%s)", len(all), strings.Join(names, ", "))
	}
	return "", usagef("there is no broker %s, but %s", name, strings.Join(names, ", "))
}

// readMetadata asks a broker for all that it has.
func (t *tools) readMetadata(addr string) (m metadata, err error) {
	m.topics, err = inParts("topics", func(first int, of body.DataVersion) (part[catalog.Topic], error) {
		var page body.TopicPage[catalog.Topic]
		resp, err := t.call(addr, wire.GetAllTopicConfig, partFields("topicSeq", "maxTopicNum", first, of), nil, &page)
		if err != nil {
			return part[catalog.Topic]{}, err
		}
		return part[catalog.Topic]{page.DataVersion, page.Topics, resp.Fields.Text("totalTopicNum")}, nil
	})
	if err != nil {
		return m, err
	}
	if m.groups, err = t.groupsOf(addr); err != nil {
		return m, err
	}
	own, err := t.systemNames(addr)
	if err != nil {
		return m, err
	}
	m.topics = slices.DeleteFunc(m.topics, func(topic catalog.Topic) bool { return own[topic.Name] || catalog.IsSystemTopic(topic.Name) })
	m.groups = slices.DeleteFunc(m.groups, func(g catalog.Group) bool { return catalog.IsSystemGroup(g.Name) })
	err = t.readOffsets(addr, &m)
	return m, err
}

// groupsOf are a broker's groups, in the order of their names.
func (t *tools) groupsOf(addr string) ([]catalog.Group, error) {
	return inParts("groups", func(first int, of body.DataVersion) (part[catalog.Group], error) {
		var page body.GroupPage[catalog.Group]
		resp, err := t.call(addr, wire.GetAllGroupConfig, partFields("groupSeq", "maxGroupNum", first, of), nil, &page)
		if err != nil {
			return part[catalog.Group]{}, err
		}
		return part[catalog.Group]{page.DataVersion, page.Groups, resp.Fields.Text("totalGroupNum")}, nil
	})
}

// part is one of the answers that a long list comes in.
type part[T any] struct {
	version body.DataVersion
	rows    map[string]T
	total   string // how many there are in all
}

// inParts reads a long list. Brokers begin it anew when it has changed since the part before.
func inParts[T any](what string, ask func(first int, of body.DataVersion) (part[T], error)) ([]T, error) {
	var rows []T
	var of body.DataVersion
	for anew := 0; anew < mostAnew; {
		p, err := ask(len(rows), of)
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 && p.version != of {
			rows = nil
			anew++
		}
		of = p.version
		for _, name := range slices.Sorted(maps.Keys(p.rows)) {
			rows = append(rows, p.rows[name])
		}
		if total, _ := strconv.Atoi(p.total); len(p.rows) == 0 || len(rows) >= total {
			return rows, nil
		}
	}
	return nil, fmt.Errorf("the broker's %s change faster than they can be read: try again", what)
}

func partFields(first, most string, at int, of body.DataVersion) map[string]string {
	version, _ := json.Marshal(of) // numbers only
	return map[string]string{first: strconv.Itoa(at), most: strconv.Itoa(configsAtOnce), "dataVersion": string(version)}
}

// systemNames are the topics that are a broker's own; those with the names of brokers and clusters are among them.
func (t *tools) systemNames(addr string) (map[string]bool, error) {
	var list body.TopicList
	_, err := t.call(addr, systemTopicsOfBroker, nil, nil, &list)
	names := make(map[string]bool, len(list.TopicList))
	for _, name := range list.TopicList {
		names[name] = true
	}
	return names, err
}

// readOffsets asks for the committed offset of each group in each queue of its topics.
func (t *tools) readOffsets(addr string, m *metadata) error {
	queues := make(map[string]int32, len(m.topics))
	for _, topic := range m.topics {
		queues[topic.Name] = topic.Queues()
	}
	p := t.progress(int64(len(m.groups)), "offsets of groups")
	for _, g := range m.groups {
		var topics body.TopicList
		if _, err := t.call(addr, topicsOfConsumer, map[string]string{"group": g.Name}, nil, &topics); err != nil {
			return fmt.Errorf("topics of group %s: %w", g.Name, err)
		}
		for _, topic := range topics.TopicList {
			for queue := range queues[topic] {
				at, ok, err := t.committed(addr, g.Name, topic, queue)
				if err != nil {
					return fmt.Errorf("group %s in queue %d of %s: %w", g.Name, queue, topic, err)
				}
				if ok {
					m.offsets = append(m.offsets, javastore.Offset{Group: g.Name, Topic: topic, Queue: queue, Offset: at})
				}
			}
		}
		p.add(1)
	}
	return nil
}

func (t *tools) committed(addr, group, topic string, queue int32) (at int64, ok bool, err error) {
	resp, err := t.call(addr, wire.QueryConsumerOffset, map[string]string{"consumerGroup": group, "topic": topic,
		"queueId": strconv.Itoa(int(queue)), "setZeroIfNotFound": "false"}, nil, nil)
	if isCode(err, wire.QueryNotFound) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	at, err = strconv.ParseInt(resp.Fields.Text("offset"), 10, 64)
	return at, err == nil, err
}

// progress shows how far long work is; for scripts it shows nothing.
func (t *tools) progress(total int64, what string) *progress {
	if t.output == "json" {
		return newProgress(io.Discard, total, what)
	}
	return newProgress(os.Stderr, total, what)
}

// metadataSummary is what was exported or imported.
type metadataSummary struct {
	Folder  string   `json:"folder"`
	DryRun  bool     `json:"dry_run,omitempty"`
	Topics  int      `json:"topics"`
	Groups  int      `json:"groups"`
	Offsets int      `json:"offsets"`
	Skipped []string `json:"skipped,omitempty"` // what was left out, and why
}

func (t *tools) exportMetadata(folder, broker string, force bool) error {
	names := []string{javastore.TopicsFile, javastore.GroupsFile, javastore.OffsetsFile}
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(folder, name)); err == nil && !force {
			return usagef("%s is there already: choose another folder, or --force", filepath.Join(folder, name))
		}
	}
	addr, err := t.brokerNamed(broker)
	if err != nil {
		return err
	}
	m, err := t.readMetadata(addr)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	version := javastore.Version{Counter: 1, Timestamp: time.Now().UnixMilli()}
	var files [3][]byte
	if files[0], err = javastore.MarshalTopics(m.topics, version); err != nil {
		return err
	}
	if files[1], err = javastore.MarshalGroups(javastore.Groups{Groups: m.groups}, version); err != nil {
		return err
	}
	if files[2], err = javastore.MarshalOffsets(m.offsets, version); err != nil {
		return err
	}
	for i, name := range names {
		if err := replaceFile(filepath.Join(folder, name), files[i]); err != nil {
			return err
		}
	}
	return t.summary(metadataSummary{Folder: folder, Topics: len(m.topics), Groups: len(m.groups), Offsets: len(m.offsets)}, "written to")
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, data []byte) error {
	tmp := path + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

func (t *tools) summary(s metadataSummary, what string) error {
	if t.output == "json" {
		return t.print(s, "", nil)
	}
	for _, line := range s.Skipped {
		fmt.Fprintln(t.out, "left out: "+line)
	}
	_, err := fmt.Fprintf(t.out, "%d topics, %d groups and %d offsets %s %s\n", s.Topics, s.Groups, s.Offsets, what, s.Folder)
	return err
}

// loadMetadata reads the files of a folder; what an import leaves out, and why, is in skipped.
func loadMetadata(folder string) (m metadata, skipped []string, err error) {
	found := 0
	read := func(name string, parse func([]byte) error) {
		if err != nil {
			return
		}
		data, rerr := os.ReadFile(filepath.Join(folder, name))
		if errors.Is(rerr, fs.ErrNotExist) {
			return
		}
		if err = rerr; err == nil {
			found++
			if err = parse(data); err != nil {
				err = fmt.Errorf("%s: %w", filepath.Join(folder, name), err)
			}
		}
	}
	read(javastore.TopicsFile, func(data []byte) (err error) {
		m.topics, err = javastore.ParseTopics(data)
		return err
	})
	read(javastore.GroupsFile, func(data []byte) error {
		g, err := javastore.ParseGroups(data)
		m.groups = g.Groups
		for _, name := range slices.Sorted(maps.Keys(g.Forbidden)) {
			skipped = append(skipped, fmt.Sprintf("what group %s may not read: here a group is disabled as a whole", name))
		}
		return err
	})
	read(javastore.OffsetsFile, func(data []byte) (err error) {
		m.offsets, err = javastore.ParseOffsets(data)
		return err
	})
	if err == nil && found == 0 {
		err = usagef("%s has none of %s, %s and %s", folder, javastore.TopicsFile, javastore.GroupsFile, javastore.OffsetsFile)
	}
	m.topics = slices.DeleteFunc(m.topics, func(topic catalog.Topic) bool { return catalog.IsSystemTopic(topic.Name) })
	m.groups = slices.DeleteFunc(m.groups, func(g catalog.Group) bool { return catalog.IsSystemGroup(g.Name) })
	m.offsets = slices.DeleteFunc(m.offsets, func(o javastore.Offset) bool {
		return catalog.IsSystemTopic(o.Topic) || catalog.IsSystemGroup(o.Group)
	})
	return m, skipped, err
}

func (t *tools) importMetadata(folder, broker string, dry bool) error {
	m, skipped, err := loadMetadata(folder)
	if err != nil {
		return err
	}
	addr, err := t.brokerNamed(broker)
	if err != nil {
		return err
	}
	own, err := t.systemNames(addr)
	if err != nil {
		return err
	}
	m.topics = slices.DeleteFunc(m.topics, func(topic catalog.Topic) bool { return own[topic.Name] })
	there, err := t.placesFor(addr, &m)
	if err != nil {
		return err
	}
	m.offsets = slices.DeleteFunc(m.offsets, func(o javastore.Offset) bool {
		why := there.missing(o)
		if why != "" {
			skipped = append(skipped, fmt.Sprintf("the offset of group %s in queue %d of %s: %s", o.Group, o.Queue, o.Topic, why))
		}
		return why != ""
	})
	s := metadataSummary{Folder: folder, DryRun: dry, Topics: len(m.topics), Groups: len(m.groups), Offsets: len(m.offsets), Skipped: skipped}
	if dry {
		return t.summary(s, "would be made from")
	}
	if err := t.writeMetadata(addr, &m); err != nil {
		return err
	}
	return t.summary(s, "made from")
}

// places are the queues and groups that a broker has after an import.
type places struct {
	queues map[string]int32
	groups map[string]bool
}

// placesFor are those of the import, and of the broker where offsets name others.
func (t *tools) placesFor(addr string, m *metadata) (p places, err error) {
	p = places{map[string]int32{}, map[string]bool{}}
	for _, topic := range m.topics {
		p.queues[topic.Name] = topic.Queues()
	}
	for _, g := range m.groups {
		p.groups[g.Name] = true
	}
	for _, o := range m.offsets {
		if _, known := p.queues[o.Topic]; !known {
			var c catalog.Topic
			if _, err := t.call(addr, wire.GetTopicConfig, map[string]string{"topic": o.Topic}, nil, &c); err != nil && !isCode(err, wire.TopicNotExist) {
				return p, err
			}
			p.queues[o.Topic] = c.Queues() // 0: it is not there
		}
		if _, known := p.groups[o.Group]; !known {
			_, err := t.call(addr, wire.GetGroupConfig, map[string]string{"group": o.Group}, nil, nil)
			if err != nil && !isCode(err, wire.SubscriptionGroupNotExist) {
				return p, err
			}
			p.groups[o.Group] = err == nil
		}
	}
	return p, nil
}

// missing says why an offset has no place, "" when it has one.
func (p places) missing(o javastore.Offset) string {
	switch queues := p.queues[o.Topic]; {
	case !p.groups[o.Group]:
		return "there is no such group"
	case queues == 0:
		return "there is no such topic"
	case o.Queue < 0 || o.Queue >= queues:
		return fmt.Sprintf("the topic has %d queues", queues)
	case o.Offset < 0:
		return "it is negative"
	}
	return ""
}

// writeMetadata makes what an import says. It stops at the first refusal; to begin again does no harm.
func (t *tools) writeMetadata(addr string, m *metadata) error {
	p := t.progress(int64(len(m.topics)+len(m.groups)+len(m.offsets)), "imported")
	for _, topic := range m.topics {
		var changes []string
		for _, k := range slices.Sorted(maps.Keys(topic.Attributes)) {
			changes = append(changes, "+"+strings.TrimPrefix(k, "+")+"="+topic.Attributes[k])
		}
		if err := t.putTopic(addr, topic, strings.Join(changes, ",")); err != nil {
			return fmt.Errorf("topic %s: %w", topic.Name, err)
		}
		p.add(1)
	}
	for _, g := range m.groups {
		changes := make(map[string]string, len(g.Attributes))
		for k, v := range g.Attributes {
			changes["+"+strings.TrimPrefix(k, "+")] = v
		}
		g.Attributes = changes
		if err := t.putGroup(addr, g); err != nil {
			return fmt.Errorf("group %s: %w", g.Name, err)
		}
		p.add(1)
	}
	for _, o := range m.offsets {
		_, err := t.call(addr, wire.UpdateConsumerOffset, map[string]string{"consumerGroup": o.Group, "topic": o.Topic,
			"queueId": strconv.Itoa(int(o.Queue)), "commitOffset": strconv.FormatInt(o.Offset, 10)}, nil, nil)
		if err != nil {
			return fmt.Errorf("the offset of group %s in queue %d of %s: %w", o.Group, o.Queue, o.Topic, err)
		}
		p.add(1)
	}
	return nil
}
