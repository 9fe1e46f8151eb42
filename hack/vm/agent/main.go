// Agent is the part of a virtual node that is ours. It is one static program with two lives:
//
//   - as process 1 of the initramfs it loads the modules of the disks, mounts the root file system and the payload
//     disks, and makes systemd process 1 in its place (boot.go);
//   - as a service of systemd's it gives eth0 its address and runs what the host asks for (serve.go).
package main

import (
	"fmt"
	"os"
	"strings"
)

func main() {
	run := serve
	if os.Getpid() == 1 {
		run = boot
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "vm agent:", err)
		os.Exit(1)
	}
}

// words are the kernel command line's "vm.NAME=VALUE"s.
func words() (map[string]string, error) {
	b, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	m := map[string]string{}
	for w := range strings.FieldsSeq(string(b)) {
		if name, value, ok := strings.Cut(w, "="); ok && strings.HasPrefix(name, "vm.") {
			m[strings.TrimPrefix(name, "vm.")] = value
		}
	}
	return m, nil
}
