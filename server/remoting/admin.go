package remoting

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/cairnmq/cairn/broker"
	"github.com/cairnmq/cairn/internal/body"
	"github.com/cairnmq/cairn/internal/wire"
)

// The codes of mqadmin, the dashboard and the exporter are in the files admin_*.go. Unknown names get the answers of the
// reference where tools depend on them: 17 for a topic, 26 for a group, 206 for a group that is not online.

// maxAdminBody bounds the body of an answer: clients of the reference read no frame over 16 MiB.
const maxAdminBody = 15 << 20

// adminBody sets the body of a response to v, in the dialect that all Java clients read.
func adminBody(resp *wire.Command, v any) error {
	b, err := body.Marshal(v)
	if err != nil {
		return err
	}
	if len(b) > maxAdminBody {
		return refuse(wire.SystemError, "the answer has %d bytes, more than a client reads: ask for a part of it", len(b))
	}
	resp.Body = b
	return nil
}

// readBody reads the JSON body of a request.
func readBody(req *wire.Command, v any) error {
	return badBody(body.Unmarshal(req.Body, v))
}

// badBody makes an error of reading JSON one that says it to the tool.
func badBody(err error) error {
	var mismatch *json.UnmarshalTypeError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &mismatch) && mismatch.Field == "":
		return refuse(wire.SystemError, "request body: %s where an object belongs", mismatch.Value)
	case errors.As(err, &mismatch):
		return refuse(wire.SystemError, "request body: %s does not belong into the field %q", mismatch.Value, mismatch.Field)
	}
	return refuse(wire.SystemError, "request body: %v", err)
}

// dataVersion is the catalog's: it counts the changes of topics and groups.
func (d *Door) dataVersion() body.DataVersion {
	counter, timestamp := d.broker.Catalog().Version()
	return body.DataVersion{Counter: counter, Timestamp: timestamp}
}

// page is which part of a long list a request wants: most of them from first on, in the order of their names. A tool that asks
// for a following part says which version the former one was of; when that is gone, it gets the beginning again.
type page struct{ first, most int }

// pageOf reads it; the whole list when the request names no size.
func (d *Door) pageOf(req *wire.Command, firstField, mostField string) (page, error) {
	first, err := req.Fields.Int32Or(firstField, 0)
	if err != nil {
		return page{}, err
	}
	most, err := req.Fields.Int32Or(mostField, 0)
	if err != nil {
		return page{}, err
	}
	p := page{first: int(max(first, 0)), most: int(most)}
	if p.most <= 0 {
		return page{most: maxWholeList}, nil
	}
	p.most = min(p.most, maxWholeList)
	var known body.DataVersion
	if json.Unmarshal([]byte(req.Fields.Text("dataVersion")), &known) != nil || known != d.dataVersion() {
		p.first = 0
	}
	return p, nil
}

// maxWholeList is how many topics or groups one answer holds at most.
const maxWholeList = 50_000

// attributeChanges is a change of attributes as the broker's verbs take it, made from one in which every key has a + or -
// before it.
func attributeChanges(attributes map[string]string) string {
	changes := make([]string, 0, len(attributes))
	for k, v := range attributes {
		if v != "" && !strings.HasPrefix(k, "-") {
			k += "=" + v
		}
		changes = append(changes, k)
	}
	slices.Sort(changes)
	return strings.Join(changes, ",")
}

// someAttributes are {} where there are none, which JSON would leave out or show as null.
func someAttributes(attributes map[string]string) map[string]string {
	if attributes == nil {
		return map[string]string{}
	}
	return attributes
}

// subscriptionBody is a subscription as tools read it.
func subscriptionBody(s broker.Subscription) body.Subscription {
	out := body.Subscription{
		Topic: s.Topic, SubString: s.Expression, ExpressionType: s.ExpressionType, SubVersion: s.Version, TagsSet: s.Tags, CodeSet: s.Codes,
		ClassFilterMode: s.ClassFilter,
	}
	if out.ExpressionType == "" {
		out.ExpressionType = "TAG"
	}
	if out.TagsSet == nil {
		out.TagsSet = []string{}
	}
	if out.CodeSet == nil {
		out.CodeSet = []int32{}
	}
	return out
}

// queueBody names one of our queues.
func (d *Door) queueBody(topic string, queue int32) body.MessageQueue {
	return body.MessageQueue{BrokerName: d.broker.Options().BrokerName, QueueID: queue, Topic: topic}
}

// advertised is the address that clients know this broker by.
func (d *Door) advertised() string { return d.broker.Options().Advertise.String() }
