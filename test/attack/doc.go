// Package attack attacks an OCI runtime: hostile root file systems, processes that swap names or wait for the runtime's
// own, hostile callers' leftovers, kills at every step, and crowds. docs/security.md has the table of classes, tests
// and what came of them on which runtime.
//
//	RUNTIME=/usr/bin/crun go test ./test/attack     any runtime with runc's command line; default: cmd/berth-oci, built afresh
//	ATTACK_LONG=1 go test -timeout 2h ./test/attack races of 10^5 creates, kills at every system call
//
// A test fails when the attack works: when something of the host changed (files, modes, sysctls, mounts, cgroups), when the
// container sees or can do what it must not, or when the runtime hangs, crashes without a word or leaves something. That
// a runtime refuses a container is never wrong here, so that the tests fit all runtimes; test/conform says what must work.
//
// The runtime is copied before it is attacked, and payloads open what they find but write only to what is theirs. All of it
// runs in a jail (test/jail): a runtime that fails a test must not take the machine's files with it.
package attack
