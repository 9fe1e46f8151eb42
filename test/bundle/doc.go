// Package bundle is what the suites that drive an OCI runtime by its command line have in common: a bundle whose
// container runs a static program of the suite, the runtime's call with its output in files, the sockets that a runtime
// sends descriptors to, and the look at what is left.
//
//	oci/launch     what is berth-oci's own            on cmd/berth-oci
//	test/attack    what no runtime may let happen     on any runtime, in a jail
//	test/conform   what every runtime has to do       on any runtime, in a jail
//
// What a container's program reports is in package seen, which those programs import; nothing of this one is in them.
// What a suite expects of a runtime is the suite's: here is no assertion but that a call comes back.
package bundle
