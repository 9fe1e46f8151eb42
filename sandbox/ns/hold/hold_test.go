package hold_test

import (
	"reflect"
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

func TestOverlayEnv(t *testing.T) {
	t.Parallel()
	o := hold.Overlay{Target: "/t", Options: []string{"lowerdir+=/a=b", "lowerdir+=/c", "volatile", "upperdir=/u"}}
	got, rest := hold.ParseOverlay(append(append([]string{"A=1"}, o.Env()...), "B=2"))
	if !reflect.DeepEqual(got, o) || !reflect.DeepEqual(rest, []string{"A=1", "B=2"}) {
		t.Errorf("%+v %q", got, rest)
	}
}
