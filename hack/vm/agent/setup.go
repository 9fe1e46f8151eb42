package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// masked are systemd's units that a test node has no use for; without them, and without KVM, it is up in 10 seconds
// rather than 40. AppArmor stays on in the kernel: only Debian's own set of profiles isn't loaded (18 s). udev
// answers events but does not replay those of the boot.
const masked = `
apparmor.service systemd-udev-trigger.service systemd-udev-settle.service systemd-udev-load-credentials.service
systemd-hwdb-update.service kmod-static-nodes.service systemd-tmpfiles-setup-dev.service systemd-tmpfiles-setup-dev-early.service
modprobe@.service systemd-remount-fs.service systemd-network-generator.service systemd-networkd.service
systemd-logind.service getty.target serial-getty@ttyS0.service systemd-journal-flush.service
systemd-journal-catalog-update.service systemd-hostnamed.socket systemd-timesyncd.service systemd-firstboot.service
systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-random-seed.service systemd-pstore.service
systemd-binfmt.service systemd-machine-id-commit.service systemd-sysusers.service systemd-update-done.service
systemd-pcrphase.service systemd-pcrphase-sysinit.service systemd-tpm2-setup.service systemd-tpm2-setup-early.service
systemd-boot-random-seed.service systemd-boot-update.service ldconfig.service e2scrub_reap.service nftables.service
networking.service systemd-ask-password-wall.path systemd-ask-password-console.path systemd-modules-load.service
apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-tmpfiles-clean.timer
systemd-quotacheck-root.service systemd-quotacheck.service sys-kernel-debug.mount sys-kernel-tracing.mount dev-hugepages.mount
systemd-creds.socket systemd-mute-console.socket systemd-bootctl.socket systemd-sysext.socket
`

// files of every node; the unit starts this program in its second life.
var files = map[string]string{
	"etc/machine-id": "6ba7b8109dad11d180b400c04fd430c8\n",
	"etc/hostname":   "vm\n",
	"etc/hosts":      "127.0.0.1 localhost\n::1 localhost\n127.0.1.1 vm\n",
	"etc/systemd/journald.conf.d/vm.conf": `[Journal]
Storage=volatile
RateLimitIntervalSec=0
RuntimeMaxUse=128M
`,
	// On a host that is busy, without KVM, a second in here is not much: nothing is given up for being slow.
	"etc/systemd/system.conf.d/vm.conf": `[Manager]
DefaultTimeoutStartSec=10min
DefaultTimeoutStopSec=10min
`,
	"etc/systemd/system/systemd-journald.service.d/vm.conf": "[Service]\nWatchdogSec=0\n",
	"etc/systemd/system/systemd-udevd.service.d/vm.conf":    "[Service]\nWatchdogSec=0\n",
	"etc/systemd/system/vm-agent.service": `[Unit]
Description=Runs what the host asks for
DefaultDependencies=no
After=sysinit.target dbus.socket

[Service]
ExecStart=/run/vm/agent
Delegate=yes
KillMode=process
LimitNOFILE=1048576
LimitMEMLOCK=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
`,
}

// setup makes the root file system below dir a node's. A node that is booted again has it already.
func setup(dir string) error {
	system := filepath.Join(dir, "etc/systemd/system")
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	links := map[string]string{
		system + "/default.target":                           "/usr/lib/systemd/system/multi-user.target",
		system + "/multi-user.target.wants/vm-agent.service": "../vm-agent.service",
	}
	for unit := range strings.FieldsSeq(masked) {
		links[filepath.Join(system, unit)] = "/dev/null"
	}
	for path, target := range links {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	return nil
}
