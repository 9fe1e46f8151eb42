package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mkdirs makes the group's directories and reports whether it made them all.
func mkdirs(g *Group) (bool, error) {
	made := true
	for _, d := range g.dirs {
		fresh, err := mkdir(d.path)
		if err != nil {
			return false, err
		}
		made = made && fresh
		switch {
		case d.v2:
			// Stats and limits want these; what an ancestor refuses (it has
			// processes of its own, or lacks the controller) Set reports by name.
			enable(&d, "cpu", "memory", "pids", "io")
		case d.hierarchy == g.lay.tree("cpuset"):
			if err := fillCpuset(d.path, d.dir); err != nil {
				return false, err
			}
		}
	}
	return made, nil
}

// mkdir makes one directory, its parents only when they are missing.
func mkdir(p string) (bool, error) {
	err := unix.Mkdir(p, 0o755)
	if err == unix.ENOENT {
		if err := os.MkdirAll(path.Dir(p), 0o755); err != nil {
			return false, err
		}
		err = unix.Mkdir(p, 0o755)
	}
	if err == unix.EEXIST {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "mkdir", Path: p, Err: err}
	}
	return true, nil
}

// fillCpuset copies cpus and mems down from the nearest ancestor that has
// them: a v1 cpuset begins empty, and an empty one takes no tasks (cpuset(7)).
func fillCpuset(p, root string) error {
	for _, f := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		if _, err := inherit(p, root, f); err != nil {
			return err
		}
	}
	return nil
}

func inherit(p, root, file string) (string, error) {
	b, err := os.ReadFile(p + file)
	if err != nil {
		return "", err
	}
	v := strings.TrimSpace(string(b))
	if v != "" || p == root {
		return v, nil
	}
	v, err = inherit(path.Dir(p), root, file)
	if err != nil || v == "" {
		return v, err
	}
	return v, writeFile(p+file, v)
}

// enable turns controllers on for a cgroup2 directory, that is in the
// subtree_control of all its ancestors, top down, where they are not on yet.
// It returns the first refusal and goes on with the other controllers.
func enable(d *dir, controllers ...string) error {
	var first error
	for _, c := range controllers {
		if !contains(d.names, c) || hasField(d.path+"/cgroup.controllers", c) {
			continue
		}
		at := d.dir
		for part := range strings.SplitSeq(strings.TrimPrefix(d.path, d.dir+"/"), "/") {
			if !hasField(at+"/cgroup.subtree_control", c) {
				if err := writeFile(at+"/cgroup.subtree_control", "+"+c); err != nil {
					first = errors.Join(first, fmt.Errorf("enable %s: %w", c, err))
					break
				}
			}
			at += "/" + part
		}
	}
	return first
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func hasField(file, want string) bool {
	b, _ := os.ReadFile(file)
	return contains(strings.Fields(string(b)), want)
}

// patience is how long Remove waits for processes to leave a directory: a
// killed one does so only when it has been given a processor to end on.
const patience = 4 * time.Second

// Remove removes the group's directories with everything below them, and its
// systemd unit. What is already gone counts as removed. A directory that is
// still busy is tried again for some seconds or until ctx ends.
func (g *Group) Remove(ctx context.Context) error { return remove(ctx, g, patience) }

// Destroy removes a group with whoever is in it, as often as somebody comes:
// a runtime program that lost its parent may be about to put a process there.
// It returns nil when there is no such group, or why not when ctx ends.
func Destroy(ctx context.Context, g *Group) error {
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, patience) {
		if err := g.Kill(ctx); err != nil {
			return err
		}
		err := remove(ctx, g, wait)
		if err == nil || ctx.Err() != nil || !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
}

func remove(ctx context.Context, g *Group, patience time.Duration) error {
	g.Close()
	g.Settle()
	if err := stopScope(g, ctx); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.path, err)
	}
	var errs []error
	until := time.Now().Add(patience)
	for i := len(g.dirs) - 1; i >= 0; i-- {
		if d := g.dirs[i]; d.own {
			errs = append(errs, removeTree(ctx, d.path, until))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", g.path, err)
	}
	return nil
}

func removeTree(ctx context.Context, p string, until time.Time) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 256*time.Millisecond) {
		err := unix.Rmdir(p)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if err != unix.EBUSY && err != unix.EINTR {
			return &fs.PathError{Op: "rmdir", Path: p, Err: err}
		}
		for _, c := range children(p) {
			if err := removeTree(ctx, c, until); err != nil {
				return err
			}
		}
		if unix.Rmdir(p) == nil {
			return nil
		}
		if time.Now().After(until) {
			return &fs.PathError{Op: "rmdir", Path: p, Err: unix.EBUSY}
		}
		if err := sleep(ctx, wait); err != nil {
			return &fs.PathError{Op: "rmdir", Path: p, Err: errors.Join(unix.EBUSY, err)}
		}
	}
}

// children lists the directories directly below p. The link count of a cgroup
// directory is two more than that (kernfs), so the common case is one stat.
func children(p string) []string {
	var st unix.Stat_t
	if unix.Stat(p, &st) != nil || st.Nlink == 2 {
		return nil
	}
	list, _ := os.ReadDir(p)
	var dirs []string
	for _, e := range list {
		if e.IsDir() {
			dirs = append(dirs, p+"/"+e.Name())
		}
	}
	return dirs
}

// sleep waits, or returns why ctx ended.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// writeFile writes a control file in one write(2), without creating it.
func writeFile(name, value string) error {
	fd, err := unix.Open(name, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	for {
		_, err = unix.Write(fd, []byte(value))
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return &fs.PathError{Op: fmt.Sprintf("write %q", value), Path: name, Err: err}
	}
	return nil
}

// Delegate gives a group of the cgroup2 tree to a user, who may make groups below it and move processes among them, but
// not change its own limits (cgroup-v2, "Delegation"; OCI runtime specification, "Cgroup ownership"). It does nothing on
// v1, where delegation is not safe, nor to a hybrid host's cgroup2 tree.
func Delegate(g *Group, uid int) error {
	if g.lay.mode != Unified {
		return nil
	}
	for _, d := range g.dirs {
		if !d.own {
			continue
		}
		if err := delegate(d.path, "/sys/kernel/cgroup/delegate", uid); err != nil {
			return fmt.Errorf("delegate cgroup %s: %w", g.path, err)
		}
	}
	return nil
}

// delegate changes the owner of a directory and of the files listed; groups may lack some.
func delegate(dir, list string, uid int) error {
	if err := os.Chown(dir, uid, -1); err != nil {
		return err
	}
	files := []string{"cgroup.procs", "cgroup.subtree_control", "cgroup.threads"}
	if text, err := os.ReadFile(list); err == nil {
		files = strings.Fields(string(text))
	}
	for _, name := range files {
		if strings.ContainsRune(name, '/') {
			continue
		}
		if err := os.Chown(dir+"/"+name, uid, -1); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
