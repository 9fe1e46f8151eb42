// Package quick does `start`, `delete` and `exec` before the Go runtime is there.
//
// They are a handful of system calls, an exec a hundred, and what they cost is the start of a Go program: about 200 page faults,
// 110 signal handlers, three threads; an exec's init costs that once more. So the linker is told (-E) to begin the program not
// in the runtime's entry but in the one of this package, which looks at the arguments:
//
//	kernel ──> entry (assembly) ──> early: start ID, delete ID, exec ID? ── done ──> exit_group
//	                                   │ anything else, anything unusual
//	                                   └──> environment + GOMAXPROCS=1, GOGC=off ──> runtime's entry, as if nothing had been
//
//	exec: record, process.json or config.json, filter ──> picture ── socket ──> the same program, `become`: the init of the exec
//	                 spawn.Bare: into cgroups, namespaces, execveat ───────────────^   setns(mount), package become, execve
//
// What is done here is done only in its plainest form: arguments that are known, a record in exactly the form that package state
// writes, no hooks, no systemd, a process that has ended, cgroups that are empty; of an exec no terminal, label, scheduler or user
// namespace, and nothing to warn of. All else, and every error, is left to the ordinary program, which begins anew: each step up
// to there is one it takes as well, and finds done. That goes for an exec's init too: it ends when it can't go on, before
// it has executed anything. The two exceptions can't be asked twice, so Said keeps the text: an init that answers `start` with
// an error, and a pid file that can't be written when the process is there.
//
// Without the linker's flag, and on other machines than amd64, nothing of this is linked and all runs in the ordinary
// program. The rules for code in here: no allocation, no map, no interface, no defer, no goroutine, nothing of any other
// package but what keeps the same rules (become, spawn.Bare, parts of program and seccomp, which say so); a test looks at
// what the compiler says about escapes. There is a g, with nothing but the bounds of the stack, so that functions may have frames.
package quick
