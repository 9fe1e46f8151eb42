// Package seccomp compiles the seccomp section of an OCI configuration into a
// classic BPF program and loads it.
//
//	specs.LinuxSeccomp --Compile--> Program --Encode--> cache
//	                                Program --Load----> kernel
//
// A program first tells architectures apart, the machine's own before others,
// then searches a balanced tree over runs of system call numbers that share a
// verdict, and tests arguments in the leaves. The kernel runs each filter once
// for every number when it is loaded, to learn which are allowed whatever their
// arguments (seccomp_cache_prepare, Linux 5.11); a short path through the tree
// is therefore a fast load.
//
// What the specification leaves open follows libseccomp as runc drives it:
//
//   - The machine's architecture is always part of the filter, and one that no
//     rule list was made for gets SCMP_ACT_KILL_THREAD. x32 is one of its own:
//     where it is not listed its calls fare like those of an unknown one.
//   - A name that an architecture lacks is skipped there. On 32-bit x86 the
//     socket and System V IPC names also stand for the calls of socketcall and
//     ipc, of which only the number of the call can be tested, not its argument
//     0, which it replaces.
//   - The first rule without arguments for a call decides, whatever rules with
//     arguments came before or after. Among rules with arguments the first that
//     matches decides. A rule with two conditions on one argument means either
//     of all its conditions. Rules with the default's own action are dropped.
//   - Arguments of 32-bit calls (x32 too) are compared in their lower half.
//   - With a default that refuses, calls newer than every call the profile
//     names on an architecture return ENOSYS, so that programs fall back to
//     older calls as they would on an older kernel.
package seccomp

//go:generate go run ../../../hack/syscalls
