package hold_test

import (
	"errors"
	"reflect"
	"syscall"
	"testing"

	"github.com/berth-runtime/berth/sandbox/ns/hold"
)

func TestEnv(t *testing.T) {
	t.Parallel()
	for _, c := range []hold.Config{
		{},
		{Net: true},
		{Hostname: "a=b", Stay: true},
		{Net: true, Hostname: "h", Sysctls: []hold.Sysctl{{"net/x", "1=2 3\n"}, {"kernel/y", ""}}, Stay: true},
	} {
		if got := hold.Parse(append([]string{"PATH=/bin", "BERTH_OTHER=1"}, c.Env()...)); !reflect.DeepEqual(got, c) {
			t.Errorf("%+v, want %+v", got, c)
		}
	}
}

func TestIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		want bool
	}{
		{[]string{hold.Name}, true},
		{[]string{hold.NamePod}, true},
		{[]string{hold.Name, "x"}, false},
		{[]string{"berth-monitor"}, false},
		{nil, false},
		{[]string{hold.NameRoot}, false},
		{[]string{hold.NameRoot, "runc"}, true},
	} {
		if got := hold.Is(c.args); got != c.want {
			t.Errorf("%q: %v", c.args, got)
		}
	}
}

func TestMountsEnv(t *testing.T) {
	t.Parallel()
	m := hold.Mounts{
		Overlays: []hold.Overlay{
			{Target: "/t x", Options: []string{"lowerdir+=/a=b", "lowerdir+=/c", "volatile", "upperdir=/u"}, UserNS: "/ns/user"},
			{Target: "/v", Options: []string{"lowerdir+=/d e"}},
		},
		Binds: []hold.Bind{{FD: 3, Target: "/shm it"}},
	}
	got, rest, err := hold.ParseMounts(append(append([]string{"A=1"}, m.Env()...), "B=2"))
	if err != nil || !reflect.DeepEqual(got, m) || !reflect.DeepEqual(rest, []string{"A=1", "B=2"}) {
		t.Errorf("%+v %q %v", got, rest, err)
	}
	for _, bad := range []string{"option x", "userns /x", "bind x /y", "tmpfs /x", ""} {
		if _, _, err := hold.ParseMounts([]string{"BERTH_MOUNT_0=" + bad}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
