package program

// Resources are the names of resource limits without RLIMIT_; the index is the number. A table, never written.
var Resources = [...]string{"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS",
	"SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"}

// CapabilityNames are the names of capabilities without CAP_; the index is the number. A table, never written.
var CapabilityNames = [...]string{"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER", "SYS_MODULE",
	"SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE", "SYS_RESOURCE", "SYS_TIME",
	"SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP", "MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG",
	"WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF", "CHECKPOINT_RESTORE"}

// Resource is the number of a limit, with or without its prefix; -1 when it is not known. Neither this nor Capability allocates:
// package quick calls them.
func Resource(name string) int {
	const prefix = "RLIMIT_"
	if len(name) > len(prefix) && name[:len(prefix)] == prefix {
		name = name[len(prefix):]
	}
	for i := range Resources {
		if Resources[i] == name {
			return i
		}
	}
	return -1
}

// Capability is the number of a capability, with or without its prefix; -1 when it is not known.
func Capability(name string) int {
	const prefix = "CAP_"
	if len(name) > len(prefix) && name[:len(prefix)] == prefix {
		name = name[len(prefix):]
	}
	for i := range CapabilityNames {
		if CapabilityNames[i] == name {
			return i
		}
	}
	return -1
}
