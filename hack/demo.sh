#!/usr/bin/env bash
# Shows a pod run on Berth, from an empty machine to an empty machine, and what happens when the daemon is killed.
#
#   make demo              everything is removed at the end
#   make demo KEEP=1       leaves daemon and pod running and says how to use them
#
# The daemon's directories are on a tmpfs of their own; the pod's network is Berth's built-in one. It is run in the
# machine's own namespaces, so that links, rules and the host port can be looked at from outside.
set -euo pipefail
. "$(dirname "$0")/env.sh"
. "$ROOT/hack/daemon.sh"
need_root
HOSTPORT=${HOSTPORT:-18080}
FORWARD=${FORWARD:-18081}
bold='' dim='' plain=''
if [ -t 1 ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') plain=$(printf '\033[0m'); fi

# step TITLE: ends the step before with its time, and begins the next.
began=0
now() { date +%s%3N; }
step() {
	finish
	printf '\n%s%s%s\n' "$bold" "$1" "$plain"
	began=$(now)
}
finish() {
	[ "$began" = 0 ] || printf '%s   %d ms%s\n' "$dim" $(($(now) - began)) "$plain"
	began=0
}

# show COMMAND...: prints it as a person would type it, runs it, indents its output.
show() {
	local word line=
	for word; do
		[[ $word != *[\ \;]* ]] || word="'$word'"
		line+=" $word"
	done
	line=${line//${CRICTL[*]}/crictl}
	line=${line//$WORK\//}
	printf '   $%s\n' "$line" | sed -E 's/([0-9a-f]{13})[0-9a-f]{51}/\1/g'
	"$@" 2>&1 | sed -e 's/\x1b\[[0-9;]*[A-Za-z]//g' -e 's/ *$//' -e '/^$/d' -e 's/^/     /'
}

down() {
	local rc=$?
	[ -z "${FORWARD_PID:-}" ] || kill "$FORWARD_PID" 2>/dev/null || true
	if [ "$rc" != 0 ] && [ -e "${WORK:-}/daemon.log" ]; then
		say "the demo stopped early; the daemon said last:"
		tail -n 20 "$WORK/daemon.log" >&2
	fi
	# A daemon that was just killed is needed once more, to take its pods away.
	if [ -n "${POD:-}" ] && [ -n "${WORK:-}" ]; then
		[ -n "${DAEMON_PID:-}" ] || berth_up
		sleep 1
		pods_down
	fi
	work_down
	exit "$rc"
}

step "Build what is needed: Berth, crictl, test images from Debian packages"
"$ROOT/hack/tools.sh" client packages
"$ROOT/hack/images.sh"
make -s -C "$ROOT" build
(cd "$ROOT/bin" && ls -l berth*) | awk '{printf "     bin/%-15s %5.1f MB\n", $NF, $5 / 1e6}'

before=$(mktemp)
leaks save "$before"
trap down EXIT
work_up

step "Start a registry of our own and the daemon, with the built-in network"
registry_up
echo "     images on http://$REGISTRY"
daemon_up berth
cat >"$WORK/crictl.yaml" <<-EOF
	runtime-endpoint: $ENDPOINT
	image-endpoint: $ENDPOINT
	timeout: 30
EOF
CRICTL=(crictl --config "$WORK/crictl.yaml")
show "${CRICTL[@]}" version

step "Pull nginx and busybox"
show "${CRICTL[@]}" pull docker.io/library/nginx:latest
show "${CRICTL[@]}" pull docker.io/library/busybox:latest
show "${CRICTL[@]}" images

step "Run a pod of two containers: a web server, and a client that asks it over localhost every second"
mkdir -p "$WORK/logs"
cat >"$WORK/pod.json" <<-EOF
	{"metadata": {"name": "demo", "namespace": "default", "uid": "demo-1"}, "hostname": "demo", "log_directory": "$WORK/logs",
	 "port_mappings": [{"protocol": 0, "container_port": 80, "host_port": $HOSTPORT}],
	 "linux": {"cgroup_parent": "/berth-demo"}}
EOF
labels='"labels": {"io.kubernetes.pod.name": "demo", "io.kubernetes.pod.namespace": "default"}' # crictl ps shows them
cat >"$WORK/web.json" <<-EOF
	{"metadata": {"name": "web"}, "image": {"image": "docker.io/library/nginx:latest"}, "log_path": "web.log", $labels,
	 "linux": {"resources": {"memory_limit_in_bytes": 134217728, "cpu_shares": 512}}}
EOF
cat >"$WORK/client.json" <<-EOF
	{"metadata": {"name": "client"}, "image": {"image": "docker.io/library/busybox:latest"}, "log_path": "client.log", $labels,
	 "command": ["sh", "-c", "while true; do wget -q -O - http://localhost/ | grep -o 'Welcome to nginx!' | head -1 | sed \"s/^/\$(date +%T) /\"; sleep 1; done"],
	 "linux": {}}
EOF
POD=$("${CRICTL[@]}" runp "$WORK/pod.json")
WEB=$("${CRICTL[@]}" create "$POD" "$WORK/web.json" "$WORK/pod.json")
CLIENT=$("${CRICTL[@]}" create "$POD" "$WORK/client.json" "$WORK/pod.json")
"${CRICTL[@]}" start "$WEB" "$CLIENT" >/dev/null
show "${CRICTL[@]}" pods
show "${CRICTL[@]}" ps
wait_for "nginx" curl -sf "http://127.0.0.1:$HOSTPORT/"
sleep 1.2

step "Look in"
show "${CRICTL[@]}" logs "$CLIENT"
show "${CRICTL[@]}" logs --tail 1 "$WEB"
show "${CRICTL[@]}" exec "$WEB" sh -c 'hostname; id; ip -o -4 address show eth0'
show "${CRICTL[@]}" exec --sync "$CLIENT" wget -q -O - http://localhost/
show "${CRICTL[@]}" stats

step "Reach it from outside: the host port, and a port-forward"
title() { curl -sf "$1" | grep -o '<title>.*</title>'; }
printf '   $ curl http://127.0.0.1:%s/\n     %s\n' "$HOSTPORT" "$(title "http://127.0.0.1:$HOSTPORT/")"
"${CRICTL[@]}" port-forward "$POD" "$FORWARD:80" >"$WORK/forward.log" 2>&1 &
FORWARD_PID=$!
wait_for "the port-forward" curl -sf "http://127.0.0.1:$FORWARD/"
printf '   $ crictl port-forward %.13s %s:80 &\n   $ curl http://127.0.0.1:%s/\n     %s\n' "$POD" "$FORWARD" "$FORWARD" "$(title "http://127.0.0.1:$FORWARD/")"
kill "$FORWARD_PID"; wait "$FORWARD_PID" 2>/dev/null || true; FORWARD_PID=

step "Kill the daemon with SIGKILL: the pod goes on"
daemon_kill KILL
lines() { wc -l <"$WORK/logs/client.log"; }
a=$(lines); sleep 2.2; b=$(lines)
printf '     the client has logged %d lines, 2 s later %d\n' "$a" "$b"
[ "$b" -gt "$a" ] || die "the log does not grow without the daemon"
printf '   $ curl http://127.0.0.1:%s/\n     %s\n' "$HOSTPORT" "$(title "http://127.0.0.1:$HOSTPORT/")"

step "Start it again: it knows everything"
daemon_up berth
CRICTL=(crictl --config "$WORK/crictl.yaml")
show "${CRICTL[@]}" ps
show "${CRICTL[@]}" exec "$WEB" echo "still the same container"

if [ -n "${KEEP:-}" ]; then
	finish
	trap - EXIT
	disown -a
	cat <<-EOF

		Left running. Use it with
		    export CRI_CONFIG_FILE=$WORK/crictl.yaml PATH=$CACHE/bin:\$PATH
		    crictl pods; crictl exec -it $(printf %.13s "$WEB") sh; curl http://127.0.0.1:$HOSTPORT/
		and when you have seen enough
		    crictl rmp -fa; kill $DAEMON_PID $REGISTRY_PID; sleep 1; umount $WORK; rmdir $WORK
	EOF
	exit 0
fi

step "Stop and remove everything"
show "${CRICTL[@]}" stopp "$POD"
show "${CRICTL[@]}" rmp "$POD"
POD=
show "${CRICTL[@]}" rmi --all
daemon_kill TERM
work_down
find /sys/fs/cgroup -maxdepth 2 -type d -name berth-demo -exec rmdir {} + 2>/dev/null || true # kubelet's part: the parent is its

step "What is left: processes, mounts, network namespaces, cgroups, links, nftables rules"
if leaks compare "$before" | sed 's/^/     /'; [ "${PIPESTATUS[0]}" = 0 ]; then
	echo "     nothing"
else
	die "something was left behind"
fi
rm -f "$before"
finish
