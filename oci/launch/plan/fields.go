package plan

import (
	"fmt"
	"strings"
)

// Support is what becomes of a field.
type Support string

// The three ways. A field is never just passed over: what is of another system or has lost its meaning is a warning,
// or nothing to be done at all, and the row says so.
const (
	Honoured Support = "yes"
	Refused  Support = "refused"   // an error that names the field
	Moot     Support = "no effect" // nothing is left that it could do; a warning where somebody might expect it
)

// Field is one row of the table of config.json fields.
type Field struct {
	Names   string // as in config.json; names after the first are siblings of it: "process.user.uid, gid"
	Support Support
	Note    string // limits, and what the kernel must have
	Tests   string // those that show it
}

// Paths are the full names of the fields of a row.
func (f *Field) Paths() []string {
	names := strings.Split(f.Names, ", ")
	prefix := names[0][:strings.LastIndexByte(names[0], '.')+1]
	for i := range names[1:] {
		names[i+1] = prefix + names[i+1]
	}
	return names
}

// Table renders the table for people (docs/berth-oci.md).
func Table() string {
	var s strings.Builder
	total := map[Support]int{}
	for _, f := range Fields {
		total[f.Support] += len(f.Paths())
	}
	fmt.Fprintf(&s, "%d fields honoured, %d refused, %d without effect.\n\n| field | supported | notes | tests |\n|---|---|---|---|\n",
		total[Honoured], total[Refused], total[Moot])
	for _, f := range Fields {
		fmt.Fprintf(&s, "| `%s` | %s | %s | %s |\n", f.Names, f.Support, f.Note, f.Tests)
	}
	return s.String()
}

// Fields is the table of what becomes of each field of config.json (runtime specification 1.3, Linux). It is never
// written. Lists of objects count by the objects' fields. A test holds it against the specification's types.
var Fields = [...]Field{
	{"ociVersion", Honoured, "1.x", "TestCreateErrors"},
	{"process.terminal", Honoured, "console socket, or shown by `run` and `exec` in the foreground", "TestTerminal, TestForegroundTerminal"},
	{"process.consoleSize.height, width", Honoured, "", "TestTerminal"},
	{"process.user.uid, gid, umask, additionalGids", Honoured, "umask 0022 when not given", "TestUser"},
	{"process.user.username", Moot, "of Windows: a warning; uid and gid count", "TestWarnings"},
	{"process.args, env", Honoured, "HOME from the container's /etc/passwd", "TestOrdinary, TestUser"},
	{"process.commandLine", Refused, "of Windows", "TestRefusedRows"},
	{"process.cwd", Honoured, "made when missing; never outside of the root", "TestUser, TestCreateErrors"},
	{"process.capabilities.bounding, effective, inheritable, permitted, ambient", Honoured,
		"unknown names and what the runtime has not got itself: a warning", "TestOrdinary, TestAmbient, TestCapabilityWarnings"},
	{"process.rlimits.type, hard, soft", Honoured, "all 16; a hard limit that may not be raised: a warning", "TestRlimits"},
	{"process.noNewPrivileges", Honoured, "", "TestOrdinary, TestSeccomp"},
	{"process.apparmorProfile", Honoured, "refused without AppArmor in the kernel", "TestLabelsRefused"},
	{"process.selinuxLabel", Honoured, "refused without SELinux in the kernel", "TestLabelsRefused"},
	{"process.oomScoreAdj", Honoured, "a value that may not be lowered to (CAP_SYS_RESOURCE): a warning", "TestOrdinary"},
	{"process.scheduler.policy, nice, priority, flags, runtime, deadline, period", Honoured,
		"SCHED_ISO is in no kernel: refused; realtime policies need realtime of the cgroup on v1", "TestSchedulers, TestFeaturesPolicies"},
	{"process.ioPriority.class, priority", Honoured, "", "TestSchedulers"},
	{"process.execCPUAffinity.initial, final", Honoured, "exec only, as the specification says", "TestExecAffinity, TestInitially"},
	{"root.path", Honoured, "required; or a mount of type overlay on / instead", "TestMountTable, TestOverlay"},
	{"root.readonly", Honoured, "", "TestMountTable"},
	{"hostname, domainname", Honoured, "in a UTS namespace that is not the runtime's", "TestOrdinary, TestDomainname, TestForeignNamespaces"},
	{"mounts.destination, type, source", Honoured, "a relative destination: a warning, taken from /", "TestMountTable, TestWarnings"},
	{"mounts.options", Honoured, "all of config.md; on a bind, options of the file system are refused; remount changes the mount alone",
		"TestMountOptions, TestRecursiveOptions, TestRemount, TestCopyUp, TestFeaturesMountOptions"},
	{"mounts.uidMappings.containerID, hostID, size", Honoured, "binds, and lower layers of the root's overlay (Linux 6.13); refused on others",
		"TestIDMap, TestUserNamespace"},
	{"mounts.gidMappings.containerID, hostID, size", Honoured, "as uidMappings", "TestIDMap, TestUserNamespace"},
	{"hooks.prestart.path, args, env, timeout", Honoured, "", "TestHooks, TestHookFails"},
	{"hooks.createRuntime.path, args, env, timeout", Honoured, "", "TestHooks, TestHookFails"},
	{"hooks.createContainer.path, args, env, timeout", Honoured, "in the container's namespaces, before the pivot", "TestHooks, TestHookFails"},
	{"hooks.startContainer.path, args, env, timeout", Honoured, "programs of the container", "TestStartContainerHook"},
	{"hooks.poststart.path, args, env, timeout", Honoured, "one that fails stops the container", "TestHooks, TestPoststartFails"},
	{"hooks.poststop.path, args, env, timeout", Honoured, "of a create that failed after hooks, too", "TestHooks, TestPoststartFails"},
	{"annotations", Honoured, "in state and hooks; none changes anything", "TestHooks"},
	{"linux.uidMappings.containerID, hostID, size", Honoured, "", "TestUserNamespace"},
	{"linux.gidMappings.containerID, hostID, size", Honoured, "", "TestUserNamespace"},
	{"linux.sysctl", Honoured, "of namespaces the container does not share with the runtime; others are refused", "TestSysctl, TestForeignNamespaces, TestRefused"},
	{"linux.resources.devices.allow, type, major, minor, access", Honoured, "v1, or eBPF on v2", "TestDevices, TestDeviceProgram, TestDeviceRules"},
	{"linux.resources.memory.limit, reservation, swap, swappiness, disableOOMKiller", Honoured,
		"swappiness and disableOOMKiller are of v1 and refused on v2", "TestResourceFiles, TestMemoryLimit, TestUnsupportedV2"},
	{"linux.resources.memory.kernel", Honoured, "v1 before Linux 5.16; refused elsewhere, but for -1, no limit", "TestResourceFiles, TestUnsupportedV2"},
	{"linux.resources.memory.useHierarchy", Honoured, "Linux always counts so since 5.11: false is refused", "TestResourceFiles, TestUnsupportedV2"},
	{"linux.resources.memory.kernelTCP", Honoured, "v1; refused on v2", "TestResourceFiles, TestUnsupportedV2"},
	{"linux.resources.memory.checkBeforeUpdate", Honoured, "", "TestResourceFiles"},
	{"linux.resources.cpu.shares, quota, burst, period, cpus, mems, idle", Honoured, "idle: Linux 5.15", "TestResourceFiles, TestUpdateFlags"},
	{"linux.resources.cpu.realtimeRuntime, realtimePeriod", Honoured, "v1; refused on v2", "TestSchedulers, TestUnsupportedV2"},
	{"linux.resources.pids.limit", Honoured, "", "TestPidsLimit, TestUpdate"},
	{"linux.resources.blockIO.weight, leafWeight", Honoured, "leafWeight needs CFQ (before Linux 5.0)", "TestResourceFiles, TestUnsupportedV2"},
	{"linux.resources.blockIO.weightDevice.major, minor, weight, leafWeight", Honoured, "", "TestResourceFiles"},
	{"linux.resources.blockIO.throttleReadBpsDevice.major, minor, rate", Honoured, "", "TestResourceFiles"},
	{"linux.resources.blockIO.throttleWriteBpsDevice.major, minor, rate", Honoured, "", "TestResourceFiles"},
	{"linux.resources.blockIO.throttleReadIOPSDevice.major, minor, rate", Honoured, "", "TestResourceFiles"},
	{"linux.resources.blockIO.throttleWriteIOPSDevice.major, minor, rate", Honoured, "", "TestResourceFiles"},
	{"linux.resources.hugepageLimits.pageSize, limit", Honoured, "reservations too (Linux 5.7)", "TestResourceFiles"},
	{"linux.resources.network.classID", Honoured, "v1; refused without net_cls", "TestResourceFiles, TestUnsupportedV2"},
	{"linux.resources.network.priorities.name, priority", Honoured, "v1; refused without net_prio", "TestResourceFiles, TestUnsupportedV2"},
	{"linux.resources.rdma.hcaHandles, hcaObjects", Honoured, "", "TestResourceFiles"},
	{"linux.resources.unified", Honoured, "keys of the cgroup2 tree, hybrid included", "TestResourceFiles, TestUnified"},
	{"linux.cgroupsPath", Honoured, "cgroupfs: a path; systemd: slice:prefix:name, on v1 without device rules that systemd has no words for",
		"TestExec, TestScopePath, TestProperties, TestUnifiedProperties, TestDeviceProperties, TestStartScope, TestScopeKeepsLimits"},
	{"linux.namespaces.type, path", Honoured, "all eight, new or by path; a mount namespace that is not new gets the container's tree as a detached root, and mounts nothing",
		"TestJoinedNamespaces, TestJoinedTimeAndUser, TestMountNamespaceByPath, TestUserNamespaceHostPid"},
	{"linux.devices.path, type, major, minor, fileMode, uid, gid", Honoured,
		"in a user namespace the host's of the same path and number, bound", "TestDevices, TestUserNamespace, TestDeviceInUserNamespace"},
	{"linux.netDevices.name", Honoured, "with permanent addresses of global scope", "TestNetDevices, TestNetDevicesRefused"},
	{"linux.seccomp.defaultAction, defaultErrnoRet, architectures, flags", Honoured, "SCMP_ACT_NOTIFY is refused as a default", "TestSeccomp, TestFeaturesSeccomp"},
	{"linux.seccomp.listenerPath, listenerMetadata", Honoured, "", "TestSeccompNotify, TestSeccompNotifyRefused"},
	{"linux.seccomp.syscalls.names, action, errnoRet", Honoured, "", "TestSeccomp, TestFeaturesSeccomp"},
	{"linux.seccomp.syscalls.args.index, value, valueTwo, op", Honoured, "", "TestSeccompArguments, TestFeaturesSeccomp"},
	{"linux.rootfsPropagation", Honoured, "all four, recursive or not", "TestRootPropagation"},
	{"linux.maskedPaths, readonlyPaths", Honoured, "", "TestMountTable, TestMaskWithOwnNull"},
	{"linux.mountLabel", Honoured, "refused without SELinux in the kernel", "TestLabelsRefused"},
	{"linux.intelRdt.closID, schemata, l3CacheSchema, memBwSchema, enableMonitoring", Honoured, "refused without /sys/fs/resctrl",
		"TestOwnGroup, TestSharedGroup, TestCreateErrors"},
	{"linux.memoryPolicy.mode, nodes, flags", Honoured, "", "TestMemoryPolicy"},
	{"linux.personality.domain", Honoured, "", "TestPersonality"},
	{"linux.personality.flags", Refused, "the specification defines none", "TestRefusedRows"},
	{"linux.timeOffsets.secs, nanosecs", Honoured, "of a new time namespace", "TestTimeOffsets"},
	{"solaris, windows, vm, zos, freebsd", Refused, "other systems", "TestRefusedRows"},
}
