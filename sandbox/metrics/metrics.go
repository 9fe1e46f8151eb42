package metrics

import (
	"slices"
	"strconv"

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

// Of returns the metrics of one container or pod, all with the sample's time. They share memory: a list of label values must
// not be changed.
func Of(s *Sample) []*rt.Metric {
	l := &s.Labels
	b := builder{at: s.Time.UnixNano(), out: make([]*rt.Metric, 0, 72), common: []string{l.Container, l.ID, l.Image, l.Namespace, l.Pod}}
	add := b.add
	for i := range families {
		b.f = families[i]
		b.f.read(s, add)
	}
	return b.out
}

// builder makes messages from slabs: a snapshot of a full node has ten thousand of them.
type builder struct {
	f      family // the one whose values come
	at     int64
	out    []*rt.Metric
	slab   []entry
	common []string // values of the labels that all have, shared by the families that have no others
}

type entry struct {
	metric rt.Metric
	value  rt.UInt64Value
}

// add takes one value of the current family, with the values of the family's own labels.
func (b *builder) add(v uint64, own ...string) {
	if len(own) != len(b.f.keys) {
		return // a metric with other labels than described would be dropped by kubelet
	}
	if len(b.slab) == 0 {
		b.slab = make([]entry, 32)
	}
	labels := b.common
	if len(own) > 0 {
		labels = slices.Concat(b.common, own)
	}
	e := &b.slab[0]
	b.slab = b.slab[1:]
	e.value.Value = v
	m := &e.metric
	m.Name, m.Timestamp, m.MetricType, m.LabelValues, m.Value = b.f.name, b.at, b.f.kind, labels, &e.value
	b.out = append(b.out, m)
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
