package monitor_test

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

func TestReopen(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := spawn(dir, "r", 0, "tick")
	run(t, m, s)
	var old []string
	for range 3 {
		hasLines(t, s.Log)
		name := s.Log + "." + strconv.Itoa(len(old))
		if err := os.Rename(s.Log, name); err != nil {
			t.Fatal(err)
		}
		if err := m.ReopenLog(t.Context(), "r"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(s.Log); err != nil {
			t.Error(err)
		}
		old = append(old, name)
	}
	// A reopen that can't be done makes nothing and loses nothing.
	keep := s.Log + ".keep"
	os.Rename(s.Log, keep)
	os.Symlink(filepath.Join(dir, "elsewhere"), s.Log)
	if err := m.ReopenLog(t.Context(), "r"); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
	os.Remove(s.Log)
	if err := syscall.Mkfifo(s.Log, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := m.ReopenLog(t.Context(), "r"); err == nil {
		t.Error("reopened a fifo")
	}
	os.Remove(s.Log)
	os.Rename(keep, s.Log)
	hasLines(t, s.Log)
	m.Signal(t.Context(), "r", syscall.SIGTERM)
	waitExit(t, m, "r")
	var all strings.Builder
	for _, name := range append(old, s.Log) {
		out, _ := readLog(t, name)
		if out == "" {
			t.Errorf("%s is empty", name)
		}
		all.WriteString(out)
	}
	for i, l := range strings.Fields(all.String()) {
		if l != strconv.Itoa(i) {
			t.Fatalf("line %d is %q", i, l)
		}
	}
	if err := m.ReopenLog(t.Context(), "r"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reopen of the dead: %v", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "elsewhere")); err == nil {
		t.Error("a file was made through a link")
	}
}

// hasLines waits until something is logged.
func hasLines(t *testing.T, path string) {
	t.Helper()
	eventually(t, path+" has lines", func() bool { st, err := os.Stat(path); return err == nil && st.Size() > 0 })
}

// A log on a full disk is dropped; the container goes on, and so does the log when there is room.
func TestLogDiskFull(t *testing.T) {
	needRoot(t)
	t.Parallel()
	m, dir := start(t)
	disk := filepath.Join(dir, "disk")
	os.Mkdir(disk, 0o755)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(disk, syscall.MNT_DETACH) })
	s := plain(dir, "d", "gate", "1000", "1000", "1000", "1000", "20")
	s.Log, s.Stdin = filepath.Join(disk, "0.log"), true
	run(t, m, s)
	c := attach(t, m, "d")
	for range 4 {
		io.WriteString(c.in, "go\n")
		if n, err := io.CopyN(io.Discard, c.out, 1000*129); err != nil {
			t.Fatalf("client got %d bytes: %v", n, err)
		}
	}
	if st, err := os.Stat(s.Log); err != nil || st.Size() > 256<<10 {
		t.Fatal(st.Size(), err)
	}
	os.Truncate(s.Log, 1000) // in the middle of a line
	io.WriteString(c.in, "go\n")
	waitExit(t, m, "d")
	b, _ := os.ReadFile(s.Log)
	lines := strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
	for _, l := range lines[len(lines)-20:] {
		if !logLine.MatchString(l) {
			t.Errorf("line %q", l)
		}
	}
}
