package catalog

import (
	"fmt"

	"github.com/cairnmq/cairn/kvindex"
)

func init() {
	kvindex.RegisterValue(kvindex.SpaceMeta, printCounters)
	kvindex.RegisterValue(kvindex.SpaceTopicName, printEntry)
	kvindex.RegisterValue(kvindex.SpaceGroupName, printEntry)
	for _, space := range []kvindex.Space{kvindex.SpaceTopicID, kvindex.SpaceGroupID, kvindex.SpaceKVConfig} {
		kvindex.RegisterValue(space, func(_, value []byte) string { return kvindex.FormatText(value) })
	}
}

func printEntry(_, value []byte) string {
	row, err := decodeEntryRow(value)
	if err != nil {
		return fmt.Sprintf("0x%x (%v)", value, err)
	}
	state := ""
	if row.state == stateRemnant {
		state = " deleted, offsets kept"
	}
	return fmt.Sprintf("id=%d created=%s%s %s", row.id, kvindex.FormatTime(row.created), state,
		kvindex.FormatText(row.config))
}

func printCounters(_, value []byte) string {
	n, err := decodeCounters(value)
	if err != nil {
		return fmt.Sprintf("0x%x (%v)", value, err)
	}
	return fmt.Sprintf("last_topic=%d last_group=%d topics=%d groups=%d version=%d changed=%s", n.lastTopic, n.lastGroup,
		n.topics, n.groups, n.version, kvindex.FormatTime(n.versionTime))
}
