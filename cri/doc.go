// Package cri answers the Container Runtime Interface, k8s.io/cri-api runtime.v1, over gRPC.
//
// It is a thin layer: every method checks that the parts of the request it needs are there, makes one call into
// package sandbox or image, and answers. One file per noun:
//
//	node.go       Version, Status, RuntimeConfig, UpdateRuntimeConfig
//	pod.go        Run, Stop, Remove, Status, List, UpdateResources of pod sandboxes
//	container.go  Create, Start, Stop, Remove, Status, List, UpdateResources, ReopenLog of containers
//	exec.go       ExecSync; Exec, Attach and PortForward, whose data go through cri/stream
//	stats.go      container and pod statistics
//	image.go      the image service, and the translation of image.Image into the CRI's Image
//
// What all methods share is done around them, in intercept.go: errors become gRPC codes by the one switch in code.go,
// a panic becomes Internal and costs only its request, and each call leaves one line in the log. Requests are never
// logged whole: they carry credentials, environments and command lines.
//
// Lists are also served as streams; chunk.go cuts them by size, because a client takes at most 16 MiB in one message.
//
// RPCs that are not built answer Unimplemented by the embedded generated servers: kubelet has fallbacks that depend on
// that very code.
package cri
