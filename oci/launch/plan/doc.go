// Package plan decides: it turns a config.json of the OCI runtime specification (1.3, Linux) into what has to be done.
// It makes no system call and reads no file, so every decision can be read off a golden file.
//
//	config.json ── Parse ──> Config ── Container ──> Plan
//	                                                  ├─ Program   what the init does (package program)
//	                                                  ├─ Sources   what `create` opens in the host's view, by slot
//	                                                  ├─ Spaces    namespaces to make and to join
//	                                                  └─ …         cgroup, resources, hooks
//
// Everything that names something of the host becomes a Source: create opens it once, with the host's privileges and
// mount table, and the init gets a descriptor. Everything that belongs to the container's namespaces (procfs, devpts,
// mqueue, tmpfs) is a step the init does itself.
//
// A field is either honoured or refused with an error that names it (docs/berth-oci.md has the table). linux.seccomp stays raw:
// it is compiled elsewhere, and not even parsed when the compiled form is cached.
package plan
