package layer

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// archSyscalls are those of filterSyscalls that other machines lack or name otherwise.
func archSyscalls() []uint32 {
	return []uint32{unix.SYS_FSTATAT}
}
