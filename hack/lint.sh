#!/usr/bin/env bash
# hack/lint.sh MODULE...: what must be true of the text. Prints offences only.
set -euo pipefail
. "$(dirname "$0")/env.sh"
cd "$ROOT"
rc=0
unformatted=$(git ls-files --cached --others --exclude-standard '*.go' | xargs -r gofmt -l)
[ -z "$unformatted" ] || { say "not gofmt'ed:" $unformatted; rc=1; }
for m in "$@"; do
	(cd "$m" && CGO_ENABLED=0 go vet ./... && CGO_ENABLED=0 staticcheck ./...) || rc=1
done
for s in hack/*.sh .ci/run; do
	bash -n "$s" || rc=1
done
exit $rc
