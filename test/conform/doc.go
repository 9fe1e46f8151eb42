// Package conform says what a Linux OCI runtime with runc's command line has to do, as tests that run on any of them:
//
//	go test ./test/conform                              on bin/berth-oci
//	RUNTIME=/usr/bin/crun go test ./test/conform        on another one
//	hack/conform.sh --peer runc --peer crun             on all, side by side
//
// The runtime is an executable that knows nothing of the tests; containers run a static program (testdata/probe) that
// tells what it sees or what comes of what it tries. A test cites the section of the runtime specification it holds the
// runtime to, or the habit of runc's command line that callers rely on.
//
// What no other runtime passes is either wrong here or a deliberate difference; those are named, with their section, in
// differences.txt, and hack/conform.sh fails for others. What the validation programs of runtime-tools check is left to
// them (test/ocitest).
package conform
