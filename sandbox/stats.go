package sandbox

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/image/overlay"
	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/host"
	"github.com/berth-runtime/berth/sandbox/metrics"
	"github.com/berth-runtime/berth/sandbox/ns"
)

// writable is what the background sampler last found in a container's upper directory and of its processes.
type writable struct {
	at            int64
	bytes, inodes uint64
	processes     *metrics.Processes // nil: not counted
}

// cpuSample is the CPU reading that the next one is compared with.
type cpuSample struct {
	at    int64
	usage uint64 // ns
	cores uint64 // nanocores between the last two samples
	known bool
}

// next returns the nanocores between this sample and a later one. A counter that went back gives 0, never a negative
// value; samples less than 100 ms apart keep the value before, as their difference says nothing.
func (s cpuSample) next(at int64, usage uint64) cpuSample {
	n := cpuSample{at: at, usage: usage}
	if s.at == 0 {
		return n
	}
	dt := at - s.at
	if dt < int64(100*time.Millisecond) {
		return s
	}
	n.known = true
	if usage >= s.usage {
		n.cores = uint64(float64(usage-s.usage) / float64(dt) * 1e9)
	}
	return n
}

// Stats answers ContainerStats for a running container. It reads a few files of the cgroup, which are kept open, and walks nothing.
func (c *Container) Stats() (*rt.ContainerStats, error) {
	out := &rt.ContainerStats{Attributes: &rt.ContainerAttributes{
		Id: c.id, Metadata: c.cfg.GetMetadata(), Labels: c.cfg.GetLabels(), Annotations: c.cfg.GetAnnotations(),
	}}
	if err := c.running(); err != nil {
		return nil, fmt.Errorf("stats: %w", err)
	}
	g, err := footprint{c}.cgroup()
	if err != nil {
		return nil, fmt.Errorf("stats of container %s: %w", short(c.id), err)
	}
	s, err := cgroup.Basic(g)
	if err != nil {
		return nil, fmt.Errorf("stats of container %s: %w", short(c.id), err)
	}
	now := time.Now().UnixNano()
	c.mu.Lock()
	c.lastCPU = c.lastCPU.next(now, uint64(s.CPU.Usage))
	cpu, usage := c.lastCPU, c.usage
	c.mu.Unlock()
	out.Cpu = cpuUsage(now, s, cpu)
	out.Memory = memoryUsage(now, s)
	out.Swap = swapUsage(now, s)
	out.Io = ioUsage(now, s)
	out.WritableLayer = layerUsage(c.m.opt.Root, now, usage)
	return out, nil
}

func layerUsage(root string, now int64, u writable) *rt.FilesystemUsage {
	if u.at == 0 {
		u.at = now
	}
	return &rt.FilesystemUsage{
		Timestamp: u.at, FsId: &rt.FilesystemIdentifier{Mountpoint: root},
		UsedBytes: &rt.UInt64Value{Value: u.bytes}, InodesUsed: &rt.UInt64Value{Value: u.inodes},
	}
}

func value(v uint64) *rt.UInt64Value { return &rt.UInt64Value{Value: v} }

func cpuUsage(now int64, s cgroup.Stats, cpu cpuSample) *rt.CpuUsage {
	u := &rt.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: value(uint64(s.CPU.Usage)), Psi: pressure(s.CPU.PSI)}
	if cpu.known {
		u.UsageNanoCores = value(cpu.cores)
	}
	return u
}

func memoryUsage(now int64, s cgroup.Stats) *rt.MemoryUsage {
	m := s.Memory
	u := &rt.MemoryUsage{
		Timestamp: now, WorkingSetBytes: value(m.WorkingSet), UsageBytes: value(m.Usage), RssBytes: value(m.RSS),
		PageFaults: value(m.Faults), MajorPageFaults: value(m.Major), Psi: pressure(m.PSI),
	}
	if m.Available != nil {
		u.AvailableBytes = value(*m.Available)
	}
	return u
}

func swapUsage(now int64, s cgroup.Stats) *rt.SwapUsage {
	u := &rt.SwapUsage{Timestamp: now, SwapUsageBytes: value(s.Swap.Usage)}
	if s.Swap.Available != nil {
		u.SwapAvailableBytes = value(*s.Swap.Available)
	}
	return u
}

func ioUsage(now int64, s cgroup.Stats) *rt.IoUsage {
	psi := pressure(s.IO.PSI)
	if psi == nil {
		return nil
	}
	return &rt.IoUsage{Timestamp: now, Psi: psi}
}

func pressure(p *cgroup.PSI) *rt.PsiStats {
	if p == nil {
		return nil
	}
	data := func(d cgroup.Pressure) *rt.PsiData {
		return &rt.PsiData{Total: uint64(d.Total), Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300}
	}
	return &rt.PsiStats{Some: data(p.Some), Full: data(p.Full)}
}

// Stats answers PodSandboxStats for a ready pod: its cgroup, its network interfaces, its containers.
func (p *Pod) Stats() (*rt.PodSandboxStats, error) {
	if !p.view.Load().ready {
		return nil, fmt.Errorf("stats of pod %s: %w", short(p.id), ErrNotReady)
	}
	g, err := p.gauges.cgroup(p.rec.Parent)
	if err != nil {
		return nil, fmt.Errorf("stats of pod %s: %w", short(p.id), err)
	}
	s, err := cgroup.Basic(g)
	if err != nil {
		return nil, fmt.Errorf("stats of pod %s: %w", short(p.id), err)
	}
	now := time.Now().UnixNano()
	cpu := p.gauges.rate(now, uint64(s.CPU.Usage))
	linux := &rt.LinuxPodSandboxStats{
		Cpu: cpuUsage(now, s, cpu), Memory: memoryUsage(now, s), Io: ioUsage(now, s),
		Process: &rt.ProcessUsage{Timestamp: now, ProcessCount: value(s.Pids.Current)},
	}
	if linux.Network, err = p.gauges.network(p.netns(), now); err != nil {
		return nil, fmt.Errorf("stats of pod %s: %w", short(p.id), err)
	}
	for _, c := range p.m.index.Load().containersOf(p) {
		if cs, err := c.Stats(); err == nil {
			linux.Containers = append(linux.Containers, cs)
		}
	}
	return &rt.PodSandboxStats{Linux: linux, Attributes: &rt.PodSandboxAttributes{
		Id: p.id, Metadata: p.cfg.GetMetadata(), Labels: p.cfg.GetLabels(), Annotations: p.cfg.GetAnnotations(),
	}}, nil
}

// gauges is what is kept open of a pod to read its counters cheaply.
type gauges struct {
	mu      sync.Mutex
	closed  bool
	group   *cgroup.Group
	counter *ns.Counter
	lastCPU cpuSample
}

func (g *gauges) cgroup(path string) (*cgroup.Group, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.group == nil {
		group, err := cgroup.Open(path)
		if err != nil {
			return nil, err
		}
		g.group = group
	}
	return g.group, nil
}

func (g *gauges) rate(now int64, usage uint64) cpuSample {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lastCPU = g.lastCPU.next(now, usage)
	return g.lastCPU
}

// links reads the pod's interfaces; nil where the network is the host's.
func (g *gauges) links(path string, buf []byte) ([]ns.Link, error) {
	if path == "" {
		return nil, nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil, ErrNotReady
	}
	if g.counter == nil {
		c, err := ns.OpenCounter(path)
		if err != nil {
			return nil, err
		}
		g.counter = c
	}
	links, err := g.counter.Read(buf)
	if err != nil {
		return nil, err
	}
	return links, nil
}

// network counts what went through the pod's interfaces, seen from inside; nil where the network is the host's.
func (g *gauges) network(path string, now int64) (*rt.NetworkUsage, error) {
	links, err := g.links(path, make([]byte, ns.ReadBuffer))
	if err != nil || links == nil {
		return nil, err
	}
	u := &rt.NetworkUsage{Timestamp: now, DefaultInterface: &rt.NetworkInterfaceUsage{Name: "eth0"}}
	for _, l := range links {
		one := &rt.NetworkInterfaceUsage{
			Name: l.Name, RxBytes: value(l.RxBytes), RxErrors: value(l.RxErrors), TxBytes: value(l.TxBytes), TxErrors: value(l.TxErrors),
		}
		switch l.Name {
		case "lo":
		case "eth0":
			u.DefaultInterface = one
		default:
			u.Interfaces = append(u.Interfaces, one)
		}
	}
	return u, nil
}

// Metrics answers ListPodSandboxMetrics for the ready pods: cgroup counters and interface counters are read, nothing is walked.
// What takes a walk (sizes of writable layers, counts of processes) is of the sampler's last round. A pod or container that
// ends meanwhile is left out.
func (m *Manager) Metrics(ctx context.Context) []*rt.PodSandboxMetrics {
	m.scraped.Store(time.Now().UnixNano())
	names := host.DeviceNames()
	var disk *metrics.Disk
	if d, err := host.ReadDisk(m.opt.Root); err == nil {
		disk = &metrics.Disk{Device: names(d.Major, d.Minor), Bytes: d.Bytes, Inodes: d.Inodes, InodesFree: d.InodesFree}
	}
	x := m.index.Load()
	byPod := make(map[*Pod][]*Container, len(x.podList))
	for _, c := range x.ctrList {
		byPod[c.pod] = append(byPod[c.pod], c)
	}
	buf := make([]byte, ns.ReadBuffer)
	var out []*rt.PodSandboxMetrics
	var msg metrics.Message
	for _, p := range x.podList {
		if ctx.Err() != nil {
			return out
		}
		if !p.view.Load().ready {
			continue
		}
		s, err := measurePod(p, buf)
		if err != nil {
			continue
		}
		msg.Pod(s)
		for _, c := range byPod[p] {
			s, err := measureContainer(c)
			if err != nil {
				continue
			}
			s.Disk, s.Device = disk, names
			msg.Container(c.id, s)
		}
		out = append(out, msg.Take(p.id))
	}
	return out
}

// MetricDescriptors answers ListMetricDescriptors.
func (m *Manager) MetricDescriptors() []*rt.MetricDescriptor { return metrics.Descriptors() }

// measurePod reads the counters of the pod's cgroup and network.
func measurePod(p *Pod, buf []byte) (*metrics.Sample, error) {
	g, err := p.gauges.cgroup(p.rec.Parent)
	if err != nil {
		return nil, err
	}
	st, err := cgroup.Counters(g)
	if err != nil {
		return nil, err
	}
	links, err := p.gauges.links(p.netns(), buf)
	if err != nil {
		return nil, err
	}
	return &metrics.Sample{Labels: labels(p, g), Time: st.Time, Started: time.Unix(0, p.rec.CreatedAt), Counters: &st, Links: links}, nil
}

func labels(p *Pod, g *cgroup.Group) metrics.Labels {
	md := p.cfg.GetMetadata()
	return metrics.Labels{ID: g.Path(), Namespace: md.GetNamespace(), Pod: md.GetName()}
}

// measureContainer reads the counters of a running container's cgroup, and adds what the sampler found.
func measureContainer(c *Container) (*metrics.Sample, error) {
	if err := c.running(); err != nil {
		return nil, err
	}
	g, err := footprint{c}.cgroup()
	if err != nil {
		return nil, err
	}
	d, err := cgroup.DetailOf(g)
	if err != nil {
		return nil, err
	}
	v := c.view.Load()
	s := &metrics.Sample{Labels: labels(c.pod, g), Time: d.Time, Started: time.Unix(0, v.startedAt), Counters: &d.Stats, Detail: &d, Resources: v.resources}
	if s.Resources == nil {
		s.Resources = new(rt.LinuxContainerResources)
	}
	s.Labels.Container, s.Labels.Image = c.cfg.GetMetadata().GetName(), c.rec.ImageName
	c.mu.Lock()
	s.Writable, s.Processes = &metrics.Writable{Bytes: c.usage.bytes, Inodes: c.usage.inodes}, c.usage.processes
	c.mu.Unlock()
	return s, nil
}

// scraping reports whether somebody reads metrics: only then processes are counted.
func (m *Manager) scraping() bool {
	return time.Since(time.Unix(0, m.scraped.Load())) < 5*time.Minute
}

// countProcesses counts the container's processes and what they have open.
func countProcesses(c *Container) *metrics.Processes {
	if !c.m.scraping() {
		return nil
	}
	g, err := footprint{c}.cgroup()
	if err != nil {
		return nil
	}
	pids, err := g.Procs()
	if err != nil || len(pids) == 0 {
		return nil
	}
	n := host.CountProcesses(pids, c.view.Load().pid)
	return &metrics.Processes{Count: uint64(len(pids)), Descriptors: n.Descriptors, Sockets: n.Sockets, SoftFiles: n.SoftFiles}
}

// close gives back what is kept open, for good: a socket in the pod's network would keep that alive.
func (g *gauges) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	if g.counter != nil {
		g.counter.Close()
		g.counter = nil
	}
	if g.group != nil {
		g.group.Close()
	}
}

// sample keeps the size of each running container's writable layer fresh, so that no request has to walk a tree.
func (m *Manager) sample() {
	every := time.Duration(m.opt.SampleInterval) * time.Second
	if every <= 0 {
		every = 10 * time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-m.life.Done():
			return
		case <-tick.C:
		}
		for _, c := range m.index.Load().ctrList {
			if c.running() != nil {
				continue
			}
			bytes, inodes, err := overlay.Usage(filepath.Join(c.dir(), "upper"))
			if err != nil {
				continue // removed meanwhile; the next round sees it
			}
			counts := countProcesses(c)
			c.mu.Lock()
			c.usage = writable{at: time.Now().UnixNano(), bytes: bytes, inodes: inodes, processes: counts}
			c.mu.Unlock()
		}
	}
}
