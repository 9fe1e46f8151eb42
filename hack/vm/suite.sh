#!/usr/bin/env bash
# Runs in a virtual node: one suite, its output below /results/NAME, and one line "PASSED FAILED SKIPPED" in
# /results/NAME/totals.
#
#   suite.sh critest cgroupfs|systemd [critest.sh arguments]       --all for more than [Conformance]
#   suite.sh e2e cgroupfs|systemd [go test flags]
#   suite.sh conform [go test flags]        test/conform with the systemd driver; with the other it is among the packages
#   suite.sh packages [PACKAGE]... [-- go test flags]   the packages' own tests; default: all that came along, but e2e
#   suite.sh deb FIRST.deb SECOND.deb       installation, restarts, upgrade and removal with a pod running
set -uo pipefail
suite=$1; shift
export BERTH_CACHE=/payload/cache BERTH_CNI_BIN=/payload/cache/cni BERTH_CNI_BIN_DIR=/payload/cache/cni
export TMPDIR=/var/tmp BERTH_TEST_FS=disk BERTH_PATIENCE=5m
export PATH=/payload/bin:$PATH
results=/results/$suite
src=/payload/src

begin() { # NAME
	results=/results/$1
	rm -rf "$results"
	mkdir -p "$results"
	export TOTALS=$results/totals
}

# gotest PACKAGE [FLAG]...: one compiled test binary, in its directory, as "go test -json" would.
gotest() {
	local p=$1; shift
	local log=$results/${p//\//-}
	(cd "$src/$p" 2>/dev/null || cd "$src" && "/payload/tests/$p.test" -test.v=test2json -test.timeout 30m "$@" 2>&1) |
		test2json -t -p "$p" >"$log.json"
	testsum -name "$p" -totals "$TOTALS" <"$log.json"
}

# swap_on: without swap nothing shows whether a container may use it.
swap_on() {
	[ "$(wc -l </proc/swaps)" -le 1 ] || return 0
	dd if=/dev/zero of=/var/swap bs=1M count=256 status=none && chmod 600 /var/swap && mkswap /var/swap >/dev/null && swapon /var/swap
}

case $suite in
critest)
	driver=$1; shift
	begin "critest-$driver"
	CGROUP_DRIVER=$driver BERTH_IN_TESTNS=1 "$src/hack/critest.sh" --inside --out "$results" "$@"
	;;
e2e)
	driver=$1; shift
	begin "e2e-$driver"
	swap_on
	export BERTH_E2E_CGROUP_DRIVER=$driver
	# systemd must see the daemon's process ids.
	[ "$driver" = cgroupfs ] || export BERTH_IN_TESTNS=1
	rc=0
	gotest test/e2e/core "$@" || rc=1
	gotest test/e2e/contract "$@" || rc=1
	exit $rc
	;;
conform)
	begin conform-systemd
	# Not in the jail of test/jail, whose process ids systemd does not know: the node is thrown away. This is what the
	# jail's script would hand on.
	exec 9</payload/built/test/conform/testdata/probe
	BERTH_JAIL_FILES="probe=9" DRIVER=systemd gotest test/conform "$@"
	;;
packages)
	begin packages
	rc=0
	list=()
	while [ $# -gt 0 ] && [ "$1" != -- ]; do list+=("$1"); shift; done
	[ $# = 0 ] || shift
	[ ${#list[@]} -gt 0 ] || list=($(cd /payload/tests && find . -name '*.test' ! -path './test/e2e/*' | sed 's#^\./##; s#\.test$##' | sort))
	for p in "${list[@]}"; do gotest "$p" "$@" || rc=1; done
	exit $rc
	;;
deb)
	begin deb
	exec "$src/hack/vm/deb-test.sh" "$@"
	;;
*) echo "suite.sh: unknown suite $suite" >&2; exit 2 ;;
esac
