// Package sandbox is Berth's core: pods and containers, their identity, their phases and the order of steps.
//
// A pod is a set of namespaces, a cgroup, a network attachment and a monitor process; a container is a root file
// system, a specification and a process below that monitor. This package decides what happens when; how each thing
// is done belongs to the leaves (sandbox/ns, sandbox/monitor, sandbox/compile, image, netplugin, oci, oci/cgroup),
// which know nothing of pods. Nothing of gRPC may live here; requests and answers use the CRI's message types.
//
// # The way of a pod
//
//	Manager.Run     new operation, or join the one in flight for (namespace, name, uid, attempt)
//	 └ Pod.build    record -> monitor, cgroup -> namespaces -> shared memory -> network -> ready     any error: Pod.clear
//	Pod.Create      record -> image -> specification -> monitor runs "<runtime> create"              any error: Container.clear
//	Container.Start the runtime lets the waiting init exec
//	exit            the monitor writes exit.json, then reaps, then tells us: the event is a hint, the file is the truth
//	Pod.Stop        kill, give the network back, let the monitor go
//	Pod.Remove      Pod.clear, then the directory
//
// There is no rollback code. Pod.clear and Container.clear are idempotent, work from any half-made state and serve
// failed creation, removal, crash recovery and the morning after a reboot alike. What they need is computed from the
// id or read from a record written before the resource was taken.
//
// # Files
//
//	root/pods/<pod>/pod.json                  the pod's record: request, handler, cgroup, addresses, phase   writer: this package
//	root/pods/<pod>/hostname, resolv.conf, hosts                                                             writer: this package
//	root/pods/<pod>/c/<ctr>/container.json    the container's record                                         writer: this package
//	root/pods/<pod>/c/<ctr>/config.json       OCI runtime specification; the directory is the bundle         writer: this package
//	root/pods/<pod>/c/<ctr>/upper, work       overlay upper and work directory
//	root/pods/<pod>/c/<ctr>/vol/<n>           anonymous volumes of the image configuration
//	root/pods/<pod>/c/<ctr>/exit.json         how the container ended                                        writer: the monitor
//	root/net/<pod>.json                       network intent and result                                      writer: netplugin
//	state/pods/<pod>/monitor.sock, monitor.lock   the monitor's socket; the lock is held as long as it lives
//	state/pods/<pod>/ns/{ipc,uts,user,pid}    pinned namespaces; net is pinned as /run/netns/berth-<pod>
//	state/pods/<pod>/<ctr>.pid                pid file of the runtime
//	state/roots/                              where foreign runtimes' mounts are made, in their own mount namespaces (package handler)
//	state/oci/<handler>/                      the runtime's own state
//
// Records are replaced by rename and not synced: they survive our death; after a reboot they are history. A record
// that does not parse costs its object only.
//
// # Concurrency
//
// Readers never lock: the index of objects and the state of each object are immutable values behind an
// atomic.Pointer. Locks are held for transitions, never for waits. Lock order:
//
//	operations.mu  (leaf)
//	Container.limits -> Container.mu
//	Container.mu -> Manager.mu -> (nothing)
//	Pod.mu       -> Manager.mu
package sandbox
