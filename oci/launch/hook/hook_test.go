package hook_test

import (
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/oci/launch/hook"
)

func sh(script string) hook.Hook {
	return hook.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

func TestRun(t *testing.T) {
	t.Parallel()
	file := t.TempDir() + "/f"
	h := sh("cat > " + file + "; echo $A >> " + file)
	h.Env = []string{"A=b"}
	if err := h.Run([]byte("{}\n")); err != nil {
		t.Fatal(err)
	}
	if text, _ := os.ReadFile(file); string(text) != "{}\nb\n" {
		t.Errorf("%q", text)
	}
	if err := sh("echo because >&2; exit 3").Run(nil); err == nil || !strings.Contains(err.Error(), "exit status 3: because") {
		t.Errorf("%v", err)
	}
	if err := (hook.Hook{Path: "/absent"}).Run(nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// A hook that neither reads nor ends is killed, and one that leaves a child with its output does not hold us up.
func TestTimeout(t *testing.T) {
	t.Parallel()
	h := hook.Hook{Path: "/bin/sleep", Args: []string{"sleep", "60"}, Timeout: 50 * time.Millisecond}
	if err := h.Run(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	begin := time.Now()
	if err := sh("sleep 60 & exit 0").Run(nil); err != nil || time.Since(begin) > 30*time.Second {
		t.Errorf("%v after %v", err, time.Since(begin))
	}
}

func TestStep(t *testing.T) {
	t.Parallel()
	want := hook.Hook{Path: "/p", Args: []string{"a", ""}, Env: []string{"E=1"}, Timeout: time.Second}
	s := want.Step([]byte("state"))
	if got := hook.FromStep(&s); !reflect.DeepEqual(got, want) || s.Data != "state" {
		t.Errorf("%+v %+v", got, s)
	}
}
