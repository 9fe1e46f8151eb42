// Package apparmor loads the profile that containers get by default on a host
// with AppArmor.
//
// The kernel takes policy in a binary form that depends on what it mediates;
// only AppArmor's own compiler writes it, so apparmor_parser(8) is executed.
// A profile is the kernel's until somebody removes it: one load when the daemon
// starts is enough, and replaces the one that an older version of us loaded.
// Containers that run under the old one are under the new one from then on.
package apparmor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Enabled reports whether the kernel has AppArmor and it is on.
func Enabled() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && bytes.HasPrefix(b, []byte("Y"))
}

// Parser finds the compiler where distributions have it: a unit's PATH may lack
// that directory. Where it is not installed the error wraps
// errors.ErrUnsupported.
func Parser() (string, error) {
	for _, p := range []string{"/sbin/apparmor_parser", "/usr/sbin/apparmor_parser"} {
		if _, err := os.Stat(p); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("apparmor_parser is not installed: %w", errors.ErrUnsupported)
}

// loadTimeout bounds the compiler, which needs a tenth of a second.
const loadTimeout = time.Minute

// Load compiles the default profile under the given name and puts it into the
// kernel, in place of one of that name.
func Load(ctx context.Context, name string) error {
	parser, err := Parser()
	if err != nil {
		return fmt.Errorf("load AppArmor profile %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, loadTimeout)
	defer cancel()
	// --skip-cache: the cache is keyed by files, and standard input is none.
	cmd := exec.CommandContext(ctx, parser, "--replace", "--skip-cache", "--quiet")
	cmd.Stdin = strings.NewReader(Profile(name))
	cmd.Env = []string{"LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("load AppArmor profile %s: %w: %s", name, err, bytes.TrimSpace(out))
	}
	return nil
}
