#!/usr/bin/env bash
# A virtual node: Debian with systemd, cgroup v2 and AppArmor under QEMU, for what this host does not have.
#
#   hack/vm.sh run [OPTION]... -- COMMAND [ARG]...   boots a node, runs the command in it, ends it; exits with its code
#   hack/vm.sh shell [OPTION]...                     boots a node and gives a shell in it
#   hack/vm.sh up|exec|put|get|down ...              the same in steps: see below
#   hack/vm.sh image                                 makes the images, without booting
#   hack/vm.sh test [--suite SUITE]...               everything that is tested in virtual nodes (hack/vm/test.sh)
#   hack/vm.sh ci                                    the part of it that has room in CI
#
# OPTION: --release bookworm (Linux 6.1) | trixie (Linux 6.12, the default); --node DIR, a node that is up already or
# is to stay up; --tap NAME,ADDRESS/BITS,GATEWAY, a tap device of this network namespace in place of QEMU's own
# network; --disk IMAGE=/DIR, another erofs image; --memory MIB; --cpus N.
#
#   hack/vm.sh up --node DIR [OPTION]...             DIR must not exist
#   hack/vm.sh exec --node DIR [-i|-tty] [-C DIR] -- COMMAND [ARG]...
#   hack/vm.sh put --node DIR LOCAL REMOTEDIR;  get --node DIR REMOTE LOCALDIR
#   hack/vm.sh down --node DIR
#
# What is under test is in the node at /payload (hack/vm/payload.sh): our binaries and the test suites in bin, which is
# in PATH, this source tree without its history in src. Nothing that runs in the node reaches this host's network or
# any other. See docs/testing.md.
set -euo pipefail
. "$(dirname "$0")/env.sh"
verb=${1:-}; [ $# = 0 ] || shift
case $verb in test | ci) exec "$ROOT/hack/vm/test.sh" "$verb" "$@" ;; esac # its options are its own
release=trixie node= up=() rest=()
while [ $# -gt 0 ]; do
	case $1 in
	--release) release=$2; shift ;;
	--node) node=$2; shift ;;
	--tap) up+=(-tap "$2"); shift ;;
	--disk) up+=(-disk "$2"); shift ;;
	--memory) up+=(-memory "$2"); shift ;;
	--cpus) up+=(-cpus "$2"); shift ;;
	--) shift; break ;;
	*) rest+=("$1") ;;
	esac
	shift
done
VM=$CACHE/vm

# tools: the host's program and the agent, which are small.
tools() {
	mkdir -p "$VM"
	CGO_ENABLED=0 go build -C "$ROOT" -trimpath -o "$VM/vm" ./hack/vm
	CGO_ENABLED=0 go build -C "$ROOT" -trimpath -ldflags '-s -w' -o "$VM/agent" ./hack/vm/agent
}

# accel: KVM where it can run the kernel, which only trying shows; what was found is kept. VM_ACCEL decides otherwise.
accel() {
	if [ -n "${VM_ACCEL:-}" ]; then echo "$VM_ACCEL"
	elif [ -r /dev/kvm ] && [ ! -e "$VM/no-kvm-$release" ]; then echo kvm
	else echo tcg; fi
}

boot() {
	local image payload qemu args rc=0
	image=$("$ROOT/hack/vm/image.sh" "$release")
	payload=$("$ROOT/hack/vm/payload.sh")
	qemu=$("$ROOT/hack/vm/qemu.sh" | tr '\n' ' ')
	args=(-image "$image" -agent "$VM/agent" -qemu "$qemu" -disk "$payload=/payload" "${up[@]}")
	"$VM/vm" up -dir "$node" -accel "$(accel)" "${args[@]}" >/dev/null || rc=$?
	if [ $rc = 3 ] && [ -z "${VM_ACCEL:-}" ]; then
		touch "$VM/no-kvm-$release"
		say "KVM cannot run this kernel on this host: emulating instead"
		rm -rf "$node"
		rc=0
		"$VM/vm" up -dir "$node" -accel tcg "${args[@]}" >/dev/null || rc=$?
	fi
	[ $rc = 0 ] || die "the node did not come up: see $node"
}

# with_node: a node of our own goes with this script.
with_node() {
	need_root
	tools
	if [ -z "$node" ]; then
		node=$(mktemp -d "${TMPDIR:-/tmp}/vm.XXXXXX")/node
		trap '"$VM/vm" down -dir "$node"; rm -rf "${node%/node}"' EXIT
	fi
	[ -e "$node/addr" ] || boot
}

case $verb in
image) "$ROOT/hack/vm/qemu.sh" >/dev/null; for r in ${rest[*]:-bookworm trixie}; do "$ROOT/hack/vm/image.sh" "$r"; done ;;
run) with_node; "$VM/vm" exec -dir "$node" "${rest[@]}" "$@" ;;
shell) with_node; "$VM/vm" exec -dir "$node" -tty -C /root bash -l ;;
up) [ -n "$node" ] || die "up needs --node DIR"; need_root; tools; boot ;;
exec) "$VM/vm" exec -dir "$node" "${rest[@]}" "$@" ;;
put | get) "$VM/vm" "$verb" -dir "$node" "${rest[@]}" "$@" ;;
down) "$VM/vm" down -dir "$node" ;;
*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; exit 2 ;;
esac
