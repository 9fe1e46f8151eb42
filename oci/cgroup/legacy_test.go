package cgroup

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"testing"
	"time"
)

// TestKillWithoutUnified kills with the v1 freezer alone: a group of which the
// cgroup2 tree is hidden, with a frozen child group and processes that fork.
func TestKillWithoutUnified(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	real, err := host()
	if err != nil || real.tree("freezer") == nil || real.tree("freezer").v2 {
		t.Skip("needs the v1 freezer")
	}
	l := &layout{mode: Legacy}
	for _, h := range real.trees {
		if !h.v2 {
			l.trees = append(l.trees, h)
		}
	}
	g := &Group{path: "/berth-test-" + rand.Text(), lay: l}
	for i := range l.trees {
		g.dirs = append(g.dirs, dir{hierarchy: &l.trees[i], path: l.trees[i].dir + g.path, own: true})
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := mkdirs(g); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(g.Kill(ctx), g.Remove(ctx)); err != nil {
			t.Error(err)
		}
	}()
	sub, err := g.Sub("exec")
	if err != nil {
		t.Fatal(err)
	}
	if d := sub.Dirs(); len(d) != 1 || d["freezer"] == "" {
		t.Errorf("directories of a sub group: %v", d)
	}
	start := func(g *Group, script string) {
		c := exec.Command("/bin/bash", "-c", "read; "+script)
		in, err := c.StdinPipe()
		if err == nil {
			err = c.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
		if err := g.Add(c.Process.Pid); err != nil {
			t.Fatal(err)
		}
		in.Close() // and off it goes
	}
	start(g, "while :; do (:); done")
	start(g, "sleep 100 & sleep 100; :")
	start(sub, "sleep 100 & sleep 100; :")
	if err := sub.Freeze(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.Kill(ctx); err != nil {
		t.Fatal(err)
	}
	if left, err := g.Procs(); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := g.Remove(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(g.dirs[0].path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
