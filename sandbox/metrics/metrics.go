package metrics

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Descriptors lists all families. The answer is the caller's.
func Descriptors() []*rt.MetricDescriptor {
	out := make([]*rt.MetricDescriptor, 0, len(families))
	for _, f := range families {
		out = append(out, &rt.MetricDescriptor{Name: f.name, Help: f.help, LabelKeys: f.labelKeys()})
	}
	return out
}

func (f family) labelKeys() []string {
	return append([]string{"container", "id", "image", "namespace", "pod"}, f.keys...)
}

// Numbers of the fields that a snapshot is made of (cri-api runtime.v1; they are the same in PodSandboxMetrics and
// ContainerMetrics).
const (
	fieldID         = 1 // pod_sandbox_id, container_id
	fieldMetrics    = 2
	fieldContainers = 3

	metricName      = 1
	metricTimestamp = 2
	metricType      = 3
	metricLabels    = 4
	metricValue     = 5
	valueValue      = 1 // UInt64Value
)

// Message is the metrics of a pod and its containers, encoded. A full node has tens of thousands of metrics: as messages each would
// be several objects, all walked twice by the encoder. Encoded as they are read they are one slice a pod. The zero value is ready.
type Message struct {
	raw, scratch []byte
}

// Pod adds the pod's own metrics.
func (m *Message) Pod(s *Sample) { m.raw = appendMetrics(m.raw, s) }

// Container adds the metrics of one of its containers.
func (m *Message) Container(id string, s *Sample) {
	m.scratch = protowire.AppendTag(m.scratch[:0], fieldID, protowire.BytesType)
	m.scratch = protowire.AppendString(m.scratch, id)
	m.scratch = appendMetrics(m.scratch, s)
	m.raw = protowire.AppendTag(m.raw, fieldContainers, protowire.BytesType)
	m.raw = protowire.AppendBytes(m.raw, m.scratch)
}

// Take returns what was added as the pod's message, and begins another. Fields other than the id are in the message as bytes that
// the encoder passes on (ProtoReflect().GetUnknown()): who wants to look at them in this process has to decode them.
func (m *Message) Take(pod string) *rt.PodSandboxMetrics {
	out := &rt.PodSandboxMetrics{PodSandboxId: pod}
	out.ProtoReflect().SetUnknown(slices.Clone(m.raw))
	m.raw = m.raw[:0]
	return out
}

// Of returns the metrics of one container or pod, all with the sample's time, as messages.
func Of(s *Sample) []*rt.Metric {
	var out rt.ContainerMetrics
	if err := proto.Unmarshal(appendMetrics(nil, s), &out); err != nil {
		panic(err) // encoded here
	}
	return out.Metrics
}

// appendMetrics encodes the sample's metrics as fields of the message that they are part of.
func appendMetrics(to []byte, s *Sample) []byte {
	l := &s.Labels
	b := builder{out: to, common: make([]byte, 0, 512)}
	b.common = protowire.AppendTag(b.common, metricTimestamp, protowire.VarintType)
	b.common = protowire.AppendVarint(b.common, uint64(s.Time.UnixNano()))
	for _, v := range [...]string{l.Container, l.ID, l.Image, l.Namespace, l.Pod} {
		b.common = protowire.AppendString(append(b.common, tag(metricLabels, protowire.BytesType)), valid(v))
	}
	add := b.add
	for i := range families {
		b.f = &families[i]
		b.f.read(s, add)
	}
	return b.out
}

// builder encodes one metric after another.
type builder struct {
	f      *family // the one whose values come
	out    []byte
	common []byte // what is the same in all: time, labels
}

// add takes one value of the current family, with the values of the family's own labels.
func (b *builder) add(v uint64, own ...string) {
	if len(own) != len(b.f.keys) {
		return // a metric with other labels than described would be dropped by kubelet
	}
	size := 1 + protowire.SizeBytes(len(b.f.name)) + len(b.common) + 2 // tags of fields below 16 are one byte
	if b.f.kind != 0 {
		size += 1 + protowire.SizeVarint(uint64(b.f.kind))
	}
	for i := range own {
		own[i] = valid(own[i])
		size += 1 + protowire.SizeBytes(len(own[i]))
	}
	inner := 0 // of the value: a message that is present and empty for 0
	if v != 0 {
		inner = 1 + protowire.SizeVarint(v)
	}
	m := protowire.AppendVarint(append(b.out, tag(fieldMetrics, protowire.BytesType)), uint64(size+inner))
	m = protowire.AppendString(append(m, tag(metricName, protowire.BytesType)), b.f.name)
	if b.f.kind != 0 {
		m = protowire.AppendVarint(append(m, tag(metricType, protowire.VarintType)), uint64(b.f.kind))
	}
	m = append(m, b.common...)
	for _, l := range own {
		m = protowire.AppendString(append(m, tag(metricLabels, protowire.BytesType)), l)
	}
	m = append(m, tag(metricValue, protowire.BytesType), byte(inner))
	if v != 0 {
		m = protowire.AppendVarint(append(m, tag(valueValue, protowire.VarintType)), v)
	}
	b.out = m
}

// tag is the tag of a field below 16.
func tag(field protowire.Number, t protowire.Type) byte { return byte(field)<<3 | byte(t) }

// valid makes a label's value what a client can decode: it refuses a whole list in which one is not UTF-8, as a name of the
// kernel's may be.
func valid(v string) string {
	if utf8.ValidString(v) {
		return v
	}
	return strings.ToValidUTF8(v, "\uFFFD")
}

// device names a block device for a label.
func (s *Sample) device(major, minor uint32) string {
	if s.Device != nil {
		if name := s.Device(major, minor); name != "" {
			return name
		}
	}
	return strconv.FormatUint(uint64(major), 10) + ":" + strconv.FormatUint(uint64(minor), 10)
}
