package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Environment of the process that stands in for the runtime.
const (
	shimRuntime  = "OCITEST_RUNTIME"
	shimRoot     = "OCITEST_ROOT"
	shimReleased = "OCITEST_RELEASED"
	shimCorrect  = "OCITEST_CORRECT"
)

// today are system calls that Linux got, or that programs began to rely on, after the suite's profile was written.
// The list is that of the default profile of moby v28 less what is in the old one and what needs a capability.
var today = []string{
	"clone3", "close_range", "copy_file_range", "epoll_pwait2", "faccessat2", "fchmodat2", "fsconfig", "fsmount", "fsopen", "fspick",
	"futex_requeue", "futex_wait", "futex_waitv", "futex_wake", "getrandom", "io_pgetevents", "landlock_add_rule",
	"landlock_create_ruleset", "landlock_restrict_self", "listmount", "membarrier", "memfd_create", "memfd_secret", "mount_setattr",
	"move_mount", "mseal", "open_tree", "openat2", "pidfd_getfd", "pidfd_open", "pidfd_send_signal", "pkey_alloc", "pkey_free",
	"pkey_mprotect", "preadv2", "process_mrelease", "pwritev2", "rseq", "sched_getattr", "sched_setattr", "statmount", "statx",
}

// shim is called in place of the runtime: it puts --root before the arguments, makes the configuration one that can be
// run today and here, and becomes the runtime. It returns only with an error.
func shim(args []string) error {
	runtime, root := os.Getenv(shimRuntime), os.Getenv(shimRoot)
	if slices.Contains(args, "create") && os.Getenv(shimReleased) == "" {
		if i := slices.Index(args, "--bundle"); i >= 0 && i+1 < len(args) {
			name := filepath.Join(args[i+1], "config.json")
			changes := []func(document) error{allow, confine}
			if os.Getenv(shimCorrect) != "" {
				changes = append(changes, binds)
			}
			for _, change := range changes {
				if err := edit(name, change); err != nil && !os.IsNotExist(err) {
					return err
				}
			}
		}
	}
	for _, name := range []string{shimRuntime, shimRoot, shimReleased, shimCorrect} {
		os.Unsetenv(name)
	}
	argv := append([]string{runtime, "--root", root}, args...)
	return fmt.Errorf("exec %s: %w", runtime, syscall.Exec(runtime, argv, os.Environ()))
}

// document is a JSON object whose members are kept as they are written.
type document map[string]json.RawMessage

// within has change work on the object at path, and puts the result back.
func (d document) within(path []string, change func(document) error) error {
	if len(path) == 0 {
		return change(d)
	}
	var inner document
	if json.Unmarshal(d[path[0]], &inner) != nil || inner == nil {
		return nil // missing, or broken on purpose: the runtime is to see it
	}
	if err := inner.within(path[1:], change); err != nil {
		return err
	}
	return d.set(path[0], inner)
}

func (d document) set(key string, value any) (err error) {
	d[key], err = json.Marshal(value)
	return err
}

// edit changes a file that holds a document, if there is something to change in it.
func edit(name string, change func(document) error) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	var d document
	if json.Unmarshal(text, &d) != nil {
		return nil
	}
	if err := change(d); err != nil {
		return err
	}
	if text, err = json.Marshal(d); err != nil {
		return err
	}
	return os.WriteFile(name, text, 0o644)
}

// allow adds today's system calls to a profile that lists what is allowed.
func allow(config document) error {
	return config.within([]string{"linux", "seccomp"}, func(profile document) error {
		var rules []json.RawMessage
		if string(profile["defaultAction"]) != `"SCMP_ACT_ERRNO"` || json.Unmarshal(profile["syscalls"], &rules) != nil {
			return nil
		}
		rule, err := json.Marshal(map[string]any{"names": today, "action": "SCMP_ACT_ALLOW"})
		if err != nil {
			return err
		}
		return profile.set("syscalls", append(rules, rule))
	})
}

// confine takes capabilities that this machine does not have out of the sets, as callers of runtimes do: asked for them
// every runtime gives up.
func confine(config document) error {
	return config.within([]string{"process", "capabilities"}, func(sets document) error {
		for name, raw := range sets {
			var list []string
			if json.Unmarshal(raw, &list) != nil {
				continue
			}
			list = slices.DeleteFunc(list, func(c string) bool { return c == "CAP_SYS_RESOURCE" && !sysResource() })
			if err := sets.set(name, list); err != nil {
				return err
			}
		}
		return nil
	})
}

// binds takes mode= and size=, which are of tmpfs, off bind mounts.
func binds(config document) error {
	var mounts []document
	if json.Unmarshal(config["mounts"], &mounts) != nil {
		return nil
	}
	for _, m := range mounts {
		var options []string
		if json.Unmarshal(m["options"], &options) != nil || !slices.Contains(options, "bind") && !slices.Contains(options, "rbind") {
			continue
		}
		options = slices.DeleteFunc(options, func(o string) bool { return strings.HasPrefix(o, "mode=") || strings.HasPrefix(o, "size=") })
		if err := m.set("options", options); err != nil {
			return err
		}
	}
	return config.set("mounts", mounts)
}

// sysResource tells whether this process has CAP_SYS_RESOURCE (24, linux/capability.h), the one that machines for tests
// tend to lack.
func sysResource() bool {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(status), "CapEff:")
	caps, err := strconv.ParseUint(strings.TrimSpace(firstLine(after)), 16, 64)
	return err == nil && caps&(1<<24) != 0
}
