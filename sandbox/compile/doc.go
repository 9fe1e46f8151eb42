// Package compile decides what a container is: it turns a pod's config, a
// container's config and an image's config, all as the CRI sends them, into an
// OCI runtime configuration.
//
//	PodSandboxConfig ─┐
//	ContainerConfig  ─┤
//	image config     ─┼─> Container ─> specs.Spec ─> config.json of the bundle
//	Host, Paths      ─┤
//	User             ─┘   (ResolveUser, from the image's passwd and group)
//
// Everything here is a pure function of its arguments: no system call, no file,
// no clock, no global. What depends on the machine arrives in Host, what depends
// on other parts of the pod in Paths, what had to be looked up (device nodes,
// image layers, a seccomp profile's bytes) in Input. One exception is named:
// rules of a seccomp profile that hold from some kernel version on are expanded
// by the profile library, which asks the kernel for its version once.
//
// CheckPod and CheckContainer hold every refusal that needs no kernel. They are
// meant to run before anything is made; Container runs both again, so
// that a spec never exists for a request that would have been refused. All
// refusals wrap fs.ErrInvalid and open with the field in the words of the CRI:
//
//	linux.security_context.run_as_group: needs run_as_user or run_as_username
//
// Texts of the request are data. Labels and annotations have no effect here at
// all; names that become parts of paths are refused when they hold "/", "..",
// NUL or a line break; a string that looks like a number is a number or an
// error, never a name.
package compile
