package metrics

import (
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/ns"
)

const (
	counter = rt.MetricType_COUNTER
	gauge   = rt.MetricType_GAUGE
)

// add takes a value and the values of the family's own labels, in the order of its keys.
type add = func(value uint64, labels ...string)

// family is one metric: read gives its values in a sample, none where the sample does not have them.
type family struct {
	name string
	help string
	kind rt.MetricType
	keys []string // of its own labels, after those that all have
	read func(*Sample, add)
}

// families is a table, never written. Its order is that of the answers.
var families = [...]family{
	{"container_cpu_user_seconds_total", "CPU time consumed in user mode, in seconds.", counter, nil,
		counters(func(d *cgroup.Stats) uint64 { return seconds(d.CPU.User) })},
	{"container_cpu_system_seconds_total", "CPU time consumed in the kernel, in seconds.", counter, nil,
		counters(func(d *cgroup.Stats) uint64 { return seconds(d.CPU.System) })},
	{"container_cpu_usage_seconds_total", "CPU time consumed, in seconds.", counter, []string{"cpu"},
		cpuTotal},
	{"container_cpu_cfs_periods_total", "Enforcement periods that have passed under a CPU quota.", counter, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.CPU.Periods })},
	{"container_cpu_cfs_throttled_periods_total", "Enforcement periods in which the CPU quota ran out.", counter, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.CPU.Throttled })},
	{"container_cpu_cfs_throttled_seconds_total", "Time spent throttled, in seconds.", counter, nil,
		counters(func(d *cgroup.Stats) uint64 { return seconds(d.CPU.Waited) })},
	{"container_fs_inodes_free", "Free inodes of the file system of writable layers.", gauge, []string{"device"},
		disk(func(d *Disk) uint64 { return d.InodesFree })},
	{"container_fs_inodes_total", "Inodes of the file system of writable layers.", gauge, []string{"device"},
		disk(func(d *Disk) uint64 { return d.Inodes })},
	{"container_fs_limit_bytes", "Size of the file system of writable layers, in bytes.", gauge, []string{"device"},
		disk(func(d *Disk) uint64 { return d.Bytes })},
	{"container_fs_usage_bytes", "Size of the writable layer, in bytes.", gauge, []string{"device"},
		layer},
	{"container_fs_reads_bytes_total", "Bytes read from the device.", counter, []string{"device"},
		devices(func(d *cgroup.DeviceIO) uint64 { return d.ReadBytes })},
	{"container_fs_reads_total", "Reads completed by the device.", counter, []string{"device"},
		devices(func(d *cgroup.DeviceIO) uint64 { return d.Reads })},
	{"container_fs_writes_bytes_total", "Bytes written to the device.", counter, []string{"device"},
		devices(func(d *cgroup.DeviceIO) uint64 { return d.WriteBytes })},
	{"container_fs_writes_total", "Writes completed by the device.", counter, []string{"device"},
		devices(func(d *cgroup.DeviceIO) uint64 { return d.Writes })},
	{"container_blkio_device_usage_total", "Bytes read from and written to the device.", counter, []string{"device", "major", "minor", "operation"},
		blkio},
	{"container_memory_cache", "Page cache, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Memory.Cache })},
	{"container_memory_rss", "Anonymous memory, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Memory.RSS })},
	{"container_memory_kernel_usage", "Memory the kernel has on behalf of the processes, in bytes.", gauge, nil,
		detail(func(d *cgroup.Detail) uint64 { return d.Memory.Kernel })},
	{"container_memory_mapped_file", "Mapped files, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Memory.Mapped })},
	{"container_memory_swap", "Swap in use, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Swap.Usage })},
	{"container_memory_failcnt", "Times the memory limit was hit.", counter, nil,
		detail(func(d *cgroup.Detail) uint64 { return d.MemoryFails })},
	{"container_memory_usage_bytes", "Memory in use, page cache included, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Memory.Usage })},
	{"container_memory_max_usage_bytes", "Most memory ever in use, in bytes.", gauge, nil,
		detail(func(d *cgroup.Detail) uint64 { return d.MemoryPeak })},
	{"container_memory_working_set_bytes", "Memory in use without inactive page cache, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Memory.WorkingSet })},
	{"container_memory_failures_total", "Page faults.", counter, []string{"failure_type", "scope"},
		faults},
	{"container_memory_total_active_file_bytes", "Active page cache, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Memory.ActiveFile })},
	{"container_memory_total_inactive_file_bytes", "Inactive page cache, in bytes.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Memory.InactiveFile })},
	{"container_network_receive_bytes_total", "Bytes received.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.RxBytes })},
	{"container_network_receive_packets_total", "Packets received.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.RxPackets })},
	{"container_network_receive_packets_dropped_total", "Packets dropped while being received.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.RxDropped })},
	{"container_network_receive_errors_total", "Errors while packets were being received.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.RxErrors })},
	{"container_network_transmit_bytes_total", "Bytes sent.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.TxBytes })},
	{"container_network_transmit_packets_total", "Packets sent.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.TxPackets })},
	{"container_network_transmit_packets_dropped_total", "Packets dropped while being sent.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.TxDropped })},
	{"container_network_transmit_errors_total", "Errors while packets were being sent.", counter, []string{"interface"},
		links(func(l *ns.Link) uint64 { return l.TxErrors })},
	{"container_oom_events_total", "Processes killed because memory ran out.", counter, nil,
		detail(func(d *cgroup.Detail) uint64 { return d.OOMKills })},
	{"container_file_descriptors", "Open file descriptors.", gauge, nil,
		processes(func(p *Processes) uint64 { return p.Descriptors })},
	{"container_processes", "Processes.", gauge, nil,
		processes(func(p *Processes) uint64 { return p.Count })},
	{"container_sockets", "Open sockets.", gauge, nil,
		processes(func(p *Processes) uint64 { return p.Sockets })},
	{"container_threads", "Threads.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return d.Pids.Current })},
	{"container_threads_max", "Most threads allowed; 0 is no limit.", gauge, nil,
		counters(func(d *cgroup.Stats) uint64 { return limit(d.Pids.Limit) })},
	{"container_ulimits_soft", "Soft limit of the first process.", gauge, []string{"ulimit"},
		softLimits},
	{"container_hugetlb_usage_bytes", "Huge pages in use, in bytes.", gauge, []string{"pagesize"},
		huge(func(h *cgroup.Huge) uint64 { return h.Usage })},
	{"container_hugetlb_max_usage_bytes", "Most huge pages ever in use, in bytes.", gauge, []string{"pagesize"},
		huge(func(h *cgroup.Huge) uint64 { return h.Peak })},
	{"container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for CPU, in seconds.", counter, nil,
		pressure(func(d *cgroup.Stats) *cgroup.PSI { return d.CPU.PSI }, func(p *cgroup.PSI) cgroup.Pressure { return p.Full })},
	{"container_pressure_cpu_waiting_seconds_total", "Time in which some tasks waited for CPU, in seconds.", counter, nil,
		pressure(func(d *cgroup.Stats) *cgroup.PSI { return d.CPU.PSI }, func(p *cgroup.PSI) cgroup.Pressure { return p.Some })},
	{"container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory, in seconds.", counter, nil,
		pressure(func(d *cgroup.Stats) *cgroup.PSI { return d.Memory.PSI }, func(p *cgroup.PSI) cgroup.Pressure { return p.Full })},
	{"container_pressure_memory_waiting_seconds_total", "Time in which some tasks waited for memory, in seconds.", counter, nil,
		pressure(func(d *cgroup.Stats) *cgroup.PSI { return d.Memory.PSI }, func(p *cgroup.PSI) cgroup.Pressure { return p.Some })},
	{"container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for IO, in seconds.", counter, nil,
		pressure(func(d *cgroup.Stats) *cgroup.PSI { return d.IO.PSI }, func(p *cgroup.PSI) cgroup.Pressure { return p.Full })},
	{"container_pressure_io_waiting_seconds_total", "Time in which some tasks waited for IO, in seconds.", counter, nil,
		pressure(func(d *cgroup.Stats) *cgroup.PSI { return d.IO.PSI }, func(p *cgroup.PSI) cgroup.Pressure { return p.Some })},
	{"container_last_seen", "When the values were read, in seconds since 1970.", gauge, nil,
		lastSeen},
	{"container_start_time_seconds", "When the first process was started, in seconds since 1970.", gauge, nil,
		started},
	{"container_spec_cpu_period", "CPU period, in microseconds.", gauge, nil,
		spec(func(r *rt.LinuxContainerResources) int64 { return r.GetCpuPeriod() })},
	{"container_spec_cpu_quota", "CPU quota, in microseconds a period.", gauge, nil,
		spec(func(r *rt.LinuxContainerResources) int64 { return r.GetCpuQuota() })},
	{"container_spec_cpu_shares", "CPU shares.", gauge, nil,
		spec(func(r *rt.LinuxContainerResources) int64 { return r.GetCpuShares() })},
	{"container_spec_memory_limit_bytes", "Memory limit in bytes; 0 is no limit.", gauge, nil,
		spec(func(r *rt.LinuxContainerResources) int64 { return r.GetMemoryLimitInBytes() })},
	{"container_spec_memory_reservation_limit_bytes", "Memory reservation in bytes; 0 is none.", gauge, nil,
		reservation},
	{"container_spec_memory_swap_limit_bytes", "Limit of memory and swap in bytes; 0 is no limit.", gauge, nil,
		spec(func(r *rt.LinuxContainerResources) int64 { return r.GetMemorySwapLimitInBytes() })},
}
