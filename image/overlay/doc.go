// Package overlay knows what overlayfs makes of layer directories: it prepares the writable directory of a
// container, counts what is in it, and reads single files of a merged image without mounting anything on the host.
//
// A stack of layers is given top first, as lowerdir wants it. Reading goes through a detached, read-only overlay mount
// (fsopen(2), fsmount(2)): the kernel decides what whiteouts and opaque directories mean, no name is resolved
// outside it (openat2(2), RESOLVE_IN_ROOT), and nothing is attached anywhere. Where the kernel or the
// privilege for that is missing, the layers are walked by hand with the same rules.
//
// The package imports the standard library and golang.org/x/sys/unix.
package overlay
