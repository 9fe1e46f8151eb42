package sandbox

import (
	"fmt"
	"path/filepath"
	"sync"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/image/overlay"
	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/ns"
)

// writable is what the background sampler last found in a container's upper directory.
type writable struct {
	at            int64
	bytes, inodes uint64
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

// Stats answers ContainerStats for a running container. It reads four files of the cgroup and walks nothing.
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
	s, err := g.Stats()
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
	s, err := g.Stats()
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

// network counts what went through the pod's interfaces, seen from inside; nil where the network is the host's.
func (g *gauges) network(path string, now int64) (*rt.NetworkUsage, error) {
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
	links, err := g.counter.Links()
	if err != nil {
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
			c.mu.Lock()
			c.usage = writable{at: time.Now().UnixNano(), bytes: bytes, inodes: inodes}
			c.mu.Unlock()
		}
	}
}
