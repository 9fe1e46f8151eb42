// Package quick does `start` and `delete` before the Go runtime is there.
//
// Both are a handful of system calls, and what they cost is the start of a Go program: about 200 page faults, 110 signal
// handlers, three threads. So the linker is told (-E) to begin the program not in the runtime's entry but in the one of
// this package, which looks at the arguments:
//
//	kernel ──> entry (assembly) ──> early: start ID, delete ID? ── done ──> exit_group
//	                                   │ anything else, anything unusual
//	                                   └──> environment + GOMAXPROCS=1, GOGC=off ──> runtime's entry, as if nothing had been
//
// What is done here is done only in its plainest form: arguments that are known, a record in exactly the form that
// package state writes, no hooks, no systemd, a process that has ended, cgroups that are empty. All else, and every
// error, is left to the ordinary program, which begins anew: each step up to there is one it takes as well, and finds
// done. The one exception is an init that answers `start` with an error: it can't be asked twice, so Said keeps the text.
//
// Without the linker's flag, and on other machines than amd64, nothing of this is linked and all runs in the ordinary
// program. The rules for code in here: no allocation, no map, no interface, no defer, no goroutine, nothing of any other
// package; a test looks at what the compiler says about escapes. There is a g, with nothing but the bounds of the stack,
// so that functions may have frames.
package quick
