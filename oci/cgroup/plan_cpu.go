package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"
)

// Weight converts cpu.shares (2 to 262144, default 1024) to cpu.weight (1 to
// 10000, default 100) on the curve kubelet and the other runtimes use, which
// maps minimum, default and maximum onto each other; 0 stays 0, "not set".
func Weight(shares uint64) uint64 {
	switch {
	case shares == 0:
		return 0
	case shares <= 2:
		return 1
	case shares >= 262144:
		return 10000
	}
	l := math.Log2(float64(shares))
	return uint64(math.Ceil(math.Pow(10, (l*l+125*l)/612-7.0/34)))
}

func (p *planner) cpu(c *CPU) {
	v2 := p.v2("cpu")
	idle := idleCPU(c)
	if c.Idle != nil {
		// SCHED_IDLE groups, Linux 5.15; older kernels can only do without.
		p.writes = append(p.writes, write{controller: "cpu", file: "cpu.idle",
			value: strconv.FormatInt(*c.Idle, 10), optional: !idle})
	}
	// An idle group has a fixed weight and refuses another.
	if c.Shares != nil && *c.Shares != 0 && !idle {
		if v2 {
			p.put("cpu", "cpu.weight", strconv.FormatUint(Weight(*c.Shares), 10))
		} else {
			p.put("cpu", "cpu.shares", strconv.FormatUint(*c.Shares, 10))
		}
	}
	p.realtime(c, v2)
	// The kernel wants burst <= quota: a falling burst goes first, a rising
	// one last.
	burst := pick(v2, "cpu.max.burst", "cpu.cfs_burst_us")
	falling := false
	if c.Burst != nil {
		now, _ := number(p.read("cpu", burst))
		falling = *c.Burst < uint64(now)
	}
	if falling {
		p.put("cpu", burst, strconv.FormatUint(*c.Burst, 10))
	}
	if v2 {
		p.quotaV2(c)
	} else {
		p.quotaV1(c)
	}
	if c.Burst != nil && !falling {
		p.writes = append(p.writes, write{controller: "cpu", file: burst,
			value: strconv.FormatUint(*c.Burst, 10), optional: *c.Burst == 0})
	}
}

// quotaV1 orders quota and period so that their ratio never exceeds both the
// old and the new one on the way: an ancestor may allow no more.
func (p *planner) quotaV1(c *CPU) {
	var period, quota []write
	shrinks := false
	if c.Period != nil && *c.Period != 0 {
		period = []write{{controller: "cpu", file: "cpu.cfs_period_us", value: strconv.FormatUint(*c.Period, 10)}}
		now, ok := number(p.read("cpu", "cpu.cfs_period_us"))
		shrinks = ok && *c.Period < uint64(now)
	}
	if c.Quota != nil && *c.Quota != 0 {
		quota = []write{{controller: "cpu", file: "cpu.cfs_quota_us", value: strconv.FormatInt(max(*c.Quota, -1), 10)}}
	}
	if shrinks {
		period, quota = quota, period
	}
	p.writes = append(append(p.writes, period...), quota...)
}

func (p *planner) quotaV2(c *CPU) {
	hasQuota, hasPeriod := c.Quota != nil && *c.Quota != 0, c.Period != nil && *c.Period != 0
	if !hasQuota && !hasPeriod {
		return
	}
	quota, period := "max", "100000"
	if f := strings.Fields(p.read("cpu", "cpu.max")); len(f) == 2 {
		quota, period = f[0], f[1]
	}
	if hasQuota {
		quota = limit(*c.Quota)
	}
	if hasPeriod {
		period = strconv.FormatUint(*c.Period, 10)
	}
	p.put("cpu", "cpu.max", quota+" "+period)
}

func (p *planner) realtime(c *CPU, v2 bool) {
	set := c.RealtimePeriod != nil && *c.RealtimePeriod != 0 || c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0
	if !set {
		return
	}
	if v2 {
		p.fail(errors.ErrUnsupported, "realtime CPU limit on cgroup v2")
		return
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		p.put("cpu", "cpu.rt_period_us", strconv.FormatUint(*c.RealtimePeriod, 10))
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		p.put("cpu", "cpu.rt_runtime_us", strconv.FormatInt(*c.RealtimeRuntime, 10))
	}
}

func (p *planner) cpuset(c *CPU) {
	if c.Cpus != "" {
		p.put("cpuset", "cpuset.cpus", c.Cpus)
	}
	if c.Mems != "" {
		p.put("cpuset", "cpuset.mems", c.Mems)
	}
}

func (p *planner) blockIO(b *BlockIO) {
	for _, d := range b.WeightDevice {
		if d.Weight == nil && d.LeafWeight == nil {
			p.fail(fs.ErrInvalid, "block I/O weightDevice of %d:%d without weight or leafWeight", d.Major, d.Minor)
		}
	}
	if p.v2("io") && !p.v1("blkio") {
		p.blockIOV2(b)
		return
	}
	weight := p.firstFile("blkio", "blkio.weight", "blkio.bfq.weight")
	if b.Weight != nil && *b.Weight != 0 {
		p.put("blkio", weight, strconv.Itoa(int(*b.Weight)))
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		p.put("blkio", "blkio.leaf_weight", strconv.Itoa(int(*b.LeafWeight)))
	}
	for _, d := range b.WeightDevice {
		if d.Weight != nil {
			p.device("blkio", weight+"_device", d.Major, d.Minor, uint64(*d.Weight))
		}
		if d.LeafWeight != nil {
			p.device("blkio", "blkio.leaf_weight_device", d.Major, d.Minor, uint64(*d.LeafWeight))
		}
	}
	for _, t := range b.throttles() {
		for _, d := range t.list {
			p.device("blkio", "blkio.throttle."+t.v1, d.Major, d.Minor, d.Rate)
		}
	}
}

func (p *planner) v1(controller string) bool {
	v2, ok := p.has(controller)
	return ok && !v2
}

// device writes "major:minor value" and undoes it with the value of that line.
func (p *planner) device(controller, file string, major, minor int64, value uint64) {
	dev := fmt.Sprintf("%d:%d", major, minor)
	old := dev + " 0"
	if line := deviceLine(p.read(controller, file), dev); line != "" {
		old = line
	}
	p.writes = append(p.writes, write{controller: controller, file: file, value: fmt.Sprintf("%s %d", dev, value), old: old})
}

// deviceLine is the line of a per-device control file for "major:minor".
func deviceLine(text, dev string) string {
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, dev+" ") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

func (p *planner) firstFile(controller string, names ...string) string {
	for _, n := range names {
		if p.read(controller, n) != "" {
			return n
		}
	}
	return names[0]
}

type throttle struct {
	v1, v2 string
	list   []ThrottleDevice
}

func (b *BlockIO) throttles() []throttle {
	return []throttle{
		{"read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

func (p *planner) blockIOV2(b *BlockIO) {
	file := p.firstFile("io", "io.bfq.weight", "io.weight")
	if b.Weight != nil && *b.Weight != 0 {
		p.put("io", file, ioWeight(file, *b.Weight))
	}
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		p.fail(errors.ErrUnsupported, "block I/O leaf weight on cgroup v2")
	}
	for _, d := range b.WeightDevice {
		if d.LeafWeight != nil {
			p.fail(errors.ErrUnsupported, "block I/O leaf weight of %d:%d on cgroup v2", d.Major, d.Minor)
		}
		if d.Weight == nil {
			continue
		}
		dev := fmt.Sprintf("%d:%d ", d.Major, d.Minor)
		p.writes = append(p.writes, write{controller: "io", file: file,
			value: dev + ioWeight(file, *d.Weight), old: dev + "default"})
	}
	for _, t := range b.throttles() {
		for _, d := range t.list {
			rate := "max"
			if d.Rate != 0 {
				rate = strconv.FormatUint(d.Rate, 10)
			}
			dev := fmt.Sprintf("%d:%d", d.Major, d.Minor)
			old := deviceLine(p.read("io", "io.max"), dev)
			if old == "" {
				old = dev + " " + t.v2 + "=max"
			}
			p.writes = append(p.writes, write{controller: "io", file: "io.max", value: dev + " " + t.v2 + "=" + rate, old: old})
		}
	}
}

// ioWeight fits an OCI weight (10 to 1000) to the file: io.weight runs from 1
// to 10000, io.bfq.weight from 1 to 1000.
func ioWeight(file string, w uint16) string {
	n := uint64(w)
	if file == "io.weight" && n >= 10 {
		n = 1 + (n-10)*9999/990
	}
	return strconv.FormatUint(n, 10)
}
