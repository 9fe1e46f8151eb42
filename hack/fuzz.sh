#!/usr/bin/env bash
# hack/fuzz.sh [DURATION [PATTERN]]: every fuzz target of the module whose "package Name" matches PATTERN, one after the
# other, DURATION each (default 10m). Prints a line a target; inputs that break something are left in testdata/fuzz of the package, to be
# committed with the mend. PARALLEL is how many workers fuzz (default 2).
set -uo pipefail
. "$(dirname "$0")/env.sh"
duration=${1:-10m} pattern=${2:-.}
cd "$ROOT"
mkdir -p "$CACHE/fuzz"
rc=0
while IFS=: read -r file _ line; do
	name=${line#func } name=${name%%(*} dir=./$(dirname "$file")
	[[ "$dir $name" =~ $pattern ]] || continue
	log=$CACHE/fuzz/$(basename "$dir")-$name.log
	CGO_ENABLED=0 go test "$dir" -run '^$' -fuzz "^$name\$" -fuzztime "$duration" -fuzzminimizetime 100x -parallel "${PARALLEL:-2}" >"$log" 2>&1
	code=$?
	execs=$(grep -o 'execs: [0-9]*' "$log" | tail -1)
	if [ $code = 0 ]; then
		echo "ok    $dir $name $duration ${execs:-execs: 0}"
	else
		rc=1
		echo "BREAK $dir $name ${execs:-execs: 0}, see $log"
		grep -m 3 -A 12 -e '--- FAIL' "$log" | head -30
	fi
done < <(grep -rn --include="*_test.go" --exclude-dir=.cache "^func Fuzz" . | sed "s,^\./,," | sort)
exit $rc
