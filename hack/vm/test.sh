#!/usr/bin/env bash
# What is tested in virtual nodes, from the outside: hack/vm.sh test|ci. One node is up at a time.
#
#   test [--release R]... [--suite S]...   default: both releases, all suites; writes docs/vm-results.md when all ran
#   ci                                     trixie: critest with the systemd driver, the packages whose code is v2's
#
# Results stay in .cache/vm/results/RELEASE/SUITE.
set -euo pipefail
. "$(dirname "$0")/../env.sh"
verb=$1; shift
VM=$CACHE/vm
releases=() suites=()
while [ $# -gt 0 ]; do
	case $1 in
	--release) releases+=("$2"); shift ;;
	--suite) suites+=("$2"); shift ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
all="critest-systemd critest-cgroupfs e2e-systemd e2e-cgroupfs packages deb"
[ ${#releases[@]} -gt 0 ] || releases=(bookworm trixie)
[ ${#suites[@]} -gt 0 ] || suites=($all)
if [ "$verb" = ci ]; then
	releases=(trixie)
	suites=(critest-systemd v2)
fi
vm() { "$ROOT/hack/vm.sh" "$@"; }
rows=$VM/results/rows
mkdir -p "$VM/results"
commit=$(git -C "$ROOT" describe --always --dirty)
failed=0

# suite NAME: the arguments of suite.sh, and the time it may take.
suite() {
	case $1 in
	critest-*) echo 60m critest "${1#critest-}" ;;
	e2e-*) echo 60m e2e "${1#e2e-}" ;;
	packages) echo 60m packages ;;
	v2) echo 15m packages oci/apparmor oci/cgroup oci/cgroup/systemd oci/launch ;;
	deb) echo 20m deb /tmp/deb/first.deb /tmp/deb/second.deb ;;
	*) die "no suite $1" ;;
	esac
}

run_suite() { # RELEASE SUITE
	local release=$1 name=$2 args limit begin=$SECONDS out=$VM/results/$1 dir p f s
	read -ra args < <(suite "$name")
	limit=${args[0]}
	[ "$name" != deb ] || debs
	say "== $release, $name"
	vm exec --node "$node" -timeout "$limit" /payload/src/hack/vm/suite.sh "${args[@]:1}" || failed=1
	dir=$name
	[ "$name" != v2 ] || dir=packages
	rm -rf "$out/$dir"
	vm get --node "$node" "/results/$dir" "$out" || true
	read -r p f s < <(awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}' "$out/$dir/totals" 2>/dev/null || echo 0 1 0)
	# A suite that could not even begin has failed once.
	[ $((p + f + s)) -gt 0 ] || f=1
	echo "$p $f $s" >>"${TOTALS:-/dev/null}"
	local kernel
	kernel=$(vm exec --node "$node" uname -r)
	sed -i "/^| $release .*| $name |/d" "$rows" 2>/dev/null || true
	echo "| $release | $kernel | $name | $p | $f | $s | $((SECONDS - begin)) s | $(date -u +%F) | $commit |" >>"$rows"
}

# debs brings two versions of the package.
debs() {
	local dir=$VM/debs
	rm -rf "$dir"
	mkdir -p "$dir/deb"
	mv "$("$ROOT/hack/deb.sh" 0.0.1 "$dir")" "$dir/deb/first.deb"
	mv "$("$ROOT/hack/deb.sh" 0.0.2 "$dir")" "$dir/deb/second.deb"
	vm put --node "$node" "$dir/deb" /tmp
}

for release in "${releases[@]}"; do
	work=$(mktemp -d "${TMPDIR:-/tmp}/vmtest.XXXXXX")
	node=$work/node
	trap '"$VM/vm" down -dir "$node"; rm -rf "$work"' EXIT
	begin=$SECONDS
	vm up --release "$release" --node "$node"
	say "$release is up after $((SECONDS - begin)) s"
	for name in "${suites[@]}"; do run_suite "$release" "$name"; done
	mkdir -p "$VM/results/$release"
	cp "$node/console.log" "$VM/results/$release/"
	"$VM/vm" down -dir "$node"
	rm -rf "$work"
	trap - EXIT
done

table() {
	echo "| release | kernel | suite | passed | failed | skipped | time | date | commit |"
	echo "|---|---|---|---|---|---|---|---|---|"
	sort "$rows"
}
table
# The page's table lies between two marks.
if [ "$verb" = test ]; then
	page=$ROOT/docs/vm-results.md
	{ sed '/^<!-- results -->$/q' "$page"; echo; table; echo; sed -n '/^<!-- end -->$/,$p' "$page"; } >"$VM/page.md"
	cp "$VM/page.md" "$page"
fi
exit $failed
