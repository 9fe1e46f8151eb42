// Package metrics turns counters into the metric families that cAdvisor gives its users, in the CRI's messages
// (ListMetricDescriptors, ListPodSandboxMetrics): names, label keys and order are its subject.
//
// It is pure: what has been read comes in as a Sample, messages go out. It opens no file, asks no clock and keeps no
// state. A family without a value in a sample is left out of the answer: kubelet dereferences every value it is given.
// Values of the CRI are whole numbers, so families in seconds are cut to whole seconds.
//
// The families are those that containerd 2.x and CRI-O 1.3x describe, taken together. What they mean is said by
// cAdvisor's docs/storage/prometheus.md.
package metrics
