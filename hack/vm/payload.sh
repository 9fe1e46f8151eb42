#!/usr/bin/env bash
# Makes the disk with what is under test, and prints its name:
#
#   bin/      berth and its helpers; crictl, critest, ginkgo, images, testsum, leaks; a "go" that hands out built programs
#   tests/    the packages' tests, compiled, as tests/oci/cgroup.test
#   built/    programs that tests build, for "go"
#   src/      this tree as git sees it: tests read their testdata and the scripts are called there
#   cache/    what the scripts call .cache: the CNI project's plugins, test images
#   commit    what git calls the tree
#
# It is an uncompressed erofs image, which costs a second to make and nothing to read. Only the last one is kept.
set -euo pipefail
. "$(dirname "$0")/../env.sh"
need mkfs.erofs:erofs-utils:"makes the disk that brings binaries into a virtual node"
VM=$CACHE/vm
"$ROOT/hack/tools.sh" client critest cni packages >&2
"$ROOT/hack/images.sh" >&2
make -s -C "$ROOT" build >&2
"$ROOT/hack/vm/tests.sh" >&2

tree=$VM/payload
rm -rf "$tree"
mkdir -p "$tree"/{bin,src,cache}
cp "$ROOT"/bin/* "$tree/bin/"
cp "$CACHE"/bin/{crictl,critest,ginkgo,images,testsum,leaks} "$tree/bin/"
cp "$ROOT/hack/vm/go.sh" "$tree/bin/go"
cp "$ROOT/hack/vm/sudo.sh" "$tree/bin/sudo"
[ -x "$VM/test2json" ] || CGO_ENABLED=0 go build -o "$VM/test2json" cmd/test2json
cp "$VM/test2json" "$tree/bin/"
cp -a "$VM/tests" "$VM/built" "$tree/"
cp -a "$CACHE/cni" "$CACHE/images" "$tree/cache/"
(cd "$ROOT" && git ls-files -z --cached --others --exclude-standard | tar --null --ignore-failed-read -T - -cf - 2>/dev/null) | tar -C "$tree/src" -xf -
# The newest of our own trees: src/.cache and src/bin are where scripts look.
ln -s /payload/cache "$tree/src/.cache"
ln -s /payload/bin "$tree/src/bin"
ln -s /payload/bin "$tree/cache/bin"
git -C "$ROOT" describe --always --dirty >"$tree/commit" 2>/dev/null || echo unknown >"$tree/commit"
name=$(cd "$tree" && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-16)
out=$VM/payload-$name.erofs
if [ ! -e "$out" ]; then
	mkfs.erofs --quiet -T0 "$out.tmp" "$tree" >/dev/null
	find "$VM" -maxdepth 1 -name 'payload-*.erofs' -delete
	mv "$out.tmp" "$out"
fi
echo "$out"
