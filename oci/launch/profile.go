package launch

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
)

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
