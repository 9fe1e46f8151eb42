// Package cgroup places processes of containers and pods into control groups
// and limits, measures, freezes and kills what is in them, on cgroup v1, v2 and
// the hybrid of both.
//
// A Group is one cgroup path ("/kubepods/pod1/ctr") in every hierarchy of the
// host at once:
//
//	legacy    /sys/fs/cgroup/<controller>/PATH        one directory per mounted hierarchy
//	hybrid    the same, and /sys/fs/cgroup/unified/PATH (cgroup2)
//	unified   /sys/fs/cgroup/PATH
//
// Three decisions shape the package.
//
// Processes are born in their group, never moved there: moving a process waits
// for an RCU grace period (8 to 12 ms on an unhurried node). Entry hands out
// what a clone needs: the cgroup2 directory for CLONE_INTO_CGROUP and, for v1,
// `tasks` descriptors to which the child writes "0" while it still has one
// thread, for which the kernel skips that wait (cgroup_attach_lock, Linux 5.10
// to 6.18).
//
// Deciding is pure: plan turns Resources into an ordered list of file = value,
// knowing the kernel only through a function that reads current values. Doing
// is a loop over that list which puts the old values back when one is refused.
//
// The path decides everything: a Group holds no state that the kernel does not
// hold too, so Open after a crash is as good as the Group that Create returned.
// Descriptors are only kept by Stats (until Close).
package cgroup
