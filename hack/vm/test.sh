#!/usr/bin/env bash
# What is tested in virtual nodes, from the outside: hack/vm.sh test|ci. One node is up at a time.
#
#   test [--release R]... [--suite S]... [--node DIR]
#                                          default: both releases, all suites. Writes docs/vm-results.md, whose rows of other
#                                          suites stay. --node: a node of that release that is up, and stays so; what is
#                                          tested is what was brought into it
#   ci                                     trixie: the packages whose code is v2's and systemd's, and critest's
#                                          [Conformance] specs, with the systemd driver. What a node is made of may not be
#                                          had: that is one skipped, and says why
#
# Results stay in .cache/vm/results/RELEASE/SUITE.
set -euo pipefail
. "$(dirname "$0")/../env.sh"
verb=$1; shift
VM=$CACHE/vm
releases=() suites=() given=
while [ $# -gt 0 ]; do
	case $1 in
	--release) releases+=("$2"); shift ;;
	--suite) suites+=("$2"); shift ;;
	--node) given=$2; shift ;;
	*) die "unknown argument $1" ;;
	esac
	shift
done
all="critest-systemd critest-cgroupfs e2e-systemd e2e-cgroupfs conform-systemd packages deb"
[ ${#releases[@]} -gt 0 ] || releases=(bookworm trixie)
[ ${#suites[@]} -gt 0 ] || suites=($all)
# ingredients: what a node is made of, which comes from elsewhere.
ingredients() (
	need mkfs.erofs:erofs-utils:"makes the disk that brings binaries into a virtual node"
	"$ROOT/hack/vm.sh" image "$1"
)
if [ "$verb" = ci ]; then
	releases=(trixie)
	suites=(v2 conformance-systemd)
	mkdir -p "$VM"
	if ! ingredients trixie >"$VM/ingredients.log" 2>&1; then
		tail -5 "$VM/ingredients.log"
		echo "skipped: virtual nodes: they can't be made here"
		echo 0 0 1 >>"${TOTALS:-/dev/null}"
		exit 0
	fi
fi
vm() { "$ROOT/hack/vm.sh" "$@"; }
# The page's table lies between two marks.
page=$ROOT/docs/vm-results.md
rows=$VM/results/rows
mkdir -p "$VM/results"
sed -n '/^<!-- results -->$/,/^<!-- end -->$/{/^| \(bookworm\|trixie\) /p}' "$page" >"$rows"
failed=0

# suite NAME: the arguments of suite.sh, and the time it may take.
suite() {
	case $1 in
	critest-*) echo 60m critest "${1#critest-}" --all --parallel 2 ;;
	conformance-*) echo 20m critest "${1#conformance-}" --parallel 2 ;;
	conform-systemd) echo 30m conform ;;
	e2e-*) echo 60m e2e "${1#e2e-}" ;;
	packages) echo 60m packages ;;
	v2) echo 15m packages oci/apparmor oci/cgroup oci/cgroup/systemd ;;
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
	case $name in
	v2) dir=packages ;;
	conformance-*) dir=critest-${name#conformance-} ;;
	esac
	rm -rf "$out/$dir"
	vm get --node "$node" "/results/$dir" "$out" || true
	read -r p f s < <(awk '{p += $1; f += $2; s += $3} END {print p + 0, f + 0, s + 0}' "$out/$dir/totals" 2>/dev/null || echo 0 1 0)
	# A suite that could not even begin has failed once.
	[ $((p + f + s)) -gt 0 ] || f=1
	echo "$p $f $s" >>"${TOTALS:-/dev/null}"
	local kernel commit
	kernel=$(vm exec --node "$node" uname -r)
	commit=$(vm exec --node "$node" cat /payload/commit)
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

keep_console() {
	mkdir -p "$VM/results/$release"
	cp "$node/console.log" "$VM/results/$release/"
}

for release in "${releases[@]}"; do
	if [ -n "$given" ]; then
		node=$given
		for name in "${suites[@]}"; do run_suite "$release" "$name"; done
		keep_console
		continue
	fi
	work=$(mktemp -d "${TMPDIR:-/tmp}/vmtest.XXXXXX")
	node=$work/node
	trap '"$VM/vm" down -dir "$node"; rm -rf "$work"' EXIT
	begin=$SECONDS
	vm up --release "$release" --node "$node"
	say "$release is up after $((SECONDS - begin)) s"
	for name in "${suites[@]}"; do run_suite "$release" "$name"; done
	keep_console
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
if [ "$verb" = test ]; then
	{ sed '/^<!-- results -->$/q' "$page"; echo; table; echo; sed -n '/^<!-- end -->$/,$p' "$page"; } >"$VM/page.md"
	cp "$VM/page.md" "$page"
fi
exit $failed
