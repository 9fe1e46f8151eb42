// Package fault proves what the core does when things go wrong: a step of a pod's or container's making fails, the
// daemon is killed between any two steps, plugins and runtimes hang, clients come at once or give up, monitors die.
//
// Everything is real but two programs: fakeoci in place of the OCI runtime and fakecni in place of the network
// plugin. What they do is said by files (package script), so a test holds a phase open for as long as it wants.
// Each test has directories, cgroups and pins of its own and looks at the end for whatever is left of them: processes,
// mounts, namespaces, cgroups, files, records and the plugin's leases.
package fault
