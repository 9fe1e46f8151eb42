#!/usr/bin/env bash
# Builds or fetches the runtimes that tests and benchmarks compare with into .cache/peers: containerd with its shim and
# ctr, runc, and crun. They validate the tests: what fails there is the test's fault. criu is what checkpoints need.
#
#   hack/peers.sh [containerd|runc|crun|runsc|crun-1.8|crun-new|criu]...     the first three without arguments
#
# runsc is gVisor's, from its branch for Go modules (its main branch needs Bazel): ten minutes on two cores, so only by request.
# crun-1.8 is Debian 12's, crun-new the newest in Debian, which hack/bench.sh oci compares with.
set -euo pipefail
. "$(dirname "$0")/env.sh"
CONTAINERD=v2.4.2
RUNC=v1.5.2
RUNSC=v0.0.0-20260701204157-69c2d17aea96 # of the branch "go"
SUITE=trixie # Debian 12's crun refuses hybrid cgroups and newer ociVersions
peers=$CACHE/peers
mkdir -p "$peers"

peer_containerd() {
	local key="$CONTAINERD $(go version)" c=github.com/containerd/containerd/v2/cmd
	fresh "$peers/containerd.stamp" "$key" && return
	say "building containerd $CONTAINERD (once)"
	GOBIN=$peers GOFLAGS=-trimpath CGO_ENABLED=0 go install -ldflags '-s -w' \
		$c/containerd@$CONTAINERD $c/containerd-shim-runc-v2@$CONTAINERD $c/ctr@$CONTAINERD
	echo "$key" >"$peers/containerd.stamp"
}

peer_runc() {
	local key="$RUNC $(go version)"
	fresh "$peers/runc.stamp" "$key" && return
	need /usr/include/seccomp.h:libseccomp-dev:"runc is built against libseccomp" pkg-config:pkg-config:"finds libseccomp" gcc:gcc:"runc needs cgo"
	say "building runc $RUNC (once)"
	GOBIN=$peers GOFLAGS=-trimpath CGO_ENABLED=1 go install -tags seccomp -ldflags '-s -w' github.com/opencontainers/runc@$RUNC
	echo "$key" >"$peers/runc.stamp"
}

peer_runsc() {
	local key="$RUNSC $(go version)"
	fresh "$peers/runsc.stamp" "$key" && return
	say "building gVisor's runsc $RUNSC (once)"
	GOBIN=$peers GOFLAGS=-trimpath CGO_ENABLED=0 nice go install -ldflags "-s -w -X gvisor.dev/gvisor/runsc/version.version=$RUNSC" gvisor.dev/gvisor/runsc@$RUNSC
	echo "$key" >"$peers/runsc.stamp"
}

peer_crun() { from_suite crun crun usr/bin/crun; }
peer_crun-new() { SUITE=sid from_suite crun-new crun usr/bin/crun; }

# CRIU of Debian 12 does not start on kernels from 6.15 on.
peer_criu() { from_suite criu criu usr/sbin/criu; }

# from_suite NAME PACKAGE FILE: a program and the libraries it needs out of a newer Debian suite, from the mirror this machine
# uses already, without touching its packages: an apt configuration of its own, packages unpacked into a directory, and a
# copy of the program that names the loader and the libraries there by absolute path (crun executes itself out of a memfd,
# where neither a wrapper nor $ORIGIN would work). Sid's and testing's indexes are valid for a week only, and a mirror may lag
# behind by more; whose they are is checked all the same.
from_suite() {
	local name=$1 package=$2 program=$3 key="$SUITE $peers"
	fresh "$peers/$name.stamp" "$key" && [ -x "$peers/$name" ] && return
	command -v apt-get >/dev/null || die "$name is taken from Debian's packages, and this is no Debian"
	need patchelf:patchelf:"lets a program of another Debian suite use that suite's libraries"
	say "fetching $name of Debian $SUITE (once)"
	local apt; apt=$(mktemp -d)
	mkdir -p "$apt"/{lists/partial,cache/archives/partial,sources,deb,root}
	suite_sources >"$apt/sources/suite.list"
	cat >"$apt/apt.conf" <<-END
		Dir::State::lists "$apt/lists";
		Dir::State::status "/dev/null";
		Dir::Cache "$apt/cache";
		Dir::Etc::sourcelist "/dev/null";
		Dir::Etc::sourceparts "$apt/sources";
		APT::Sandbox::User "root";
		Acquire::Check-Valid-Until "false";
	END
	if ! (
		set -e
		export APT_CONFIG=$apt/apt.conf
		apt-get update -qq
		cd "$apt/deb"
		# What it pulls in on a machine that has nothing: names are what is before the first underscore of a file name.
		apt-get download -qq $(apt-get install -qq -y --print-uris --no-install-recommends "$package" | awk '{ sub(/_.*/, "", $2); print $2 }')
		for deb in *.deb; do dpkg -x "$deb" "$apt/root"; done
	) >"$apt/log" 2>&1; then
		cat "$apt/log" >&2
		rm -rf "$apt"
		die "$name of Debian $SUITE could not be fetched"
	fi
	rm -rf "$peers/$name.d"
	mkdir "$peers/$name.d"
	find "$apt/root" -path '*/gconv/*' -prune -o ! -type d \( -name '*.so' -o -name '*.so.*' \) -exec cp -L {} "$peers/$name.d/" \;
	cp "$apt/root/$program" "$peers/$name.tmp"
	# one at a time: both at once spoil the program where the paths are long (patchelf 0.14)
	patchelf --set-interpreter "$(ls "$peers/$name.d"/ld-linux*.so.*)" "$peers/$name.tmp"
	patchelf --force-rpath --set-rpath "$peers/$name.d" "$peers/$name.tmp"
	rm -rf "$apt"
	"$peers/$name.tmp" --version >/dev/null || die "$name of Debian $SUITE does not run here"
	mv "$peers/$name.tmp" "$peers/$name"
	echo "$key" >"$peers/$name.stamp"
}

# The crun of Debian 12, which refuses a host that has controllers on a cgroup2 beside those of cgroup v1: in a mount
# namespace of each command that hierarchy says it has none. The hierarchy itself stays, for crun makes its group there.
peer_crun-1.8() {
	need /usr/bin/crun:crun:"another OCI runtime to compare with"
	rm -f "$peers/crun-1.8"
	cat >"$peers/crun-1.8" <<-'END'
		#!/bin/sh
		f=/sys/fs/cgroup/unified/cgroup.controllers
		if [ -n "$(cat $f 2>/dev/null)" ]; then
			exec unshare --mount --propagation slave sh -c "mount --bind /dev/null $f"' && exec /usr/bin/crun "$@"' crun "$@"
		fi
		exec /usr/bin/crun "$@"
	END
	chmod +x "$peers/crun-1.8"
}

# suite_sources writes the machine's Debian source for another suite, in apt's one-line form.
suite_sources() {
	local found
	found=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk -v suite="$SUITE" '
		function done() { if (uri != "" && key != "" && base) print "deb [signed-by=" key "] " uri " " suite " main"; uri = key = ""; base = 0 }
		/^$/ { done() }
		/^URIs:/ { done(); uri = $2 }
		/^Suites:/ { for (i = 2; i <= NF; i++) if ($i !~ /-/) base = 1 }
		/^Signed-By:/ { key = $2 }
		END { done() }' | grep debian-archive || true)
	[ -n "$found" ] || found=$(sed -n "s/^deb \(\[[^]]*\] \)\?\([^ ]*debian[^ ]*\) [a-z]* .*/deb \1\2 $SUITE main/p" /etc/apt/sources.list 2>/dev/null | head -1)
	[ -n "$found" ] || die "no Debian mirror is configured here"
	head -1 <<<"$found"
}

[ $# -gt 0 ] || set -- containerd runc crun
for peer; do peer_"$peer"; done
