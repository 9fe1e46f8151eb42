// Package registry reads images from OCI and Docker registries: it finds out what a reference means there, chooses the
// image for a platform out of indexes, and opens blobs.
//
// Transport, authentication and mirrors (certs.d/HOST/hosts.toml) are containerd's resolver
// (github.com/containerd/containerd/v2/core/remotes/docker); hack/decisions/0002 says why. Added here is what the resolver
// leaves to its caller: which host may see which credential, redirects that never carry one to another origin,
// documents that can be read in two ways, limits on sizes and nesting, and reads that go on after a broken
// connection.
//
// A Repository serves one pull: it knows one repository and one credential. Nothing is cached between pulls, so that every
// pull asks the registry with the credentials it was given.
package registry
