// Package netplugin connects pods to networks through CNI plugins.
//
// A plugin is a program (CNI specification 1.1): it is told what to do by its environment, reads its configuration from
// stdin and answers in JSON. Which plugins run is decided by the first valid file, by name, of the configuration
// directory; the directory may appear, change and go at any time, and is read anew whenever it matters (a directory
// with one conflist costs about a tenth of a millisecond, an ADD several). Without a usable file, and only if asked
// to, a conflist naming our own plugin berth-bridge is used: the same exec path, no special case.
//
//	Attach   record (intent) -> ADD -> record (result)
//	Detach   record -> DEL -> record removed
//	Collect  Detach for every record nobody claims, then GC with the attachments that are left
//
// The record of a pod, <cache>/<pod>.json, is written before the first plugin runs and holds all that DEL needs: the
// conflist as it was, the arguments and the capabilities. So what a plugin took can be given back after the daemon
// died, after the configuration changed or went, and after a reboot (then without a network namespace). It is removed
// only when DEL has succeeded. Records are replaced by rename and not synced; one damaged by a power cut costs the
// recorded configuration only: DEL then uses the current one.
//
// Plugins run in process groups of their own, and the context of a call kills the group. Giving back after a failed
// ADD has a context of its own, since the caller's has often ended by then.
//
// Files below the cache directory: <pod>.json, results/ (libcni's cache of results, which DEL hands to the plugins),
// builtin.conflist (the built-in configuration as first chosen), bridge/ (records of berth-bridge).
package netplugin
