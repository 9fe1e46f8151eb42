#!/usr/bin/env bash
# Everything that "make test" promises: unit, house and integration tests against this kernel, end-to-end tests with
# kubelet's client, the [Conformance] specs of critest, and a look at what is left. Ends with one line of totals.
set -euo pipefail
. "$(dirname "$0")/env.sh"
[ "$(id -u)" = 0 ] || say "not root: tests that make namespaces, mounts and cgroups are skipped, conformance is not run"
need gcc:gcc:"builds the oracle of the seccomp compiler's tests" /usr/include/seccomp.h:libseccomp-dev:"is that oracle"
export BERTH_ORACLE=required # where it is missing the comparison fails rather than being skipped
out=$CACHE/test
rm -rf "$out"
mkdir -p "$out"
export TOTALS=$out/totals
"$ROOT/hack/tools.sh" client critest cni packages
"$ROOT/hack/images.sh"
# Runtimes that the handlers' tests run pods on. Without one, its tests are skipped and say so.
for peer in runc crun criu; do "$ROOT/hack/peers.sh" $peer || say "$peer could not be had: tests that need it are skipped"; done
make -s -C "$ROOT" build
leaks save "$out/before"
failed=0

# gotests NAME DIR [PACKAGE...]: the tests of one module.
gotests() {
	local name=$1 dir=$2; shift 2
	say "== $name"
	local run=(env "BERTH_CNI_BIN=$CACHE/cni" "BERTH_CNI_BIN_DIR=$CACHE/cni" go test -json -count=1 "$@")
	[ "$(id -u)" != 0 ] || run=("$ROOT/hack/testns.sh" "${run[@]}")
	(cd "$dir" && CGO_ENABLED=0 "${run[@]}" 2>"$out/$name.stderr") | tee "$out/$name.json" |
		testsum -name "$name" -totals "$TOTALS" || { failed=1; cat "$out/$name.stderr" >&2; }
}

gotests "unit, house, integration" "$ROOT" ./...
gotests images "$ROOT/test/images" ./...
gotests "runtime validation, its driver" "$ROOT/test/ocitest" ./...
gotests end-to-end "$ROOT/test/e2e" -p 1 -timeout 20m ./...

# suite NAME COMMAND...: a suite that adds its totals itself. One that could not even begin has failed once.
suite() {
	local lines; lines=$(wc -l <"$TOTALS")
	say "== $1"; shift
	"$@" || failed=1
	[ "$(wc -l <"$TOTALS")" -gt "$lines" ] || echo 0 1 0 >>"$TOTALS"
}
if [ "$(id -u)" = 0 ]; then
	suite "validation programs of runtime-tools" "$ROOT/hack/ocitest.sh" --out "$out/ocitest"
	suite "podman" "$ROOT/hack/podman.sh" --out "$out/podman"
	suite "critest [Conformance]" "$ROOT/hack/critest.sh" --out "$out/critest"
fi

say "== what is left"
if leaks compare "$out/before"; then
	echo "nothing: no process, mount, namespace, cgroup, link or rule"
	echo 1 0 0 >>"$TOTALS"
else
	failed=1
	echo 0 1 0 >>"$TOTALS"
fi
testsum -print -totals "$TOTALS" || failed=1
exit $failed
