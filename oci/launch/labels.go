package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
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

// profiles is a list of AppArmor's loaded profiles, "NAME (MODE)" a line.
const profiles = "/sys/kernel/security/apparmor/profiles"

// profileLoaded refuses a container whose AppArmor profile the kernel does not have. The init would be told so when it
// asks for the profile, but that is at `start`, and whoever creates a container that can't run should know it at once.
// Where the list can't be read (securityfs is not mounted) it is left at that.
func profileLoaded(list, name string) error {
	if name == "" || name == "unconfined" {
		return nil
	}
	text, err := os.ReadFile(list)
	if err != nil {
		return nil
	}
	for line := range bytes.Lines(text) {
		// A name may have blanks itself.
		if end := bytes.LastIndex(line, []byte(" (")); end >= 0 && string(line[:end]) == name {
			return nil
		}
	}
	return fmt.Errorf("AppArmor profile %s is not loaded: %w", name, fs.ErrNotExist)
}
