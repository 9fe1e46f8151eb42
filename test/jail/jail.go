// Package jail is where tests run that attack a runtime, or may find one broken: whatever the runtime under test does,
// the machine must not suffer. (crun 1.8.1, asked to "delete --force /", removes the machine's files.)
//
//	func TestMain(m *testing.M) {
//		dir, err := jail.Enter(func(dir string) error { ... build programs into dir ... })
//
// Enter executes the test program again below hack/testns.sh --read-only, which says what holds there: all mounts are
// read-only but /tmp, /run, /var/tmp and /dev, which are new, and the cgroup hierarchies; mount, network, PID, UTS and IPC
// namespaces are its own. What has to be built is built before, where the Go cache can be written.
//
//	TestMain -> build -> open what was built, remove it -> testns.sh -> TestMain -> copies of it on the jail's tmpfs
//
// Programs go in as open files, so that nothing has to be cleaned up outside.
package jail

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// files is the variable that names what was built, as "NAME=DESCRIPTOR"s; it is also what tells the second TestMain from
// the first. BERTH_JAIL is not enough for that: a jail may be in another one.
const files = "BERTH_JAIL_FILES"

// Enter returns in the jail, with a directory that holds what build has made; the caller removes it. Outside it returns
// only an error, unless it is called without root, for whom there is no jail and who can't do what needs one.
func Enter(build func(dir string) error) (string, error) {
	if list, inside := os.LookupEnv(files); inside {
		os.Unsetenv(files)
		return unpack(strings.Fields(list))
	}
	dir, err := os.MkdirTemp("", "berth-jail-")
	if err != nil {
		return "", err
	}
	if err := build(dir); err != nil || os.Geteuid() != 0 {
		return dir, err
	}
	defer os.RemoveAll(dir)
	list, err := open(dir)
	if err != nil {
		return "", err
	}
	os.RemoveAll(dir) // the exec does not return
	script, err := script()
	if err != nil {
		return "", err
	}
	env := append(os.Environ(), files+"="+strings.Join(list, " "))
	return "", fmt.Errorf("%s: %w", script, syscall.Exec(script, Args(script, os.Args), env))
}

// Args are the script's arguments for a test program's. The file that the go command wants to know for its cache of
// results can't be written in the jail.
func Args(script string, argv []string) []string {
	out := []string{script, "--read-only"}
	for _, a := range argv {
		if !strings.HasPrefix(a, "-test.testlogfile=") {
			out = append(out, a)
		}
	}
	return out
}

// open opens the files of a directory, to stay open in what is executed next.
func open(dir string) (list []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		fd, err := syscall.Open(filepath.Join(dir, e.Name()), syscall.O_RDONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name(), err)
		}
		list = append(list, e.Name()+"="+strconv.Itoa(fd))
	}
	return list, nil
}

// unpack copies them to a new directory and closes them.
func unpack(list []string) (string, error) {
	dir, err := os.MkdirTemp("", "berth-jail-")
	if err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // users of other user namespaces pass here
		return "", err
	}
	for _, l := range list {
		name, number, _ := strings.Cut(l, "=")
		fd, err := strconv.Atoi(number)
		if err != nil {
			return "", fmt.Errorf("%s: %w", files, err)
		}
		if err := place(os.NewFile(uintptr(fd), name), filepath.Join(dir, name)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func place(from *os.File, name string) error {
	defer from.Close()
	to, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// script finds hack/testns.sh above the working directory, which is the package's.
func script() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		name := filepath.Join(dir, "hack/testns.sh")
		if _, err := os.Stat(name); err == nil || dir == "/" {
			return name, err
		}
	}
}
