package plan

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		words []string
		want  options
	}{
		{[]string{"ro", "nosuid", "suid"}, options{set: unix.MOUNT_ATTR_RDONLY, clear: unix.MOUNT_ATTR_NOSUID}},
		{[]string{"ro", "rw"}, options{clear: unix.MOUNT_ATTR_RDONLY}},
		{[]string{"noatime", "strictatime"}, options{set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME}},
		{[]string{"noatime", "relatime"}, options{clear: unix.MOUNT_ATTR__ATIME}},
		{[]string{"rbind", "rro", "rslave"}, options{bind: true, recursive: true, recSet: unix.MOUNT_ATTR_RDONLY, propagation: unix.MS_SLAVE | unix.MS_REC}},
	} {
		got, err := parseOptions(c.words)
		if err != nil || got.set != c.want.set || got.clear != c.want.clear || got.recSet != c.want.recSet || got.bind != c.want.bind ||
			got.recursive != c.want.recursive || got.propagation != c.want.propagation || len(got.data) != 0 {
			t.Errorf("%v: %+v, want %+v (%v)", c.words, got, c.want, err)
		}
	}
	if o, _ := parseOptions([]string{"size=1k", "mode=755", "defaults"}); len(o.data) != 2 {
		t.Errorf("data %v", o.data)
	}
}

func TestSysctlPath(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"net.ipv4.ip_forward": "net/ipv4/ip_forward", "net/ipv4/conf/eth0.1/x": "net/ipv4/conf/eth0.1/x",
		"net.ipv4.conf.eth0/1.x": "net/ipv4/conf/eth0.1/x", "plain": "plain"} {
		if got := sysctlPath(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}
