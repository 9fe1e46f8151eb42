// Package layer turns the tar stream of one image layer into a directory.
//
// The stream is hostile. It is therefore applied by a child process that can see nothing but the directory it
// fills: the child has a mount namespace of its own whose root is a nodev, nosuid, noexec view of that directory,
// no network, no capability beyond those that set owners, modes and device numbers, a seccomp filter that knows
// no call to get out, and limits on bytes and entries. What a name or a link in the archive says can hence only
// ever mean something inside the directory.
//
//	daemon                                    child (UnpackMain)
//	compressed stream                         stdin: plain tar
//	  -> Decompress -> digests -> pipe ------>  apply: files, links, whiteouts as overlayfs wants them
//	Result, or the child's error  <-----------  stdout: one JSON object; stderr: one line
//
// The result has the form overlayfs wants of a lower directory: a deleted name is a character device 0/0, a
// directory that hides what lies below it has the attribute trusted.overlay.opaque (set by the parent from the
// child's list: the child lacks the capability). A layer is applied without the layers below it, so it is the same directory in every
// image that has it; directories the archive needed but did not describe are listed in Result.Implied, for the
// image store to correct where a lower layer says otherwise.
//
// The package imports the standard library, golang.org/x/sys/unix and a decompressor.
package layer
