package compile

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources turns CRI resources into OCI ones, for creation and for update. A
// field that is 0 or empty is left out: unlimited at creation, unchanged on
// update. A memory limit without a swap limit forbids swap where swap can be
// limited at all. Limits of huge pages whose size the host's controller does not
// know are left out, as kubelet sends one for every size. Unified entries go to
// cgroup v2 only, verbatim.
func Resources(r *rt.LinuxContainerResources, h Host) (*specs.LinuxResources, error) {
	if err := within("linux.resources", checkResources(r)); err != nil {
		return nil, err
	}
	res := &specs.LinuxResources{CPU: cpu(r), Memory: memory(r, h)}
	for _, l := range r.GetHugepageLimits() {
		if slices.Contains(h.Hugetlb, l.GetPageSize()) {
			res.HugepageLimits = append(res.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.GetPageSize(), Limit: l.GetLimit()})
		}
	}
	if h.CgroupV2 && len(r.GetUnified()) > 0 {
		res.Unified = maps.Clone(r.GetUnified())
	}
	return res, nil
}

func cpu(r *rt.LinuxContainerResources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if s := uint64(r.GetCpuShares()); s > 0 {
		c.Shares = &s
	}
	if p := uint64(r.GetCpuPeriod()); p > 0 {
		c.Period = &p
	}
	if q := max(r.GetCpuQuota(), -1); q != 0 {
		c.Quota = &q
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

func memory(r *rt.LinuxContainerResources, h Host) *specs.LinuxMemory {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	if swap == 0 {
		swap = limit
	}
	m := &specs.LinuxMemory{}
	if limit != 0 {
		m.Limit = &limit
	}
	if swap != 0 && h.Swap {
		m.Swap = &swap
	}
	if *m == (specs.LinuxMemory{}) {
		return nil
	}
	return m
}

// checkResources refuses what no kernel takes.
func checkResources(r *rt.LinuxContainerResources) error {
	limit, swap := r.GetMemoryLimitInBytes(), r.GetMemorySwapLimitInBytes()
	switch {
	case r.GetCpuShares() < 0:
		return invalid("cpu_shares", "%d is negative", r.GetCpuShares())
	case r.GetCpuPeriod() != 0 && (r.GetCpuPeriod() < 1000 || r.GetCpuPeriod() > 1_000_000):
		return invalid("cpu_period", "%d is not between 1000 and 1000000 µs", r.GetCpuPeriod())
	case r.GetCpuQuota() > 0 && r.GetCpuQuota() < 1000:
		return invalid("cpu_quota", "%d is less than 1000 µs", r.GetCpuQuota())
	case limit < -1:
		return invalid("memory_limit_in_bytes", "%d is negative", limit)
	case swap < -1:
		return invalid("memory_swap_limit_in_bytes", "%d is negative", swap)
	case swap > 0 && limit <= 0:
		return invalid("memory_swap_limit_in_bytes", "needs memory_limit_in_bytes")
	case swap > 0 && swap < limit:
		return invalid("memory_swap_limit_in_bytes", "%d is less than the memory limit of %d", swap, limit)
	case r.GetOomScoreAdj() < -1000 || r.GetOomScoreAdj() > 1000:
		return invalid("oom_score_adj", "%d is not between -1000 and 1000", r.GetOomScoreAdj())
	}
	return first(
		checkCPUList("cpuset_cpus", r.GetCpusetCpus()),
		checkCPUList("cpuset_mems", r.GetCpusetMems()),
		checkHugepages(r.GetHugepageLimits()),
		checkUnified(r.GetUnified()),
	)
}

func checkCPUList(field, s string) error {
	if strings.Trim(s, "0123456789,-") != "" {
		return invalid(field, "%q is not a list like 0-3,5", s)
	}
	return nil
}

func checkHugepages(limits []*rt.HugepageLimit) error {
	for _, l := range limits {
		size := l.GetPageSize()
		n := strings.TrimRight(size, "KMGTB")
		if unit := size[len(n):]; n == "" || strings.Trim(n, "0123456789") != "" || !slices.Contains([]string{"KB", "MB", "GB", "TB"}, unit) {
			return invalid("hugepage_limits.page_size", "%q is not a size like 2MB", size)
		}
	}
	return nil
}

// checkUnified: a key is the name of one file in the container's cgroup.
func checkUnified(u map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(u)) {
		field := "unified[" + k + "]"
		if !strings.Contains(strings.Trim(k, "."), ".") || strings.HasPrefix(k, "cgroup.") {
			return invalid(field, "not the name of a controller's file")
		}
		if err := first(checkName(field, k), checkText(field, u[k])); err != nil {
			return err
		}
	}
	return nil
}

// OOMScoreAdj is the oom_score_adj of a container's process. Where the daemon
// can't lower the value (no CAP_SYS_RESOURCE), it is at least the daemon's own.
func OOMScoreAdj(r *rt.LinuxContainerResources, h Host) int {
	adj := int(r.GetOomScoreAdj())
	if !h.CanLowerOOM {
		adj = max(adj, h.OOMScoreAdj)
	}
	return adj
}

// MergeResources is old with the fields that update gives put in, both unchanged.
// Fields of update that are 0 or empty leave those of old, unified entries and
// huge page sizes one by one; oom_score_adj is never updated. A swap limit that
// forbade swap goes on to do so under a new memory limit.
func MergeResources(old, update *rt.LinuxContainerResources) *rt.LinuxContainerResources {
	if old == nil {
		old = &rt.LinuxContainerResources{}
	}
	r := proto.Clone(old).(*rt.LinuxContainerResources)
	if update == nil {
		return r
	}
	noSwap := old.GetMemorySwapLimitInBytes() > 0 && old.GetMemorySwapLimitInBytes() == old.GetMemoryLimitInBytes()
	r.CpuPeriod = cmp.Or(update.CpuPeriod, r.CpuPeriod)
	r.CpuQuota = cmp.Or(update.CpuQuota, r.CpuQuota)
	r.CpuShares = cmp.Or(update.CpuShares, r.CpuShares)
	r.MemoryLimitInBytes = cmp.Or(update.MemoryLimitInBytes, r.MemoryLimitInBytes)
	r.MemorySwapLimitInBytes = cmp.Or(update.MemorySwapLimitInBytes, r.MemorySwapLimitInBytes)
	if noSwap && update.MemorySwapLimitInBytes == 0 {
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	}
	r.CpusetCpus = cmp.Or(update.CpusetCpus, r.CpusetCpus)
	r.CpusetMems = cmp.Or(update.CpusetMems, r.CpusetMems)
	for k, v := range update.Unified {
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		r.Unified[k] = v
	}
	for _, l := range update.HugepageLimits {
		i := slices.IndexFunc(r.HugepageLimits, func(o *rt.HugepageLimit) bool { return o.GetPageSize() == l.GetPageSize() })
		if i < 0 {
			r.HugepageLimits = append(r.HugepageLimits, &rt.HugepageLimit{PageSize: l.GetPageSize()})
			i = len(r.HugepageLimits) - 1
		}
		r.HugepageLimits[i].Limit = l.GetLimit()
	}
	return r
}
