// Package inside is the body of `berth-oci init`: the process that will become the container.
//
// It is born in its namespaces and cgroups (package spawn), executes a copy of the runtime that nobody inside can write
// to, and receives a Program (package program) over a socket. Then:
//
//	setup     the steps of the program, in order: file systems, root, pivot, mounts, nodes, masks, sysctls
//	ready     `create` is told, and returns to its caller
//	wait      accept on the start socket, one byte
//	finish    cwd, labels, limits, capabilities, user, seccomp, exec; errors go to whoever connected
//
// What is trusted: the program, the descriptors that came with it, the kernel. What is not: everything below the
// container's root, and other processes that may share its namespaces and swap names while we look. Hence three rules:
//
//   - paths are resolved by openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS from the root's descriptor, once,
//     and only the descriptor that comes out is used: to mount on, to create in, to read from (root.go);
//   - files of /proc are written through a procfs that is not attached anywhere, so nothing can be mounted over it;
//   - nothing is opened by a path of the host, which is gone after the pivot.
//
// The whole body runs on one locked thread: credentials, labels and filters belong to threads, and exec ends the others.
package inside
