// Package nofile knows the soft limit of open files this process was started with.
//
// The Go runtime raises RLIMIT_NOFILE to its hard limit while package syscall is initialised, and puts it back only for
// programs started through package os. A container's process is not started that way, and one that was given a million
// descriptors by accident may spend its life closing them. So the limit is read before: this package imports nothing
// that imports syscall, and packages that depend on nothing are initialised first (language specification, "Package
// initialization": sorted by import path, each as soon as what it imports is ready).
package nofile

// Soft is the limit at the start of the process, 0 if it could not be read. It is written once, before main.
var Soft = read()

// rlimit is struct rlimit64.
type rlimit struct {
	cur uint64
	_   uint64 // the hard limit
}

func read() uint64 {
	var l rlimit
	if prlimit(&l) != 0 {
		return 0
	}
	return l.cur
}

// prlimit reads RLIMIT_NOFILE of this process and returns 0 or a negative error number (prlimit_GOARCH.s).
//
//go:noescape
func prlimit(l *rlimit) int64
