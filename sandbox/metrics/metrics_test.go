package metrics_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/metrics"
	"github.com/berth-runtime/berth/sandbox/ns"
)

func full() *metrics.Sample {
	psi := &cgroup.PSI{Some: cgroup.Pressure{Total: 3500 * time.Millisecond}, Full: cgroup.Pressure{Total: 2 * time.Second}}
	d := &cgroup.Detail{
		MemoryPeak: 300, MemoryFails: 7, OOMKills: 2,
		Huge:    []cgroup.Huge{{Size: "2MB", Usage: 11, Peak: 12}, {Size: "1GB"}},
		Devices: []cgroup.DeviceIO{{Major: 8, Minor: 0, Transfer: cgroup.Transfer{ReadBytes: 21, WriteBytes: 22, Reads: 23, Writes: 24}}, {Major: 254, Minor: 1}},
	}
	d.CPU = cgroup.CPUStats{Usage: 5999 * time.Millisecond, User: 3 * time.Second, System: 2 * time.Second, Periods: 31, Throttled: 32, Waited: 33 * time.Second, PSI: psi}
	d.Memory = cgroup.MemoryStats{Usage: 200, WorkingSet: 150, RSS: 100, Faults: 41, Major: 42, PSI: psi, Cache: 43, Mapped: 44, ActiveFile: 45, InactiveFile: 46, Kernel: 47}
	d.IO.PSI = psi
	d.Swap.Usage = 48
	d.Pids = cgroup.PidsStats{Current: 51, Limit: 1<<64 - 1}
	return &metrics.Sample{
		Labels: metrics.Labels{Container: "c", ID: "/a/b", Image: "i:1", Namespace: "n", Pod: "p"},
		Time:   time.Unix(1000, 5), Started: time.Unix(900, 0), Counters: &d.Stats, Detail: d,
		Resources: &rt.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: -1, CpuShares: 512, MemoryLimitInBytes: 61, MemorySwapLimitInBytes: 62, Unified: map[string]string{"memory.low": "63"}},
		Writable:  &metrics.Writable{Bytes: 71, Inodes: 72},
		Disk:      &metrics.Disk{Device: "/dev/sda1", Bytes: 73, Inodes: 74, InodesFree: 75},
		Processes: &metrics.Processes{Count: 81, Descriptors: 82, Sockets: 83, SoftFiles: 84},
		Links:     []ns.Link{{Name: "lo", RxBytes: 1}, {Name: "eth0", RxBytes: 91, TxBytes: 92, RxPackets: 93, TxPackets: 94, RxErrors: 95, TxErrors: 96, RxDropped: 97, TxDropped: 98}},
		Device:    func(major, minor uint32) string { return map[uint32]string{8: "/dev/sda"}[major] },
	}
}

// The contract's 58 names.
const names = `cpu_user_seconds_total cpu_system_seconds_total cpu_usage_seconds_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total
cpu_cfs_throttled_seconds_total fs_inodes_free fs_inodes_total fs_limit_bytes fs_usage_bytes fs_reads_bytes_total fs_reads_total
fs_writes_bytes_total fs_writes_total blkio_device_usage_total memory_cache memory_rss memory_kernel_usage memory_mapped_file memory_swap
memory_failcnt memory_usage_bytes memory_max_usage_bytes memory_working_set_bytes memory_failures_total network_receive_bytes_total
network_receive_packets_total network_receive_packets_dropped_total network_receive_errors_total network_transmit_bytes_total
network_transmit_packets_total network_transmit_packets_dropped_total network_transmit_errors_total oom_events_total file_descriptors
processes sockets threads threads_max ulimits_soft last_seen start_time_seconds spec_cpu_period spec_cpu_shares spec_memory_limit_bytes
spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes memory_total_active_file_bytes memory_total_inactive_file_bytes
hugetlb_usage_bytes hugetlb_max_usage_bytes spec_cpu_quota pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
pressure_memory_stalled_seconds_total pressure_memory_waiting_seconds_total pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total`

func TestDescriptors(t *testing.T) {
	t.Parallel()
	var want, have []string
	for _, n := range strings.Fields(names) {
		want = append(want, "container_"+n)
	}
	for _, d := range metrics.Descriptors() {
		have = append(have, d.Name)
		if d.Help == "" || !slices.Equal(d.LabelKeys[:5], []string{"container", "id", "image", "namespace", "pod"}) {
			t.Errorf("%s: %q %q", d.Name, d.Help, d.LabelKeys)
		}
	}
	slices.Sort(want)
	slices.Sort(have)
	if len(want) != 58 || !slices.Equal(want, have) {
		t.Errorf("%d families:\n%q\nwant %d:\n%q", len(have), have, len(want), want)
	}
}

// Every value is there, is described, and has as many labels as its description.
func TestSampleIsComplete(t *testing.T) {
	t.Parallel()
	keys := map[string][]string{}
	for _, d := range metrics.Descriptors() {
		keys[d.Name] = d.LabelKeys
	}
	seen := map[string]bool{}
	series := map[string]bool{}
	for _, m := range metrics.Of(full()) {
		if m.Value == nil || m.Timestamp != time.Unix(1000, 5).UnixNano() {
			t.Errorf("%s has no value or time", m.Name)
		}
		if len(m.LabelValues) != len(keys[m.Name]) {
			t.Errorf("%s: labels %q for keys %q", m.Name, m.LabelValues, keys[m.Name])
		}
		if counter := strings.HasSuffix(m.Name, "_total") && !strings.Contains(m.Name, "inodes") || strings.HasSuffix(m.Name, "failcnt"); counter != (m.MetricType == rt.MetricType_COUNTER) {
			t.Errorf("%s is a %v", m.Name, m.MetricType)
		}
		one := m.Name + strings.Join(m.LabelValues, "\x00")
		if series[one] {
			t.Errorf("%s %q is there twice", m.Name, m.LabelValues)
		}
		series[one], seen[m.Name] = true, true
	}
	if len(seen) != 58 {
		t.Errorf("%d of 58 families have a value", len(seen))
	}
}

func TestValues(t *testing.T) {
	t.Parallel()
	have := map[string]uint64{}
	for _, m := range metrics.Of(full()) {
		have[strings.Join(append([]string{strings.TrimPrefix(m.Name, "container_")}, m.LabelValues[5:]...), " ")] = m.Value.Value
		if !slices.Equal(m.LabelValues[:5], []string{"c", "/a/b", "i:1", "n", "p"}) {
			t.Fatalf("labels %q", m.LabelValues)
		}
	}
	for k, v := range map[string]uint64{
		"cpu_usage_seconds_total total": 5, "cpu_user_seconds_total": 3, "cpu_system_seconds_total": 2, "cpu_cfs_throttled_seconds_total": 33,
		"memory_working_set_bytes": 150, "memory_kernel_usage": 47, "memory_max_usage_bytes": 300, "memory_failures_total pgmajfault hierarchy": 42,
		"hugetlb_usage_bytes 2MB": 11, "hugetlb_max_usage_bytes 2MB": 12, "hugetlb_usage_bytes 1GB": 0,
		"fs_writes_total /dev/sda": 24, "fs_reads_bytes_total 254:1": 0, "blkio_device_usage_total /dev/sda 8 0 Write": 22,
		"fs_usage_bytes /dev/sda1": 71, "fs_inodes_free /dev/sda1": 75, "fs_limit_bytes /dev/sda1": 73,
		"network_receive_bytes_total eth0": 91, "network_transmit_packets_dropped_total eth0": 98,
		"threads": 51, "threads_max": 0, "ulimits_soft max_open_files": 84, "sockets": 83,
		"pressure_cpu_waiting_seconds_total": 3, "pressure_io_stalled_seconds_total": 2,
		"last_seen": 1000, "start_time_seconds": 900,
		"spec_cpu_quota": 0, "spec_cpu_shares": 512, "spec_memory_swap_limit_bytes": 62, "spec_memory_reservation_limit_bytes": 63,
	} {
		if got, ok := have[k]; !ok || got != v {
			t.Errorf("%s = %d (%v), want %d", k, got, ok, v)
		}
	}
	if _, ok := have["network_receive_bytes_total lo"]; ok {
		t.Error("the loopback interface is counted")
	}
}

// What was not read is left out, never a nil value.
func TestEmptySample(t *testing.T) {
	t.Parallel()
	got := metrics.Of(&metrics.Sample{Time: time.Unix(1, 0)})
	if len(got) != 1 || got[0].Name != "container_last_seen" {
		t.Errorf("metrics of nothing: %v", got)
	}
}

// BenchmarkSnapshot is the making and encoding of the answer for 100 pods of one container each.
func BenchmarkSnapshot(b *testing.B) {
	s := full()
	pod := &metrics.Sample{Labels: s.Labels, Time: s.Time, Counters: s.Counters, Links: s.Links}
	cpu := func() time.Duration {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before := cpu()
	defer func() { b.ReportMetric(float64((cpu()-before).Microseconds())/float64(b.N)/1000, "cpu-ms/op") }()
	for b.Loop() {
		resp := new(rt.ListPodSandboxMetricsResponse)
		for range 100 {
			resp.PodMetrics = append(resp.PodMetrics, &rt.PodSandboxMetrics{
				PodSandboxId: "p", Metrics: metrics.Of(pod),
				ContainerMetrics: []*rt.ContainerMetrics{{ContainerId: "c", Metrics: metrics.Of(s)}},
			})
		}
		if raw, err := proto.Marshal(resp); err != nil || len(raw) == 0 {
			b.Fatal(err)
		}
	}
}

// A snapshot's encoding, without the reading.
func BenchmarkMessage(b *testing.B) {
	s := full()
	var m metrics.Message
	for b.Loop() {
		m.Pod(s)
		m.Container("c", s)
		m.Take("p")
	}
}
