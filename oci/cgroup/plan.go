package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"
	"strconv"
	"strings"
)

// write is one step of a plan: put value into a controller's file.
type write struct {
	controller string
	file       string
	value      string
	optional   bool   // a file the kernel or host lacks is passed over
	verify     bool   // a limit that some kernels take and forget
	old        string // how to undo, when the file's own text is not that
}

// planner decides which files to write and in which order. It touches nothing:
// has reports how a controller is mounted, read gives a control file's present
// text ("" when there is none).
type planner struct {
	has    func(controller string) (v2, ok bool)
	read   func(controller, file string) string
	writes []write
	errs   []error
}

// plan computes the writes for r, devices excepted.
func (p *planner) plan(r *Resources) ([]write, error) {
	if r.CPU != nil {
		p.cpu(r.CPU)
		p.cpuset(r.CPU)
	}
	if r.Memory != nil {
		p.memory(r.Memory)
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		p.put("pids", "pids.max", limit(*r.Pids.Limit))
	}
	if r.BlockIO != nil {
		p.blockIO(r.BlockIO)
	}
	for _, h := range r.HugepageLimits {
		p.hugetlb(h)
	}
	if r.Network != nil {
		p.network(r.Network)
	}
	for _, name := range sortedKeys(r.Rdma) {
		p.rdma(name, r.Rdma[name])
	}
	for _, key := range sortedKeys(r.Unified) {
		p.unified(key, r.Unified[key])
	}
	return p.writes, errors.Join(p.errs...)
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func (p *planner) put(controller, file, value string) {
	p.writes = append(p.writes, write{controller: controller, file: file, value: value})
}

func (p *planner) option(controller, file, value string) {
	p.writes = append(p.writes, write{controller: controller, file: file, value: value, optional: true})
}

func (p *planner) fail(err error, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf(format+": %w", append(args, err)...))
}

// v2 says which version's files a controller has; one that is mounted nowhere is
// named like its neighbours, in an error.
func (p *planner) v2(controller string) bool {
	for _, c := range []string{controller, "memory", unifiedName} {
		if v2, ok := p.has(c); ok {
			return v2
		}
	}
	return false
}

// limit writes a limit the way both versions read "none".
func limit(n int64) string {
	if n < 0 {
		return "max"
	}
	return strconv.FormatInt(n, 10)
}

// bounded tells a limit from none.
func bounded(n *int64) bool { return n != nil && *n >= 0 }

// number reads the first field of a control file. "max" and what v1 shows for
// "no limit" (PAGE_COUNTER_MAX, just below 2^63) become MaxInt64, a negative
// quota too; ok is false when there is no number.
func number(text string) (n int64, ok bool) {
	f := strings.Fields(text)
	if len(f) == 0 {
		return 0, false
	}
	if f[0] == "max" {
		return math.MaxInt64, true
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	if err != nil {
		return 0, false
	}
	if n < 0 || n >= 1<<62 {
		n = math.MaxInt64
	}
	return n, true
}

func (p *planner) memory(m *Memory) {
	v2 := p.v2("memory")
	if m.CheckBeforeUpdate != nil && *m.CheckBeforeUpdate && m.Limit != nil && *m.Limit >= 0 {
		usage, _ := number(p.read("memory", pick(v2, "memory.current", "memory.usage_in_bytes")))
		if *m.Limit < usage {
			p.fail(fs.ErrInvalid, "memory limit %d: %d bytes are in use", *m.Limit, usage)
			return
		}
	}
	if v2 {
		p.memoryV2(m)
		return
	}
	p.memoryV1(m)
}

func pick(v2 bool, two, one string) string {
	if v2 {
		return two
	}
	return one
}

// memoryV1 keeps limit <= memory+swap limit true at every step, as the kernel
// demands: swap is raised first and lowered last. A limit above the present
// memory+swap limit takes that along when none is given.
func (p *planner) memoryV1(m *Memory) {
	const file, both = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"
	swap := m.Swap
	now, counted := number(p.read("memory", both))
	above := m.Limit != nil && counted && (*m.Limit < 0 || *m.Limit > now) && now != math.MaxInt64
	if above && swap == nil {
		swap = m.Limit
	}
	if above && swap != nil {
		p.swapV1(*swap, counted)
	}
	if m.Limit != nil {
		p.put("memory", file, strconv.FormatInt(max(*m.Limit, -1), 10))
	}
	if !above && swap != nil {
		p.swapV1(*swap, counted)
	}
	p.memoryRestV1(m)
}

// memoryRestV1 is what has no order.
func (p *planner) memoryRestV1(m *Memory) {
	if m.Reservation != nil {
		p.put("memory", "memory.soft_limit_in_bytes", strconv.FormatInt(max(*m.Reservation, -1), 10))
	}
	if m.KernelTCP != nil {
		p.writes = append(p.writes, write{controller: "memory", file: "memory.kmem.tcp.limit_in_bytes", value: strconv.FormatInt(max(*m.KernelTCP, -1), 10),
			verify: bounded(m.KernelTCP)})
	}
	if bounded(m.Kernel) {
		// Linux 5.16 refuses every value (EOPNOTSUPP), 6.6 takes it and does nothing.
		p.writes = append(p.writes, write{controller: "memory", file: "memory.kmem.limit_in_bytes", value: strconv.FormatInt(*m.Kernel, 10), verify: true})
	}
	if m.UseHierarchy != nil {
		// Always on since 5.11, which refuses to have it off.
		p.writes = append(p.writes, write{controller: "memory", file: "memory.use_hierarchy", value: pick(*m.UseHierarchy, "1", "0"), optional: *m.UseHierarchy})
	}
	if m.DisableOOMKiller != nil {
		old := "0"
		if strings.Contains(p.read("memory", "memory.oom_control"), "oom_kill_disable 1") {
			old = "1"
		}
		value := pick(*m.DisableOOMKiller, "1", "0")
		if value != old {
			p.writes = append(p.writes, write{controller: "memory", file: "memory.oom_control", value: value, old: old})
		}
	}
	if m.Swappiness != nil && int64(*m.Swappiness) != -1 { // Docker's way to say "not set"
		p.put("memory", "memory.swappiness", strconv.FormatUint(*m.Swappiness, 10))
	}
}

// swapV1 limits memory+swap, if the kernel counts swap (swapaccount=).
func (p *planner) swapV1(n int64, counted bool) {
	w := write{controller: "memory", file: "memory.memsw.limit_in_bytes", value: strconv.FormatInt(max(n, -1), 10)}
	w.optional = !counted
	p.writes = append(p.writes, w)
}

// memoryV2 turns memory+swap into swap alone. What has no counterpart on v2 is refused, unless it asks for what holds.
func (p *planner) memoryV2(m *Memory) {
	for _, gone := range [...]struct {
		set  bool
		name string
	}{
		{m.Swappiness != nil && int64(*m.Swappiness) != -1, "memory swappiness"},
		{m.DisableOOMKiller != nil && *m.DisableOOMKiller, "memory without OOM killer"},
		{bounded(m.Kernel), "kernel memory limit"},
		{bounded(m.KernelTCP), "kernel TCP memory limit"},
		{m.UseHierarchy != nil && !*m.UseHierarchy, "memory without hierarchy"},
	} {
		if gone.set {
			p.fail(errors.ErrUnsupported, "%s on cgroup v2", gone.name)
		}
	}
	if m.Swap != nil {
		memory := int64(math.MaxInt64)
		if m.Limit != nil {
			memory = *m.Limit
		} else if n, ok := number(p.read("memory", "memory.max")); ok {
			memory = n
		}
		value := "max"
		switch {
		case *m.Swap < 0:
		case memory < 0 || memory == math.MaxInt64:
			p.fail(fs.ErrInvalid, "memory+swap limit %d without a memory limit", *m.Swap)
		case *m.Swap < memory:
			p.fail(fs.ErrInvalid, "memory+swap limit %d below the memory limit %d", *m.Swap, memory)
		default:
			value = strconv.FormatInt(*m.Swap-memory, 10)
		}
		// A host without swap accounting has no file, and nothing to limit.
		p.option("memory", "memory.swap.max", value)
	}
	if m.Limit != nil {
		p.put("memory", "memory.max", limit(*m.Limit))
	}
	if m.Reservation != nil {
		p.put("memory", "memory.low", limit(*m.Reservation))
	}
}

func (p *planner) hugetlb(h HugepageLimit) {
	if h.Pagesize == "" || strings.ContainsAny(h.Pagesize, "/ \n") {
		p.fail(fs.ErrInvalid, "huge page size %q", h.Pagesize)
		return
	}
	v2 := p.v2("hugetlb")
	value := strconv.FormatUint(h.Limit, 10)
	// kubelet names every page size of the node, mostly with 0: without the
	// controller there is nothing to forbid.
	p.writes = append(p.writes, write{controller: "hugetlb",
		file:  "hugetlb." + h.Pagesize + pick(v2, ".max", ".limit_in_bytes"),
		value: value, optional: h.Limit == 0})
	// Reservations fail with ENOMEM where faults would raise SIGBUS; Linux 5.7.
	p.option("hugetlb", "hugetlb."+h.Pagesize+pick(v2, ".rsvd.max", ".rsvd.limit_in_bytes"), value)
}

func (p *planner) network(n *Network) {
	if n.ClassID != nil && *n.ClassID != 0 {
		p.put("net_cls", "net_cls.classid", strconv.FormatUint(uint64(*n.ClassID), 10))
	}
	for _, i := range n.Priorities {
		p.writes = append(p.writes, write{controller: "net_prio", file: "net_prio.ifpriomap",
			value: fmt.Sprintf("%s %d", i.Name, i.Priority), old: i.Name + " 0"})
	}
}

func (p *planner) rdma(device string, r Rdma) {
	value, old := device, device
	if r.HcaHandles != nil {
		value += fmt.Sprintf(" hca_handle=%d", *r.HcaHandles)
		old += " hca_handle=max"
	}
	if r.HcaObjects != nil {
		value += fmt.Sprintf(" hca_object=%d", *r.HcaObjects)
		old += " hca_object=max"
	}
	p.writes = append(p.writes, write{controller: "rdma", file: "rdma.max", value: value, old: old})
}

// unified passes a key of the cgroup2 tree through as it stands; a file that is
// not there is an error which names it.
func (p *planner) unified(key, value string) {
	controller, _, found := strings.Cut(key, ".")
	if !found || strings.ContainsAny(key, "/\x00") {
		p.fail(fs.ErrInvalid, "unified key %q", key)
		return
	}
	v2, ok := p.has(controller)
	if _, tree := p.has(unifiedName); !tree || ok && !v2 {
		p.fail(errors.ErrUnsupported, "unified key %q: %s is not in a cgroup2 tree", key, controller)
		return
	}
	if !ok {
		controller = unifiedName
	}
	for _, line := range strings.Split(strings.TrimRight(value, "\n"), "\n") {
		p.put(controller, key, line)
	}
}
