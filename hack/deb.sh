#!/usr/bin/env bash
# Builds a Debian package from bin/ (make build) and prints its name:
#
#   hack/deb.sh [VERSION [DIR]]     default: what git describes, in .cache/deb
#
# The package has the programs in /usr/bin, a systemd unit, /etc/berth/config.toml, and the documents. Programs are
# static: it depends on nothing but recommends what a node needs anyway.
set -euo pipefail
. "$(dirname "$0")/env.sh"
need dpkg-deb:dpkg:"builds the package"
described=$(git -C "$ROOT" describe --tags --always --dirty 2>/dev/null || echo dev)
version=${1:-$described}
dir=${2:-$CACHE/deb}
version=${version#v}
# A version begins with a digit and knows "~", which sorts before everything, for what is not a release yet.
case $version in [0-9]*.*) version=${version//-/+} ;; *) version=0~git${version//-/+} ;; esac
arch=$(go env GOARCH)
tree=$(mktemp -d "${TMPDIR:-/tmp}/berth-deb.XXXXXX")
trap 'rm -rf "$tree"' EXIT
chmod 755 "$tree"

install -d "$tree"/{DEBIAN,usr/bin,usr/lib/systemd/system,etc/berth/certs.d,usr/share/doc/berth}
install -m 755 "$ROOT"/bin/{berth,berth-monitor,berth-oci,berth-bridge} "$tree/usr/bin/"
sed 's#/usr/local/bin/#/usr/bin/#; /^\# systemd unit: copy to/d' "$ROOT/hack/berth.service" >"$tree/usr/lib/systemd/system/berth.service"
install -m 644 "$ROOT/hack/deb/config.toml" "$tree/etc/berth/config.toml"
install -m 644 "$ROOT"/{README,ARCHITECTURE}.md "$ROOT"/docs/*.md "$tree/usr/share/doc/berth/"
install -m 644 "$ROOT/LICENSE" "$tree/usr/share/doc/berth/copyright"
install -m 755 "$ROOT"/hack/deb/{postinst,prerm,postrm} "$tree/DEBIAN/"
echo /etc/berth/config.toml >"$tree/DEBIAN/conffiles"
cat >"$tree/DEBIAN/control" <<CONTROL
Package: berth
Version: $version
Architecture: $arch
Maintainer: Berth <berth@localhost>
Section: admin
Priority: optional
Installed-Size: $(du -ks "$tree" | cut -f1)
Recommends: apparmor, iptables | nftables, conntrack
Suggests: cri-tools, kubelet
Description: container runtime for Kubernetes nodes
 Berth serves the Container Runtime Interface to kubelet and crictl, and runs
 the containers of pods itself. Pods outlive the daemon, its upgrade and the
 removal of this package.
CONTROL
mkdir -p "$dir"
out=$dir/berth_${version}_$arch.deb
dpkg-deb --root-owner-group -Zgzip -z6 --build "$tree" "$out" >/dev/null
echo "$out"
