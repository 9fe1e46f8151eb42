#!/usr/bin/env bash
# Runs a command in mount, network, PID, UTS and IPC namespaces of its own:
#
#   hack/testns.sh [--read-only [--write DIR]...] COMMAND [ARG]...
#
# so that a test daemon's rules, links, mounts and processes can't touch the machine's, and go with the namespaces
# whatever happens. Inside, / is a shared mount (propagation is tested), lo is up, /run/netns and /var/lib/cni are empty.
# Cgroups are the machine's: what a test leaves there is its fault and is reported by the leak check.
#
# --read-only is for what attacks a runtime, or sends it paths that nobody has looked at: all mounts are read-only
# (mount_setattr(2), Linux 5.12), but for the cgroup hierarchies, the DIRs, and what is new and empty in here: /tmp, /run, /var/tmp,
# /var/lib/cni, and a /dev without disks. It is a wall against bugs, not against a program that looks for a way out: root may
# mount again. A procfs that a container has shows the machine's parameters, whatever is read-only here; those named below are
# looked at in the end, set back, and make the run fail.
set -euo pipefail
. "$(dirname "$0")/env.sh"
if [ "${BERTH_TESTNS:-}" != inside ]; then
	need_root
	need unshare:util-linux:"makes namespaces" ip:iproute2:"brings lo up" perl:perl-base:"calls mount_setattr(2), which mount(8) has since 2.39"
	mkdir -p /run/netns /var/lib/cni
	BERTH_TESTNS=inside exec unshare --mount --net --pid --uts --ipc --fork --kill-child --mount-proc --propagation private "$0" "$@"
fi
unset BERTH_TESTNS
export BERTH_IN_TESTNS=1
jail='' write=()
while [ $# -gt 0 ]; do
	case $1 in
	--read-only) jail=1 ;;
	--write) write+=("$(realpath "$2")"); shift ;;
	*) break ;;
	esac
	shift
done

# setattr PATH SET CLEAR [RECURSIVE]: attributes of a mount; 1 is MOUNT_ATTR_RDONLY. The number of the call is the same everywhere.
setattr() {
	perl -e '($p, $s, $c, $r) = @ARGV; $a = pack("QQQQ", $s, $c, 0, 0);
		syscall(442, -100, $p, $r ? 0x8000 : 0, $a, 32) == 0 or die "mount_setattr $p: $!\n"' "$@"
}

# empty DIR MODE PATH...: a tmpfs there, which shows those of the paths that are below.
empty() {
	local dir=$1 mode=$2 p; shift 2
	mkdir -p /run/before
	mount --rbind "$dir" /run/before
	mount -t tmpfs -o "mode=$mode" tmpfs "$dir"
	for p in "$@"; do
		[[ $p = "$dir"/* && ! -e $p && -d /run/before/${p#"$dir"/} ]] || continue
		mkdir -p "$p"
		mount --rbind "/run/before/${p#"$dir"/}" "$p"
	done
	umount -l /run/before
	rmdir /run/before
}

# devices: what containers and their runtimes need, and no disk.
devices() {
	local n major minor kind
	mount -t tmpfs -o mode=755 dev /dev
	while read -r n kind major minor; do mknod -m 666 "/dev/$n" "$kind" "$major" "$minor"; done <<-END
		null c 1 3
		zero c 1 5
		full c 1 7
		random c 1 8
		urandom c 1 9
		tty c 5 0
		console c 5 1
		fuse c 10 229
	END
	mkdir /dev/{pts,shm,mqueue,net}
	mknod -m 666 /dev/net/tun c 10 200
	mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
	mount -t tmpfs -o mode=1777 shm /dev/shm
	mount -t mqueue mqueue /dev/mqueue
	ln -s pts/ptmx /dev/ptmx
	ln -s /proc/self/fd /dev/fd
	for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "/dev/${n#*:}"; done
}

# parameters of the machine that a bug is most likely to hit, or that would hurt most.
parameters() {
	(cd "$1" && grep -s . kernel/{core_pattern,core_pipe_limit,core_uses_pid,modprobe,poweroff_cmd,panic,panic_on_oops,sysrq,randomize_va_space,pid_max} \
		vm/{laptop_mode,overcommit_memory,panic_on_oom,swappiness} fs/{suid_dumpable,protected_symlinks,protected_hardlinks} ${BERTH_JAIL_PARAMETER:-} || true)
}

seal() {
	local p d
	mount -t tmpfs -o mode=755 run /run
	for d in /tmp /var/tmp; do empty "$d" 1777 "$ROOT" "$CACHE" "$PWD" "$(dirname "$(realpath "$(command -v "$1")")")" "${write[@]}"; done
	devices
	mkdir -p /run/netns /run/procfs
	# A user namespace may mount a procfs only where there is one that nothing covers (mount_namespaces(7)).
	mount -t proc proc /run/procfs
	before=$(parameters /run/procfs/sys)
	# Parents first: a bind of a parent that came later would cover its child's.
	while read -r d; do [ -z "$d" ] || mount --bind "$d" "$d"; done < <(printf '%s\n' "${write[@]}" | sort -u)
	for p in sys sysrq-trigger irq bus; do [ ! -e "/proc/$p" ] || mount --bind "/proc/$p" "/proc/$p"; done
	mount --bind /proc/sys/net /proc/sys/net # the network namespace's
	setattr / 1 0 recursive
	for d in /tmp /var/tmp /run /run/procfs /proc /proc/sys/net /dev /dev/pts /dev/shm /dev/mqueue "${write[@]}"; do setattr "$d" 0 1; done
	while read -r d; do setattr "$d" 0 1; done < <(awk '{for (i = 7; $i != "-"; i++); if ($(i + 1) ~ /^cgroup2?$/) print $5}' /proc/self/mountinfo)
	if ! [ "$(find / -maxdepth 0 -writable)" = "" ] || mkdir "/.berth-jail-$$" 2>/dev/null; then
		rmdir "/.berth-jail-$$" 2>/dev/null
		die "/ is not read-only"
	fi
	export BERTH_JAIL=1
	unset TMPDIR
}

# same: the parameters are what they were.
same() {
	local after name
	after=$(parameters /run/procfs/sys)
	[ "$before" != "$after" ] || return 0
	say "parameters of the machine changed, and are set back:"
	diff <(echo "$before") <(echo "$after") >&2
	while IFS=: read -r name value; do
		[ "$(cat "/run/procfs/sys/$name")" = "$value" ] || echo "$value" >"/run/procfs/sys/$name"
	done <<<"$before"
	return 1
}

[ -z "$jail" ] || seal "$1"
mount -t tmpfs -o mode=755 netns /run/netns
mount -t tmpfs -o mode=755 cni /var/lib/cni
mount --make-rshared /
ip link set lo up
# This shell is PID 1 of the namespace and reaps what is orphaned in it, so it must not exec.
rc=0
"$@" || rc=$?
[ -z "$jail" ] || same || rc=1
exit $rc
