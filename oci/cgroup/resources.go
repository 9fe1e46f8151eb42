package cgroup

// Resources are the limits of a group. The shape is that of LinuxResources in
// the OCI runtime specification (config-linux.md, "Control groups"); nil and
// empty mean "leave as it is", for new groups and updates alike. Memory, CPU
// and Pids have the very fields of their OCI namesakes, so a pointer to one
// converts to a pointer to the other. Bytes and microseconds throughout.
type Resources struct {
	Devices        []Device
	Memory         *Memory
	CPU            *CPU
	Pids           *Pids
	BlockIO        *BlockIO
	HugepageLimits []HugepageLimit
	Network        *Network
	Rdma           map[string]Rdma
	Unified        map[string]string // file of the cgroup2 tree = value, written after everything else
}

// Memory limits; -1 is "no limit".
type Memory struct {
	Limit             *int64
	Reservation       *int64
	Swap              *int64 // memory and swap together
	Kernel            *int64 // v1 only, before Linux 5.16
	KernelTCP         *int64 // v1 only
	Swappiness        *uint64
	DisableOOMKiller  *bool // v1 only
	UseHierarchy      *bool // always true since Linux 5.11
	CheckBeforeUpdate *bool // refuse a limit below what is in use
}

// CPU limits; a quota of -1 is "no limit".
type CPU struct {
	Shares          *uint64
	Quota           *int64
	Burst           *uint64
	Period          *uint64
	RealtimeRuntime *int64  // v1 only
	RealtimePeriod  *uint64 // v1 only
	Cpus            string
	Mems            string
	Idle            *int64
}

// Pids limits the number of tasks; negative is "no limit".
type Pids struct {
	Limit *int64
}

// BlockIO weights (10 to 1000) and throttles.
type BlockIO struct {
	Weight                  *uint16
	LeafWeight              *uint16
	WeightDevice            []WeightDevice
	ThrottleReadBpsDevice   []ThrottleDevice
	ThrottleWriteBpsDevice  []ThrottleDevice
	ThrottleReadIOPSDevice  []ThrottleDevice
	ThrottleWriteIOPSDevice []ThrottleDevice
}

// WeightDevice is the weight of one block device.
type WeightDevice struct {
	Major, Minor       int64
	Weight, LeafWeight *uint16
}

// ThrottleDevice is the rate of one block device per second, 0 for unlimited.
type ThrottleDevice struct {
	Major, Minor int64
	Rate         uint64
}

// HugepageLimit bounds huge pages of one size ("2MB").
type HugepageLimit struct {
	Pagesize string
	Limit    uint64
}

// Network marks and ranks packets; v1 only.
type Network struct {
	ClassID    *uint32
	Priorities []InterfacePriority
}

// InterfacePriority is the priority of packets on one interface.
type InterfacePriority struct {
	Name     string
	Priority uint32
}

// Rdma limits one RDMA device.
type Rdma struct {
	HcaHandles *uint32
	HcaObjects *uint32
}

// Device is one rule for device nodes, applied in order. Type is "a", "b" or
// "c"; "" is "a". A nil number is any. Access is made of "rwm"; "" is all.
type Device struct {
	Allow        bool
	Type         string
	Major, Minor *int64
	Access       string
}
