# Sourced by the scripts of this directory: where things are, and how to say what is going on.
# CACHE holds everything that is built or fetched and can be made again; BERTH_CACHE moves it.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=${BERTH_CACHE:-$ROOT/.cache}
export BERTH_CACHE=$CACHE
export PATH=$CACHE/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin

say() { printf '%s\n' "$*" >&2; }
die() { say "$0: $*"; exit 1; }

# need_root: namespaces, mounts and cgroups are made for real.
need_root() { [ "$(id -u)" = 0 ] || die "must run as root: pods need namespaces, mounts and cgroups"; }

# need PROGRAM:PACKAGE:REASON ... installs the Debian packages whose program is missing, and says why.
need() {
	local want=() row prog pkg why
	for row in "$@"; do
		IFS=: read -r prog pkg why <<<"$row"
		case $prog in
		/*) [ -e "$prog" ] && continue ;;
		*) command -v "$prog" >/dev/null && continue ;;
		esac
		say "installing Debian package $pkg ($why)"
		want+=("$pkg")
	done
	[ ${#want[@]} = 0 ] && return
	command -v apt-get >/dev/null || die "please install: ${want[*]}"
	local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
	apt_update
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${want[@]}" >/dev/null 2>"$CACHE/apt.log" ||
		{ cat "$CACHE/apt.log" >&2; die "apt-get install ${want[*]}"; }
}

# apt_update refreshes the package lists, at most once a day per cache.
apt_update() {
	mkdir -p "$CACHE"
	[ -n "$(find "$CACHE/apt-updated" -mtime -1 2>/dev/null)" ] && return
	local sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -qq >/dev/null 2>"$CACHE/apt.log" || { cat "$CACHE/apt.log" >&2; die "apt-get update"; }
	touch "$CACHE/apt-updated"
}

# fresh STAMP KEY: true when the stamp file already says KEY.
fresh() { [ -e "$1" ] && [ "$(cat "$1")" = "$2" ]; }

# keyed FILE...: one hash over files and the Go version.
keyed() { { go version; cat "$@"; } | sha256sum | cut -c1-16; }
