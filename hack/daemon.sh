# Sourced: a registry and a daemon for tests and the demo, all below one directory on a tmpfs (BERTH_TEST_FS=disk: not).
#
#   work_up                 makes $WORK and mounts a tmpfs there
#   registry_up             serves the test images; mirrors in $WORK/certs.d
#   daemon_up NAME          NAME is berth or containerd; waits until $ENDPOINT answers; NETWORK=builtin|reference,
#                           CGROUP_DRIVER=auto|cgroupfs|systemd;
#                           OCI is the OCI runtime that containerd calls, runc unless set;
#                           HANDLERS="runc crun" are runtime handlers of berth, from .cache/peers
#   daemon_kill SIGNAL      signals it and waits for its end
#   work_down               ends daemon and registry, unmounts, removes

work_up() {
	need_root
	WORK=$(mktemp -d "${TMPDIR:-/tmp}/berth.XXXXXX")
	chmod 755 "$WORK"
	# Fast; but before Linux 6.3 a tmpfs can't be mounted id-mapped: no pods with user namespaces.
	[ "${BERTH_TEST_FS:-}" = disk ] || mount -t tmpfs -o mode=755 berth "$WORK"
	mkdir -p "$WORK"/{certs.d,cni,root,state}
	CRICTL=(crictl)
}

registry_up() {
	images serve --addr 127.0.0.1:0 --dir "$WORK/certs.d" --addr-file "$WORK/registry" >/dev/null 2>"$WORK/registry.log" &
	REGISTRY_PID=$!
	wait_for "the registry" test -e "$WORK/registry"
	REGISTRY=$(cat "$WORK/registry")
}

# wait_for WHAT COMMAND...: up to 30 seconds.
wait_for() {
	local what=$1 i; shift
	for ((i = 0; i < 600; i++)); do
		"$@" >/dev/null 2>&1 && return
		[ -z "${DAEMON_PID:-}" ] || kill -0 "$DAEMON_PID" 2>/dev/null || break
		sleep 0.05
	done
	[ -e "$WORK/daemon.log" ] && tail -n 30 "$WORK/daemon.log" >&2
	die "$what did not come up"
}

# reference_network writes a conflist of the CNI project's plugins.
reference_network() {
	cat >"$WORK/cni/10-reference.conflist" <<-EOF
		{
		  "cniVersion": "1.0.0",
		  "name": "reference",
		  "plugins": [
		    {"type": "bridge", "bridge": "berth-ref0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
		     "ipam": {"type": "host-local", "dataDir": "$WORK/ipam", "ranges": [[{"subnet": "10.245.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		    {"type": "portmap", "capabilities": {"portMappings": true}},
		    {"type": "bandwidth", "capabilities": {"bandwidth": true}}
		  ]
		}
	EOF
}

daemon_up() {
	DAEMON=$1
	case $DAEMON in
	berth) berth_up ;;
	containerd) containerd_up ;;
	*) die "unknown daemon $DAEMON" ;;
	esac
	CRICTL=(crictl --runtime-endpoint "$ENDPOINT" --image-endpoint "$ENDPOINT" --timeout 30s)
	wait_for "$DAEMON" "${CRICTL[@]}" version
}

berth_up() {
	local net=() h
	ENDPOINT=unix://$WORK/state/berth.sock
	if [ "${NETWORK:-builtin}" = builtin ]; then net=(--builtin-network); else reference_network; fi
	: >"$WORK/config.toml" # the machine's own does not count
	for h in ${HANDLERS:-}; do
		printf '[handlers.%s]\npath = "%s"\n' "$h" "$CACHE/peers/$h" >>"$WORK/config.toml"
		# As docs/handlers.md says.
		[ "$h" != runsc ] || printf 'args = ["--platform=systrap", "--network=host", "--oci-seccomp", "--allow-suid"]\n' >>"$WORK/config.toml"
	done
	case " ${HANDLERS:-} " in *" crun "*) no_unified_controllers ;; esac
	"$ROOT/bin/berth" serve --config "$WORK/config.toml" --root "$WORK/root" --state "$WORK/state" --listen "$ENDPOINT" \
		--cni-conf-dir "$WORK/cni" --cni-bin-dir "$CACHE/cni" --registry-config "$WORK/certs.d" "${net[@]}" \
		--cgroup-driver "${CGROUP_DRIVER:-auto}" \
		>>"$WORK/daemon.log" 2>&1 &
	DAEMON_PID=$!
}

# crun refuses hybrid cgroups whose cgroup2 hierarchy has controllers ("drop all controllers from cgroupv2"). In the mount
# namespace of a test, and only there, that hierarchy says it has none.
no_unified_controllers() {
	local f=/sys/fs/cgroup/unified/cgroup.controllers
	[ -n "${BERTH_IN_TESTNS:-}" ] || die "crun needs hack/testns.sh"
	[ ! -s "$f" ] && [ -z "$(cat "$f" 2>/dev/null)" ] || mount --bind /dev/null "$f"
}

containerd_up() {
	reference_network
	ENDPOINT=unix://$WORK/state/containerd.sock
	cat >"$WORK/containerd.toml" <<-EOF
		version = 3
		root = "$WORK/root"
		state = "$WORK/state"
		[grpc]
		  address = "$WORK/state/containerd.sock"
		[ttrpc]
		  address = "$WORK/state/containerd.ttrpc"
		[plugins."io.containerd.cri.v1.images".registry]
		  config_path = "$WORK/certs.d"
		[plugins."io.containerd.cri.v1.images".pinned_images]
		  sandbox = "registry.k8s.io/pause:3.9"
		[plugins."io.containerd.cri.v1.runtime"]
		  restrict_oom_score_adj = true
		[plugins."io.containerd.cri.v1.runtime".cni]
		  bin_dirs = ["$CACHE/cni"]
		  conf_dir = "$WORK/cni"
		[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
		  BinaryName = "${OCI:-$CACHE/peers/runc}"
	EOF
	PATH=$CACHE/peers:$PATH containerd --config "$WORK/containerd.toml" >>"$WORK/daemon.log" 2>&1 &
	DAEMON_PID=$!
}

daemon_kill() {
	[ -n "${DAEMON_PID:-}" ] || return 0
	kill "-$1" "$DAEMON_PID" 2>/dev/null || true
	wait "$DAEMON_PID" 2>/dev/null || true
	DAEMON_PID=
}

# pods_down asks the daemon to stop and remove everything it has.
pods_down() {
	local ids
	ids=$("${CRICTL[@]}" pods -q 2>/dev/null) || return 0
	[ -z "$ids" ] || "${CRICTL[@]}" rmp -f $ids >/dev/null 2>&1 || true
}

work_down() {
	[ -n "${WORK:-}" ] || return 0
	daemon_kill TERM
	[ -z "${REGISTRY_PID:-}" ] || { kill "$REGISTRY_PID" 2>/dev/null; wait "$REGISTRY_PID" 2>/dev/null; } || true
	if [ "${BERTH_TEST_FS:-}" = disk ]; then
		rm -rf --one-file-system "$WORK"
	else
		umount -R "$WORK" 2>/dev/null || umount -R -l "$WORK" || true
		rmdir "$WORK" 2>/dev/null || true
	fi
	WORK=
}
