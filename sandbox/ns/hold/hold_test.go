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
	} {
		if got := hold.Is(c.args); got != c.want {
			t.Errorf("%q: %v", c.args, got)
		}
	}
}
