package metrics

import (
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/ns"
)

// Labels are the values of the labels that every family has.
type Labels struct {
	Container string // name in its pod, "" for the pod itself
	ID        string // cgroup path, as cAdvisor has it
	Image     string // "" for the pod itself
	Namespace string
	Pod       string
}

// Sample is what was read of one container or one pod. Parts that are nil have no families in the answer.
type Sample struct {
	Labels    Labels
	Time      time.Time // of reading
	Started   time.Time // zero: not known
	Counters  *cgroup.Stats
	Detail    *cgroup.Detail              // for containers: reading it costs as much again
	Resources *rt.LinuxContainerResources // limits in force; nil: no spec families
	Writable  *Writable
	Disk      *Disk
	Processes *Processes
	Links     []ns.Link                        // of the pod's network
	Device    func(major, minor uint32) string // name of a block device; nil: the numbers
}

// Writable is the size of a container's writable layer.
type Writable struct{ Bytes, Inodes uint64 }

// Disk is the file system that writable layers are on.
type Disk struct {
	Device                    string
	Bytes, Inodes, InodesFree uint64
}

// Processes are counts over all processes of a container.
type Processes struct {
	Count, Descriptors, Sockets uint64
	SoftFiles                   uint64 // the soft limit of open files of its first process; 0: not known
}
