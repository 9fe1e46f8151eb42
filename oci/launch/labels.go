package launch

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// checkLabels refuses what a security module of the kernel would have to enforce that is not on: a container that
// believes itself confined must not run without.
func checkLabels(p *specs.Process, mountLabel string) error {
	refuse := func(field, value, module string) error {
		return fmt.Errorf("config.json: %s %q: %s is not enabled in this kernel: %w", field, value, module, errors.ErrUnsupported)
	}
	if p.ApparmorProfile != "" {
		text, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
		if !strings.HasPrefix(string(text), "Y") {
			return refuse("process.apparmorProfile", p.ApparmorProfile, "AppArmor")
		}
		if err := profileLoaded(profiles, p.ApparmorProfile); err != nil {
			return err
		}
	}
	for _, label := range [...][2]string{{"process.selinuxLabel", p.SelinuxLabel}, {"linux.mountLabel", mountLabel}} {
		if label[1] == "" {
			continue
		}
		if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
			return refuse(label[0], label[1], "SELinux")
		}
	}
	return nil
}
