package apparmor

import "strings"

// Profile is the text of the default profile (apparmor.d(5)).
//
// It is written for processes that are root in their container: what a file's
// owner or a capability would allow them in /proc and /sys, and the host would
// feel. Everything else is left to namespaces, capabilities and seccomp.
//
//   - Files are open but for the listed ones: a container may write its own
//     /proc/PID, and of /proc/sys what its IPC namespace has for itself.
//   - No mounts: CAP_SYS_ADMIN alone must not undo read-only and masked paths.
//   - Signals and ptrace work among the containers of this profile, and
//     unconfined processes (the runtime, a debugger on the host) may send.
//
// attach_disconnected: paths handed in from the host's mount tree are outside
// of the container's root and would be refused otherwise. mediate_deleted: a
// deleted file is still its file.
func Profile(name string) string { return strings.ReplaceAll(text, "NAME", name) }

const text = `#include <tunables/global>

profile NAME flags=(attach_disconnected,mediate_deleted) {
  network,
  capability,
  file,
  umount,

  signal (receive) peer=unconfined,
  signal (send,receive) peer=NAME,
  ptrace (trace,read,tracedby,readby) peer=NAME,

  deny mount,

  # Directly in /proc, and in its directories that are neither a process's nor sys. (self is a link to a number.)
  deny @{PROC}/* w,
  deny @{PROC}/[^1-9s]*/** w,
  deny @{PROC}/s[^y]*/** w,
  deny @{PROC}/sysvipc/** w,
  # Of sys only kernel, and of that only shm*, which belong to the IPC namespace.
  deny @{PROC}/sys/{[^k]**,k[^e]**} w,
  deny @{PROC}/sys/kernel/{[^s]**,s[^h]**,sh[^m]**} w,
  deny @{PROC}/sysrq-trigger rwklx,
  deny @{PROC}/kcore rwklx,

  # Of /sys only cgroups, which their own permissions guard.
  deny /sys/[^f]*/** wklx,
  deny /sys/f[^s]*/** wklx,
  deny /sys/fs/[^c]*/** wklx,
  deny /sys/fs/c[^g]*/** wklx,
  deny /sys/fs/cg[^r]*/** wklx,
  deny /sys/firmware/{,**} rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/security/{,**} rwklx,
}
`
