package core

import (
	"syscall"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// A pod's containers share /dev/shm, however many they are, whenever they were made, and whichever of them are left.
func TestShm(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	for name, userns := range map[string]bool{"host-users": false, "own-users": true} {
		t.Run(name, func(t *testing.T) {
			cfg := harness.PodConfig("shm-"+name, n.Dir)
			if userns {
				m := []*rt.IDMapping{{HostId: 200000, Length: 65536}}
				cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &rt.UserNamespace{Mode: rt.NamespaceMode_POD, Uids: m, Gids: m}
			}
			p := n.Run(t, cfg)
			start := func(name, text string) string {
				c := harness.Command(name, "echo "+text+" >/dev/shm/"+name+"; sleep 1000")
				c.Linux.SecurityContext.NamespaceOptions = cfg.Linux.SecurityContext.NamespaceOptions
				return p.Start(c)
			}
			first, second := start("first", "1"), start("second", "2")
			harness.Eventually(t, harness.Patience, "both have written", func() bool {
				return n.Exec(t, first, "sh", "-c", "cat /dev/shm/*") == "1\n2\n"
			})
			if err := n.Kill(syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if err := n.Launch(); err != nil {
				t.Fatal(err)
			}
			if err := n.Runtime.StopContainer(t.Context(), first, 0); err != nil {
				t.Fatal(err)
			}
			third := start("third", "3")
			harness.Eventually(t, harness.Patience, "the third has written", func() bool {
				return n.Exec(t, second, "sh", "-c", "cat /dev/shm/*") == "1\n2\n3\n"
			})
			want := "tmpfs 1777 0 0\nrw,nosuid,nodev,noexec\n"
			script := `stat -f -c %T /dev/shm | tr '\n' ' '; stat -c '%a %u %g' /dev/shm; awk '$5=="/dev/shm"{print $6}' /proc/self/mountinfo | sed s/,relatime//`
			if got := n.Exec(t, third, "sh", "-c", script); got != want {
				t.Errorf("/dev/shm is %q, want %q", got, want)
			}
		})
	}
}
