#!/usr/bin/env bash
# Has Debian's podman run containers with berth-oci as its OCI runtime, and ends with "N passed, N failed, N skipped".
#
#   hack/podman.sh [--install] [--runtime PATH] [--out DIR]
#
# podman keeps everything below a directory of this run; its image comes from our own registry on loopback. --runtime
# takes another runtime: what fails with runc as well is not berth-oci's fault. Where podman is not installed all of it is
# skipped, and says so; --install installs it.
set -euo pipefail
. "$(dirname "$0")/env.sh"
. "$ROOT/hack/daemon.sh"
runtime=$ROOT/bin/berth-oci out=$CACHE/podman
while [ $# -gt 0 ]; do
	case $1 in
	--install) install=1 ;;
	--runtime) runtime=$(realpath "$2"); shift ;;
	--out) out=$2; shift ;;
	--inside) inside=1 ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done

# totals PASSED FAILED SKIPPED prints the last line and hands it on.
totals() {
	echo "$1 passed, $2 failed, $3 skipped"
	[ -z "${TOTALS:-}" ] || echo "$1 $2 $3" >>"$TOTALS"
	[ "$2" = 0 ]
}

if [ -z "${inside:-}" ]; then
	need_root
	[ -z "${install:-}" ] || need podman:podman:"runs containers with berth-oci, as a test"
	if ! command -v podman >/dev/null; then
		echo "SKIP podman: not installed (hack/podman.sh --install)"
		totals 0 0 1
		exit
	fi
	"$ROOT/hack/images.sh"
	make -s -C "$ROOT" build
	mkdir -p "$out"
	exec "$ROOT/hack/testns.sh" --read-only --write "$out" ${TOTALS:+--write "$(dirname "$TOTALS")"} "$0" --inside --runtime "$runtime" --out "$out"
fi

mkdir -p "$out"
work_up
trap 'left_over; cp "$WORK"/*.log "$out/" 2>/dev/null; work_down' EXIT
registry_up
cd "$WORK" # conmon 2.1.6 writes a file "oom" to where it is
mkdir -p "$WORK"/{storage,run,tmp,home,volume}
# The machine's own configuration does not count. Locks in files: the default is one segment in /dev/shm for all podmans.
cat >"$WORK/containers.conf" <<-END
	[containers]
	default_ulimits = []
	log_driver = "k8s-file"
	[engine]
	lock_type = "file"
	events_logger = "file"
	cgroup_manager = "cgroupfs"
	static_dir = "$WORK/storage/libpod"
	volume_path = "$WORK/storage/volumes"
	[network]
	network_config_dir = "$WORK/networks"
END
echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$WORK/policy.json"
printf '[storage]\ndriver = "overlay"\nrunroot = "%s"\ngraphroot = "%s"\n' "$WORK/run" "$WORK/storage" >"$WORK/storage.conf"
export CONTAINERS_CONF=$WORK/containers.conf CONTAINERS_STORAGE_CONF=$WORK/storage.conf HOME=$WORK/home XDG_RUNTIME_DIR=$WORK/run
parent=berth-podman-$$

# p ARG...: podman, with a bound on how long it may take.
p() {
	timeout 120 podman --root "$WORK/storage" --runroot "$WORK/run" --tmpdir "$WORK/tmp" --cgroup-manager cgroupfs \
		--runtime "$runtime" --storage-driver overlay "$@"
}
run() { p run --network none --cgroup-parent "/$parent" "$@"; }
state() { p inspect --format "{{.State.$2}}" "$1"; }
export WORK runtime parent
export -f p run state

# left_over removes containers and cgroups. conmon leaves its cgroup a moment after its container is gone.
left_over() {
	local i
	p rm -fa -t 0 >/dev/null 2>&1 || true
	for ((i = 0; i < 300; i++)); do
		find /sys/fs/cgroup -depth -type d \( -path "*/$parent*" -o -name libpod_parent \) -exec rmdir {} \; 2>/dev/null || true
		[ -n "$(find /sys/fs/cgroup -type d -path "*/$parent*" -print -quit 2>/dev/null)" ] || return 0
		sleep 0.1
	done
	say "cgroups are left: $parent"
}

passed=0 failed=0
# check NAME WANTED COMMAND...: what the command prints, its status after it unless that is 0, must be WANTED.
check() {
	local name=$1 wanted=$2 got rc=0; shift 2
	got=$("$@" 2>>"$WORK/podman.log") || rc=$?
	[ $rc = 0 ] || got="${got:+$got }status $rc"
	if [ "$got" = "$wanted" ]; then
		passed=$((passed + 1))
		echo "PASS $name"
	else
		failed=$((failed + 1))
		echo "FAIL $name: got '$got', want '$wanted'"
		tail -n 3 "$WORK/podman.log" >&2
	fi
}

image=$REGISTRY/library/busybox:1.35
check "pull" "$image" bash -c "p pull -q --tls-verify=false --signature-policy $WORK/policy.json docker://$image >/dev/null && echo $image"

check "run" "hello" run --rm "$image" echo hello
check "exit code" "status 7" run --rm "$image" sh -c 'exit 7'
# 127 where create refuses it, 126 where start does: podman does not hear why start did not work.
check "no such program" "refused" bash -c "run --rm $image /none; case \$? in 126 | 127) echo refused ;; esac"
check "not executable" "status 126" run --rm "$image" /etc
check "standard input" "fed" bash -c "echo fed | run -i --rm $image cat"
check "terminal" "yes" bash -c "run -t --rm $image sh -c 'test -t 0 && echo yes' | tr -d '\r'"
check "user, directory, environment" "1000:100 /tmp x" run --rm -u 1000:100 -w /tmp -e A=x "$image" sh -c 'echo $(id -u):$(id -g) $PWD $A'
check "host network" "$(readlink /proc/self/ns/net)" p run --rm --network host --cgroup-parent "/$parent" "$image" readlink /proc/self/ns/net
check "read-only root" "status 1" run --rm --read-only --read-only-tmpfs=false "$image" touch /x
check "volume" "kept" bash -c "echo kept >$WORK/volume/f; run --rm -v $WORK/volume:/v:ro $image cat /v/f"
check "capabilities dropped" "CapEff: 0000000000000000" run --rm --cap-drop all "$image" sh -c "grep CapEff /proc/self/status | tr '\t' ' '"
check "privileged" "Seccomp: 0" run --rm --security-opt seccomp=unconfined "$image" sh -c "grep '^Seccomp:' /proc/self/status | tr '\t' ' '"
check "seccomp" "Seccomp: 2" run --rm "$image" sh -c "grep '^Seccomp:' /proc/self/status | tr '\t' ' '"
check "user namespace" "0 100000 1000" run --rm --uidmap 0:100000:1000 --gidmap 0:100000:1000 "$image" sh -c 'echo $(cat /proc/self/uid_map)'
check "out of memory" "status 137" run --rm --memory 16m --memory-swap 16m "$image" sh -c 'x=x; while :; do x=$x$x; done'

check "run detached" "" bash -c "run -d --name c --memory 64m --pids-limit 50 $image sh -c 'trap \"echo usr1\" USR1; trap \"exit 3\" TERM; echo up; while :; do sleep 0.1; done' >/dev/null"
for ((i = 0; i < 300; i++)); do [ "$(p logs c 2>/dev/null)" = up ] && break; sleep 0.1; done
check "logs" "up" p logs c
check "status running" "running" state c Status
check "runtime in use" "$runtime" p inspect --format '{{.OCIRuntime}}' c
check "pid" "yes" sh -c "test -d /proc/$(state c Pid) && echo yes"
id=$(p inspect --format '{{.Id}}' c)
check "memory limit" "67108864" bash -c "cat /sys/fs/cgroup/memory/$parent/libpod-$id/memory.limit_in_bytes /sys/fs/cgroup/$parent/libpod-$id/memory.max 2>/dev/null; true"
check "exec" "in it" p exec c echo in it
check "exec: exit code" "status 9" p exec c sh -c 'exit 9'
check "exec: no such program" "status 127" p exec c /none
check "exec: user, directory, environment" "1000 /tmp y" p exec -u 1000 -w /tmp -e B=y c sh -c 'echo $(id -u) $PWD $B'
check "exec: terminal" "yes" bash -c "p exec -t c sh -c 'test -t 0 && echo yes' | tr -d '\r'"
check "exec detached" "" bash -c "p exec -d c touch /made >/dev/null"
for ((i = 0; i < 100; i++)); do p exec c test -e /made 2>/dev/null && break; sleep 0.1; done
check "exec detached: done" "" p exec c test -e /made
check "copy into" "kept" bash -c "p cp $WORK/volume/f c:/copied && p exec c cat /copied"
check "top" "PID" bash -c "p top c pid | head -1"
check "pause" "paused" bash -c "p pause c >/dev/null && state c Status"
check "exec in a paused one" "status 255" p exec c true
check "unpause" "running" bash -c "p unpause c >/dev/null && state c Status"
p kill -s USR1 c >/dev/null || true
for ((i = 0; i < 100; i++)); do p logs c 2>/dev/null | grep -q usr1 && break; sleep 0.1; done
check "kill by name" "usr1" bash -c "p logs c | tail -1"
check "stop" "exited 3" bash -c "p stop -t 30 c >/dev/null && echo \$(state c Status) \$(state c ExitCode)"
check "start again" "running" bash -c "p start c >/dev/null && state c Status"
check "restart" "running" bash -c "p restart -t 5 c >/dev/null && state c Status"
check "kill" "137" bash -c "p kill c >/dev/null; p wait c"
check "remove" "" bash -c "p rm c >/dev/null"
check "remove by force" "" bash -c "run -d --name d $image sleep 1000 >/dev/null && p rm -f -t 0 d >/dev/null"
check "nothing is listed" "" p ps -aq
check "no cgroup is left" "" find /sys/fs/cgroup -type d -path "*/$parent/*" -not -path '*/conmon*'
totals "$passed" "$failed" 0
