// Package launch is the native OCI runtime: what stands behind the commands of cmd/berth-oci.
//
//	create ──> plan (pure) ──> cgroup ──> spawn: one raw clone into namespaces and cgroups ──> init (package inside)
//	   │                                                                                     │
//	   ├─ opens every source in the host's view: overlay, binds, devices, sockets             │ receives the program
//	   ├─ sends the program with the descriptors  ───────────────────────────────────────────>│ mounts, pivots, masks
//	   └─ returns when the init says "ready"  <───────────────────────────────────────────────┤
//	start  one byte to <root>/<id>/start.sock  ──────────────────────────────────────────────>│ user, caps, seccomp, exec
//	exec   the same path with another program: join the namespaces of a container, be born in its cgroup, exec
//	delete kill by cgroup, remove cgroup and directory; works from any half-made state
//
// Packages below: plan decides, spawn clones, program is the message, inside is the init, state is the record on disk,
// hook runs hooks, seccomp compiles filters, netdevice moves network devices, resctrl shares caches, become is what an init does
// last. Only this package puts them together, and quick, which does what is plain without a Go runtime.
//
// Without root the command runs itself again in a user namespace first (rootless.go), and goes the same way there.
//
// The order in create is what makes kill -9 harmless: the id's directory and record (with the cgroup's path) exist
// before the cgroup, the cgroup before the process, and the init ends by itself when its parent is gone before "ready".
//
// The init never runs from a file that a container could write: it executes a clone of the binary's mount made
// read-only and attached nowhere (the one this program runs from, if it does: package oci, Program), or where the kernel can't (before Linux 5.12) a sealed memory file. With a user namespace
// it is a copy below the root, <root>/.exe, that nobody may read: what can't be read can't be traced (exe.go).
package launch
