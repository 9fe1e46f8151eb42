#!/usr/bin/env bash
# Makes the images that Kubernetes' node tests (test/e2e_node) pull, as far as they can be had: agnhost from Kubernetes' own
# module, the rest of Debian's packages. The result is $CACHE/kube/images, a set for "images serve --also".
#
#   hack/nodeimages.sh
#
# All images share one root file system that has what the tests call. Its sh is bash: the tests pass on names of environment
# variables with dashes and dots, which Debian's other shells drop. What bash, coreutils and the others lack is busybox.
set -euo pipefail
. "$(dirname "$0")/env.sh"
KUBE=$ROOT/test/kubelet/kube
key=$(keyed "$0" "$KUBE/go.mod")
fresh "$CACHE/kube/images.stamp" "$key" && exit
need_root
need mmdebstrap:mmdebstrap:"makes the root file system of test images"
apt_update
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
read -r uri release < <(apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
	awk '$1 == "Debian" && $3 !~ /-/ && $4 == "main" {print $2, $3; exit}') || true
[ -n "$uri" ] && [ -e $keyring ] || die "apt on this host knows no Debian main archive: test images are made of Debian packages"

say "making the images of Kubernetes' node tests (once)"
work=$(mktemp -d "${TMPDIR:-/tmp}/nodeimages.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
echo "deb [signed-by=$keyring] $uri $release main" >sources.list
mmdebstrap --quiet --mode=root --variant=extract --aptopt='APT::Install-Recommends "false"' --dpkgopt='path-exclude=/usr/share/man/*' \
	--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' "$release" root sources.list --include="$(echo \
	bash coreutils sed grep mawk findutils tar procps hostname util-linux util-linux-extra passwd libc-bin perl-base busybox \
	curl wget bind9-dnsutils netcat-openbsd iproute2 iptables iperf ca-certificates | tr ' ' ,)"
[ -e root/bin/sh ] || ln -s bash root/bin/sh
[ -e root/bin/nc ] || ln -s nc.openbsd root/bin/nc
[ -e root/usr/bin/awk ] || ln -s mawk root/usr/bin/awk
# The real images have all of busybox in /bin, and the tests name some by that path.
for applet in $(chroot root /bin/busybox --list); do
	[ -e "root/bin/$applet" ] || [ -L "root/bin/$applet" ] || ln -s "$(chroot root /bin/bash -c "type -P $applet || echo busybox")" "root/bin/$applet"
done
# The other top wants a terminal.
ln -sf busybox root/bin/top
# Debian's busybox lacks this one, which the tests call for milliseconds: nmeter -d0 '%3t'.
printf '#!/bin/sh\nexec date -u +%%T.%%3N\n' >root/bin/nmeter
chmod 755 root/bin/nmeter
mkdir -p root/tmp root/var/tmp root/uploads root/root
chmod 1777 root/tmp root/var/tmp
# A user whose second group only the image knows.
cat >root/etc/passwd <<-END
	root:x:0:0:root:/root:/bin/sh
	daemon:x:1:1:daemon:/usr/sbin:/bin/false
	nobody:x:65534:65534:nobody:/nonexistent:/bin/false
	user-defined-in-image:x:1000:1000::/home/user-defined-in-image:/bin/sh
END
printf '%s\n' root:x:0: daemon:x:1: tty:x:5: nogroup:x:65534: user-defined-in-image:x:1000: \
	group-defined-in-image:x:50000:user-defined-in-image >root/etc/group

agnhost=k8s.io/kubernetes/test/images/agnhost
mkdir extra
CGO_ENABLED=0 go build -C "$KUBE" -trimpath -ldflags '-s -w' -o "$work/extra/agnhost" $agnhost
ln -s agnhost extra/agnhost-2
for f in crt key; do install -m 644 "$(go list -C "$KUBE" -f '{{.Dir}}' $agnhost)/porter/localhost.$f" extra; done
pack() { tar -C "$1" --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner -cf "$1.tar" .; }
pack root
pack extra

e2e=registry.k8s.io/e2e-test-images env='"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'
cat >list.json <<-END
	[{"refs": ["$e2e/agnhost:2.63.0", "$e2e/agnhost:2.55"], "layers": ["root.tar", "extra.tar"],
	  "config": {$env, "Entrypoint": ["/agnhost"], "Cmd": ["pause"], "ExposedPorts": {"80/tcp": {}, "8080/tcp": {}, "8081/tcp": {}, "9376/tcp": {}, "5000/tcp": {}}}},
	 {"refs": ["$e2e/busybox:1.37.0-1", "$e2e/glibc-dns-testing:2.0.0", "$e2e/ipc-utils:1.4", "$e2e/perl:5.26"], "layers": ["root.tar"], "config": {$env, "Cmd": ["sh"]}},
	 {"refs": ["$e2e/nonroot:1.5"], "layers": ["root.tar"], "config": {$env, "Cmd": ["sh"], "User": "1234"}}]
END
rm -rf "$CACHE/kube/images"
images add --dir "$CACHE/kube/images" list.json
echo "$key" >"$CACHE/kube/images.stamp"
