package bridge

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/version"
)

// Main does what the environment and stdin say, prints the answer and, on error, ends the process with status 1.
func Main(buildVersion string) {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: collect, Status: status},
		version.PluginSupports("0.3.1", "0.4.0", "1.0.0", "1.1.0"), "CNI plugin berth-bridge "+buildVersion)
}

// setSysctl writes a sysctl unless it has the value already.
func setSysctl(name, value string) error {
	path := "/proc/sys/" + name
	b, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("sysctl %s: %w", name, errors.Unwrap(err))
	}
	if strings.TrimSpace(string(b)) == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

// bootID names the boot: what a lease of another boot had in the kernel is gone.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
