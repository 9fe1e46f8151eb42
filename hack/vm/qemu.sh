#!/usr/bin/env bash
# Prints the command line of the QEMU that virtual nodes run under, one word a line.
#
# QEMU 10 starts programs in the guest twice as fast as 7.2 without KVM, and has no need of the work-around below; on
# Debian 12 it is unpacked from bookworm-backports into the cache, on the libraries of the installed one. Where that
# can't be had, the installed one serves.
set -euo pipefail
. "$(dirname "$0")/../env.sh"
need qemu-system-x86_64:qemu-system-x86:"runs virtual nodes"
VM=$CACHE/vm
out=$VM/qemu-$(sha256sum <"$0" | cut -c1-16)

backport() {
	local uri work=$out.tmp
	uri=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk '$1 == "Debian" && $2 == "bookworm" && $3 == "main" {print $4; exit}')
	[ -n "$uri" ] || return 1
	rm -rf "$work"
	mkdir -p "$work"/{state/lists/partial,cache/archives/partial,etc/preferences.d}
	echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri bookworm-backports main" >"$work/sources.list"
	cat >"$work/apt.conf" <<-CONF
		Dir::State "$work/state";
		Dir::State::status "/dev/null";
		Dir::Cache "$work/cache";
		Dir::Etc::sourcelist "$work/sources.list";
		Dir::Etc::sourceparts "-";
		Dir::Etc::preferencesparts "$work/etc/preferences.d";
		APT::Sandbox::User "root";
	CONF
	export APT_CONFIG=$work/apt.conf
	apt-get update -qq && cd "$work" &&
		apt-get download -qq qemu-system-x86 qemu-system-common qemu-system-data seabios || return 1
	local deb
	for deb in *.deb; do dpkg -x "$deb" root || return 1; done
	"$work/root/usr/bin/qemu-system-x86_64" --version >/dev/null || return 1 # a library is missing
	rm -rf state cache etc ./*.deb root/usr/share/doc sources.list apt.conf
}

if [ ! -e "$out/tried" ]; then
	mkdir -p "$VM"
	major=$(qemu-system-x86_64 --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
	if [ "$major" -lt 8 ]; then
		say "fetching QEMU 10 from bookworm-backports (once)"
		(backport) >"$VM/qemu.log" 2>&1 || { say "QEMU 10 can't be had: using the installed one (see $VM/qemu.log)"; rm -rf "$out.tmp"; }
	fi
	mkdir -p "$out.tmp"
	touch "$out.tmp/tried"
	rm -rf "$out"; mv "$out.tmp" "$out"
fi
if [ -x "$out/root/usr/bin/qemu-system-x86_64" ]; then
	printf '%s\n' "$out/root/usr/bin/qemu-system-x86_64" -L "$out/root/usr/share/qemu" -L "$out/root/usr/share/seabios"
else
	echo qemu-system-x86_64
fi
