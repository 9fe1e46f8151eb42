#!/usr/bin/env bash
# Compiles the tests that look at the kernel into .cache/vm/tests, as PACKAGE.test, and the programs they build
# themselves into .cache/vm/built (see go.sh).
set -euo pipefail
. "$(dirname "$0")/../env.sh"
VM=$CACHE/vm
packages="cmd/berth image image/layer image/overlay netplugin netplugin/bridge oci/apparmor oci/cgroup oci/cgroup/systemd oci/launch
oci/launch/hook oci/launch/inside oci/launch/nofile oci/launch/resctrl oci/launch/seccomp oci/launch/spawn oci/launch/state sandbox sandbox/host
sandbox/monitor sandbox/monitor/loop sandbox/ns sandbox/ns/hold test/attack test/conform test/fault"
e2e="core contract leak"
programs="oci/launch/testdata/probe sandbox/monitor/testdata/fakeoci test/attack/testdata/probe test/conform/testdata/probe test/fault/fakeoci
test/fault/fakecni"

# What was compiled from this state of the tree need not be looked at again.
key=$( (cd "$ROOT" && go version && git ls-files -z --cached --others --exclude-standard -- '*.go' '*.s' 'go.mod' '*/go.mod' hack/vm/tests.sh |
	sort -z | xargs -0 sha256sum 2>/dev/null) | sha256sum | cut -c1-16)
fresh "$VM/tests.stamp" "$key" && exit
mkdir -p "$VM/tests" "$VM/built"
export CGO_ENABLED=0
# compile DIR PREFIX PACKAGE...: all in one go, which loads the packages once and links side by side; it names them by the last
# part of their paths alone, which must differ.
compile() {
	local dir=$1 prefix=$2 p; shift 2
	rm -rf "$VM/tests.new"
	mkdir "$VM/tests.new"
	go test -C "$dir" -c -ldflags "-s -w" -o "$VM/tests.new/" "${@/#/./}"
	for p; do
		mkdir -p "$VM/tests/$(dirname "$prefix$p")"
		mv "$VM/tests.new/${p##*/}.test" "$VM/tests/$prefix$p.test"
	done
	rmdir "$VM/tests.new"
}
rm -rf "$VM/tests"
compile "$ROOT" "" $packages
compile "$ROOT/test/e2e" test/e2e/ $e2e
for p in $programs; do
	mkdir -p "$VM/built/$(dirname "$p")"
	go build -C "$ROOT" -trimpath -ldflags '-s -w' -o "$VM/built/$p" "./$p"
done
# A test compares with the specification's source.
spec=github.com/opencontainers/runtime-spec
rm -rf "$VM/built/modules"
mkdir -p "$VM/built/modules/$spec"
cp -r --no-preserve=mode "$(go list -C "$ROOT" -m -f '{{.Dir}}' $spec)"/. "$VM/built/modules/$spec"
echo "$key" >"$VM/tests.stamp"
