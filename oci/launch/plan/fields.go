package plan

// Field is one row of the table of config.json fields.
type Field struct {
	Name    string // as in config.json
	Support string // "yes", "refused", or what is special
	Test    string // the test that shows it
}

// Fields is the table of what becomes of each field of config.json (runtime specification 1.3, Linux): honoured or
// refused with an error that names it, never ignored. It is never written.
var Fields = [...]Field{
	{"ociVersion", "yes: 1.x", "TestCreateErrors/version"},
	{"process.terminal, consoleSize", "yes", "TestTerminal"},
	{"process.user.uid, gid, additionalGids, umask", "yes", "TestUser"},
	{"process.args, env, cwd", "yes; HOME from the container's /etc/passwd; a missing cwd is made", "TestOrdinary, TestUser"},
	{"process.capabilities", "yes: five sets; unknown names are refused", "TestOrdinary, TestAmbient"},
	{"process.rlimits", "yes; a hard limit that may not be raised is a warning", "TestOrdinary"},
	{"process.noNewPrivileges", "yes", "TestOrdinary, TestSeccomp"},
	{"process.apparmorProfile, selinuxLabel", "yes", "needs a kernel with them"},
	{"process.oomScoreAdj", "yes; a value that may not be lowered to is a warning", "TestOrdinary"},
	{"process.scheduler, ioPriority", "yes", "TestSchedule"},
	{"process.execCPUAffinity", "yes", "-"},
	{"process.commandLine", "refused: Windows", "-"},
	{"root.path, readonly", "yes; or a mount of type overlay on / instead of path", "TestMountTable, TestOverlay"},
	{"hostname, domainname", "yes, of a new UTS namespace; a joined one keeps its names", "TestOrdinary, TestJoinedNamespaces"},
	{"mounts", "yes: binds, file systems, recursive attributes, propagation, tmpcopyup", "TestMountTable, TestCopyUp, TestOptions"},
	{"mounts.uidMappings, gidMappings", "binds and lower layers of the root's overlay (6.13); refused on others", "TestUserNamespace"},
	{"hooks", "yes: six kinds", "TestHooks, TestHookFails"},
	{"annotations", "kept for state and hooks; none changes anything", "TestHooks"},
	{"linux.namespaces", "new: all; by path: all but mount, which is refused, as is a config without one", "TestJoinedNamespaces, TestRefused"},
	{"linux.uidMappings, gidMappings", "yes", "TestUserNamespace"},
	{"linux.timeOffsets", "refused", "TestRefused"},
	{"linux.devices", "yes; bound from the host in a user namespace", "TestDevices"},
	{"linux.netDevices", "refused", "TestRefused"},
	{"linux.cgroupsPath, resources", "yes, package cgroup", "TestUpdate, TestMemoryLimit"},
	{"linux.rootfsPropagation", "yes", "TestRefused"},
	{"linux.seccomp", "yes: all actions, listenerPath", "TestSeccomp"},
	{"linux.sysctl", "yes", "TestSysctl"},
	{"linux.maskedPaths, readonlyPaths", "yes", "TestMountTable, TestMaskWithOwnNull"},
	{"linux.mountLabel", "yes: context= of tmpfs, devpts and the overlay", "needs SELinux"},
	{"linux.intelRdt", "refused", "TestRefused"},
	{"linux.memoryPolicy", "yes", "TestRefused"},
	{"linux.personality", "domain; flags are refused", "TestRefused"},
	{"solaris, windows, vm, zos", "refused", "-"},
}
