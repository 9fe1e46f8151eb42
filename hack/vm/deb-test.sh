#!/usr/bin/env bash
# Runs in a virtual node, called by suite.sh: installs the package, and sees to it that a pod lives through a restart
# of the daemon, its death, an upgrade, removal and reinstallation.
#
#   deb-test.sh FIRST.deb SECOND.deb       two versions of the package
set -uo pipefail
first=$1 second=$2
passed=0 failed=0
trap 'echo "$passed $failed 0" >>"${TOTALS:-/dev/null}"; [ -z "${REGISTRY:-}" ] || kill $REGISTRY; [ "$failed" = 0 ] && exit 0; journalctl -u berth --no-pager | tail -60; exit 1' EXIT

# check WHAT COMMAND...: tries for 60 seconds; what systemd and dpkg start is not there at once.
check() {
	local what=$1 out end=$((SECONDS + 60)); shift
	while :; do
		if out=$("$@" 2>&1); then
			echo "ok: $what"
			passed=$((passed + 1))
			return
		fi
		[ $SECONDS -lt $end ] || break
		sleep 0.5
	done
	echo "FAILED: $what: $out"
	failed=$((failed + 1))
	return 1
}
never() { ! "$@"; }
same() { [ "$1" = "$2" ] || { echo "$1, not $2"; return 1; }; }
echo 'timeout: 60' >/etc/crictl.yaml
crictl() { command crictl --runtime-endpoint unix:///run/berth/berth.sock --image-endpoint unix:///run/berth/berth.sock --timeout 60s "$@"; }
main_pid() { systemctl show -p MainPID --value berth; }

# alive: the container's process is the one it was, does its work, and the daemon knows it.
alive() {
	local before now
	kill -0 "$pid" || return 1
	before=$(wc -l <"$log"); sleep 1; now=$(wc -l <"$log")
	[ "$now" -gt "$before" ] || { echo "log stands at $now lines"; return 1; }
}
known() {
	same "$(crictl inspect -o go-template --template '{{.info.pid}}' "$ctr")" "$pid" &&
		same "$(crictl exec "$ctr" cat /tmp/mark)" here
}

check "installs" dpkg -i "$first" || exit
check "the unit is active" systemctl is-active berth
check "the unit is enabled" systemctl is-enabled berth
check "the configuration is there" test -e /etc/berth/config.toml

images serve --cache /payload/cache/images --addr 127.0.0.1:5000 --dir /etc/berth/certs.d --addr-file /tmp/registry.addr >/dev/null 2>/tmp/registry.log &
REGISTRY=$!
echo 'builtin_network = true' >>/etc/berth/config.toml
check "restarts with another configuration" systemctl restart berth
check "the node is ready" sh -c 'command crictl --runtime-endpoint unix:///run/berth/berth.sock info | grep -q "\"NetworkReady\"" || command crictl --runtime-endpoint unix:///run/berth/berth.sock info'

cat >/tmp/pod.json <<-'JSON'
	{"metadata": {"name": "lasting", "namespace": "default", "uid": "u1", "attempt": 0}, "log_directory": "/var/log/pods/lasting",
	 "linux": {"cgroup_parent": "kubepods-besteffort-podu1.slice"}}
JSON
cat >/tmp/ctr.json <<-'JSON'
	{"metadata": {"name": "main"}, "image": {"image": "registry.k8s.io/e2e-test-images/busybox:1.29-2"}, "log_path": "main.log",
	 "command": ["sh", "-c", "echo here >/tmp/mark; while :; do echo tick; sleep 0.2; done"], "linux": {}}
JSON
check "pulls an image" crictl pull registry.k8s.io/e2e-test-images/busybox:1.29-2 || exit
mkdir -p /var/log/pods/lasting
log=/var/log/pods/lasting/main.log
pod=$(crictl runp /tmp/pod.json) && ctr=$(crictl create "$pod" /tmp/ctr.json /tmp/pod.json) && crictl start "$ctr"
pid=$(crictl inspect -o go-template --template '{{.info.pid}}' "$ctr")
check "a pod runs" alive || exit
check "it is confined" same "$(cat /proc/"$pid"/attr/current)" "berth-default (enforce)"
check "its scope is in the pod's slice" grep -q "kubepods-besteffort-podu1.slice/.*$ctr" /proc/"$pid"/cgroup
check "known" known

check "restart" systemctl restart berth
check "after a restart the container is the same" alive
check "after a restart the container is known" known

daemon=$(main_pid)
kill -KILL "$daemon"
check "systemd starts a killed daemon again" sh -c "p=\$(systemctl show -p MainPID --value berth); [ \$p != 0 ] && [ \$p != $daemon ]"
check "after SIGKILL the container is the same" alive
check "after SIGKILL the container is known" known

daemon=$(main_pid)
check "upgrades" dpkg -i "$second"
check "the new daemon runs" never same "$(main_pid)" "$daemon"
check "its program is the new one" sh -c "! readlink /proc/$(main_pid)/exe | grep deleted"
check "the changed configuration is kept" grep -q '^builtin_network = true' /etc/berth/config.toml
check "after the upgrade the container is the same" alive
check "after the upgrade the container is known" known
sed 's/"name": "main"/"name": "second"/' /tmp/ctr.json >/tmp/second.json
check "the upgraded daemon makes containers in the old pod" crictl create "$pod" /tmp/second.json /tmp/pod.json

check "downgrades" dpkg -i "$first"
check "after the downgrade the container is known" known
check "removes" dpkg -r berth
check "the unit is gone" never systemctl is-active berth
check "no program is left" never test -e /usr/bin/berth
check "after the removal the container is the same" alive
check "purges under a running pod" dpkg -P berth
check "the pod's files are left" test -d "/var/lib/berth/pods/$pod"
check "after the purge the container is the same" alive
check "installs again" dpkg -i "$second"
check "the unit is active again" systemctl is-active berth
check "after the reinstallation the container is the same" alive
check "after the reinstallation the container is known" known

check "the pod can be removed" crictl rmp -f "$pod"
check "its process is gone" never kill -0 "$pid"
check "no monitor is left" never pgrep -x berth-monitor
check "no network namespace is left" sh -c '! ls /run/netns/berth-* 2>/dev/null'
check "no mount is left" sh -c '! grep -E " /(run|var/lib)/berth/" /proc/self/mountinfo'
check "purges" dpkg -P berth
check "nothing is left of it" sh -c '! ls -d /var/lib/berth /etc/berth/config.toml /usr/bin/berth* /usr/lib/systemd/system/berth.service 2>/dev/null'
