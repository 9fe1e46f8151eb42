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
	b := builder{out: to}
	b.common = protowire.AppendTag(b.common, metricTimestamp, protowire.VarintType)
	b.common = protowire.AppendVarint(b.common, uint64(s.Time.UnixNano()))
	for _, v := range [...]string{l.Container, l.ID, l.Image, l.Namespace, l.Pod} {
		b.common = appendLabel(b.common, v)
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
	metric []byte // the one being made
}

// add takes one value of the current family, with the values of the family's own labels.
func (b *builder) add(v uint64, own ...string) {
	if len(own) != len(b.f.keys) {
		return // a metric with other labels than described would be dropped by kubelet
	}
	m := protowire.AppendTag(b.metric[:0], metricName, protowire.BytesType)
	m = protowire.AppendString(m, b.f.name)
	if b.f.kind != 0 {
		m = protowire.AppendTag(m, metricType, protowire.VarintType)
		m = protowire.AppendVarint(m, uint64(b.f.kind))
	}
	m = append(m, b.common...)
	for _, l := range own {
		m = appendLabel(m, l)
	}
	m = protowire.AppendTag(m, metricValue, protowire.BytesType)
	if v == 0 { // of a message that is present and empty
		m = protowire.AppendVarint(m, 0)
	} else {
		m = protowire.AppendVarint(m, uint64(1+protowire.SizeVarint(v)))
		m = protowire.AppendTag(m, valueValue, protowire.VarintType)
		m = protowire.AppendVarint(m, v)
	}
	b.metric = m
	b.out = protowire.AppendTag(b.out, fieldMetrics, protowire.BytesType)
	b.out = protowire.AppendBytes(b.out, m)
}

// appendLabel adds a label's value. A client can't decode a list in which one is not UTF-8, as a name of the kernel's may be.
func appendLabel(b []byte, v string) []byte {
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, "\uFFFD")
	}
	return protowire.AppendString(protowire.AppendTag(b, metricLabels, protowire.BytesType), v)
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
