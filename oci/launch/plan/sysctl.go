package plan

import (
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func at(list string, i int, field string) string { return fmt.Sprintf("%s[%d].%s", list, i, field) }

// checkSysctls refuses parameters that do not belong to a namespace of the container: they would be the host's, as
// kernel.core_pattern is (CVE-2022-0811). Which namespaces have which is in the manual pages named below.
func (c *Config) checkSysctls() error {
	has := map[specs.LinuxNamespaceType]bool{}
	for _, ns := range c.Linux.Namespaces {
		has[ns.Type] = true
	}
	for key := range c.Linux.Sysctl {
		kind := sysctlSpace(sysctlPath(key))
		if kind == "" {
			return invalid("linux.sysctl[%q]: of no namespace, so it is the host's", key)
		}
		if !has[kind] {
			return invalid("linux.sysctl[%q]: no namespace of type %s", key, kind)
		}
	}
	return nil
}

// NetSysctls reports whether there are parameters of the network namespace: create makes sure that the one joined is
// not its own.
func (c *Config) NetSysctls() bool {
	for key := range c.Linux.Sysctl {
		if sysctlSpace(sysctlPath(key)) == specs.NetworkNamespace {
			return true
		}
	}
	return false
}

// sysctlSpace is the kind of namespace a parameter belongs to: ipc_namespaces(7), network_namespaces(7),
// uts_namespaces(7). The host name has a field of its own.
func sysctlSpace(path string) specs.LinuxNamespaceType {
	switch path {
	case "kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall", "kernel/shmmax", "kernel/shmmni",
		"kernel/shm_rmid_forced", "kernel/auto_msgmni", "kernel/msg_next_id", "kernel/sem_next_id", "kernel/shm_next_id":
		return specs.IPCNamespace
	case "kernel/domainname":
		return specs.UTSNamespace
	}
	switch {
	case strings.HasPrefix(path, "fs/mqueue/"):
		return specs.IPCNamespace
	case strings.HasPrefix(path, "net/"):
		return specs.NetworkNamespace
	}
	return ""
}
