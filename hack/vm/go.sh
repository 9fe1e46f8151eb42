#!/bin/sh
# In a virtual node this is "go": tests that build the programs they run are given those that came along.
#
#   go build [FLAG]... -o OUT PACKAGE...
#   go list -m -f {{.Dir}} MODULE
set -eu
out='' packages=
if [ "${1:-}" = list ]; then
	for module; do :; done
	[ -d "/payload/built/modules/$module" ] || { echo "go: $module did not come along" >&2; exit 2; }
	echo "/payload/built/modules/$module"
	exit
fi
[ "${1:-}" = build ] || { echo "go: only build, from what is in /payload/built" >&2; exit 2; }
shift
while [ $# -gt 0 ]; do
	case $1 in
	-o) out=$2; shift ;;
	-ldflags | -tags) shift ;;
	-*) ;;
	*) packages="$packages $1" ;;
	esac
	shift
done
case $out in */) mkdir -p "$out" ;; esac
for p in $packages; do
	case $p in
	.*) p=$(realpath "$p"); p=${p#/payload/src/} ;;
	*) p=${p#github.com/berth-runtime/berth/} ;;
	esac
	name=${p##*/}
	if [ -d "$out" ]; then to=$out/$name; else to=$out; fi
	case $p in
	cmd/*) cp "/payload/bin/$name" "$to" ;;
	*) cp "/payload/built/$p" "$to" ;;
	esac
done
