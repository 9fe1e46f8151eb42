package hold

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// cloneRoot puts a detached clone of what is mounted at the root of a mount namespace in the place of descriptor fd, which is that
// namespace. Any other descriptor stays as it is: a mount that was handed over before its kernel was known to need this.
func cloneRoot(fd int) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		return err
	}
	if st.Type != unix.NSFS_MAGIC {
		return nil
	}
	type result struct {
		fd  int
		err error
	}
	c := make(chan result)
	// ends with its system calls; its thread, which is in another place than the program is to be, with the program's exec. The
	// caller has locked a thread of its own.
	go func() {
		runtime.LockOSThread()
		fd, err := rootOf(fd)
		c <- result{fd, err}
	}()
	r := <-c
	if r.err != nil {
		return r.err
	}
	defer unix.Close(r.fd)
	return unix.Dup3(r.fd, fd, 0)
}

// rootOf takes the calling thread into a mount namespace and clones its root there: a mount can be cloned only by who is in its
// mount namespace, and one that is in none only since Linux 6.15 (open_tree(2)). A thread can enter when it shares its root
// directory with no other (setns(2)), and is in the root of the namespace then.
func rootOf(ns int) (int, error) {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return -1, &segment{"unshare", err}
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return -1, &segment{"enter mount namespace", err}
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, &segment{"open_tree", err}
	}
	return fd, nil
}
