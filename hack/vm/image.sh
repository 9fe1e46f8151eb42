#!/usr/bin/env bash
# Makes what a virtual node boots from, out of Debian packages:
#
#   hack/vm/image.sh RELEASE      bookworm (Linux 6.1, systemd 252) or trixie (Linux 6.12, systemd 257)
#
# and prints the directory that holds it: root.ext4 (sparse), vmlinuz, modules.list with the modules of the initramfs.
# The directory's name is a hash of this script and the release: what a recipe made is made once. The mirror is the one
# this host's apt is configured with; the host's own package sources and state are not touched.
set -euo pipefail
. "$(dirname "$0")/../env.sh"
release=${1:?usage: hack/vm/image.sh bookworm|trixie}
VM=$CACHE/vm
out=$VM/$release-$( (echo "$release"; cat "$0") | sha256sum | cut -c1-16)
[ -e "$out/done" ] && { echo "$out"; exit; }
need_root
need mmdebstrap:mmdebstrap:"makes the root file system of a virtual node" mkfs.ext4:e2fsprogs:"the same" \
	modprobe:kmod:"lists the modules a kernel needs to boot" xz:xz-utils:"unpacks kernel modules"
apt_update

# mirror: the URI this host gets Debian from.
mirror() {
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 !~ /-/ && $3 == "main" {print $4; exit}'
}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
uri=$(mirror)
[ -n "$uri" ] && [ -e $keyring ] || die "apt on this host knows no Debian main archive: images of virtual nodes are made of Debian packages"

# What a node has: systemd, D-Bus, the tools runtimes and network plugins call, and AppArmor's parser.
packages=systemd,systemd-sysv,dbus,udev,kmod,mount,util-linux,procps,iproute2,iptables,nftables,apparmor,conntrack,ethtool,socat,curl,e2fsprogs,ca-certificates
[ $release = bookworm ] || packages=$packages,util-linux-extra

say "making a $release root file system and kernel from packages (once)"
begin=$SECONDS
work=$(mktemp -d "${TMPDIR:-/tmp}/vmimage.XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "deb [signed-by=$keyring] $uri $release main" >"$work/sources.list"
mkdir -p "$VM"

# The kernel is unpacked, not installed: its generic initramfs is not wanted. A private apt finds the package.
private_apt() {
	local d=$work/apt
	mkdir -p "$d"/{state/lists/partial,cache/archives/partial,etc/preferences.d}
	cat >"$d/apt.conf" <<-CONF
		Dir::State "$d/state";
		Dir::State::status "/dev/null";
		Dir::Cache "$d/cache";
		Dir::Etc::sourcelist "$work/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::Etc::preferencesparts "$d/etc/preferences.d";
		APT::Sandbox::User "root";
	CONF
	export APT_CONFIG=$d/apt.conf
	apt-get update -qq
}
kernel() (
	private_apt
	name=$(apt-cache depends linux-image-cloud-amd64 | awk '$1 == "Depends:" {print $2; exit}')
	cd "$work"
	apt-get download -qq "$name"
	dpkg -x "$name"_*.deb kernel
	rm -rf kernel/usr/share
)
(kernel) >"$work/kernel.log" 2>&1 & kernel_pid=$!

if ! mmdebstrap --quiet --mode=root --variant=essential --aptopt='APT::Install-Recommends "false"' \
	--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
	--include=$packages $release "$work/root" "$work/sources.list" >"$work/root.log" 2>&1; then
	cat "$work/root.log" >&2
	die "mmdebstrap $release"
fi
wait $kernel_pid || { cat "$work/kernel.log" >&2; die "no kernel package for $release"; }

root=$work/root
moddir=$(find "$work/kernel" -type d -path '*/modules/*' -name '*-amd64')
version=${moddir##*/}
find "$moddir" -name '*.ko.xz' -exec xz -d {} +
mkdir -p "$root/usr/lib/modules"
cp -a "$moddir" "$root/usr/lib/modules/"
depmod -b "$root" "$version"

# Modules that the initramfs loads, in order, from what modules.dep says; "builtin" lines are none.
for m in virtio_pci virtio_blk virtio_net virtio_console virtio_rng ext4 erofs; do
	modprobe -d "$root" -S "$version" --show-depends $m 2>/dev/null || true
done | awk '$1 == "insmod" && !seen[$2]++ {print $2}' | sed "s#^$root##" >"$work/modules.list"

# A node gets its name, units and masks from the agent at every boot (hack/vm/agent/setup.go).
rm -f "$root/etc/apt/sources.list" "$root"/etc/apt/sources.list.d/*
: >"$root/etc/resolv.conf"
sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
chroot "$root" sh -c 'ldconfig; journalctl --update-catalog; systemd-hwdb update' 2>/dev/null || true

rm -rf "$out.tmp"; mkdir -p "$out.tmp"
truncate -s 12G "$out.tmp/root.ext4"
mkfs.ext4 -q -F -L root -O ^has_journal -E lazy_itable_init=1 -m 0 -d "$root" "$out.tmp/root.ext4"
cp "$work/kernel/boot/vmlinuz-$version" "$out.tmp/vmlinuz"
# The initramfs is made of these and of the agent, at every start (see initramfs in hack/vm/machine).
mkdir "$out.tmp/modules"
while read -r m; do cp "$root$m" "$out.tmp/modules/"; done <"$work/modules.list"
sed 's#.*/##' "$work/modules.list" >"$out.tmp/modules.list"
echo "$version" >"$out.tmp/version"
touch "$out.tmp/done"
rm -rf "$out"; mv "$out.tmp" "$out"
say "made $out in $((SECONDS - begin)) s: $(du -sh "$out" | cut -f1), Linux $version"
echo "$out"
