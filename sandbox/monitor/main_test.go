package monitor_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// bin has the programs the tests run: the real monitor, and a stand-in for OCI runtimes and payloads. Written by TestMain only.
var bin struct{ dir, monitor, oci string }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "berth-monitor-test")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755)
		bin.dir, bin.monitor, bin.oci = dir, filepath.Join(dir, "berth-monitor"), filepath.Join(dir, "fakeoci")
		for out, pkg := range map[string]string{bin.monitor: "../../cmd/berth-monitor", bin.oci: "./testdata/fakeoci"} {
			c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, pkg)
			c.Env = append(os.Environ(), "CGO_ENABLED=0")
			if text, err := c.CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, text)
				return 1
			}
		}
		return m.Run()
	}())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a file system")
	}
}

// start starts a monitor in a directory of its own and sees to its end.
func start(t *testing.T) (*monitor.Monitor, string) {
	t.Helper()
	dir := t.TempDir()
	m, err := monitor.Start(t.Context(), monitor.Config{Bin: bin.monitor, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { end(t, m, dir) })
	return m, dir
}

// end shuts the monitor of dir down, whoever is connected, and looks that nothing is left of it.
func end(t *testing.T, m *monitor.Monitor, dir string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := m.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if held, err := monitor.Held(dir); err != nil || held {
		m2, err := monitor.Connect(ctx, dir)
		if err == nil {
			err = m2.Shutdown(ctx)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("shutdown of the reconnected: %v", err)
		}
	}
	eventually(t, "lock is free", func() bool { held, err := monitor.Held(dir); return err == nil && !held })
}

// patience is how long a test waits for what has to come: far more than a busy machine needs.
const patience = time.Minute

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for begin := time.Now(); time.Since(begin) < patience; time.Sleep(10 * time.Millisecond) {
		if cond() {
			return
		}
	}
	t.Errorf("not within %v: %s", patience, what)
}

// spawn is a container that a fake runtime creates. The runtime stays for delay milliseconds after that, or until the
// file of that name is there.
func spawn(dir, id string, delay any, payload ...string) wire.Spawn {
	return wire.Spawn{
		ID: id, Dir: dir, PidFile: filepath.Join(dir, id+".pid"), Log: filepath.Join(dir, "logs", id, "0.log"),
		ExitFile: filepath.Join(dir, id+".exit"), Timeout: patience.Milliseconds(),
		Argv: append([]string{bin.oci, "create", filepath.Join(dir, id+".pid"), fmt.Sprint(delay)}, payload...),
		Env:  []string{"PATH=/usr/bin:/bin"},
	}
}

// plain is a process without a runtime.
func plain(dir, id string, payload ...string) wire.Spawn {
	s := spawn(dir, id, 0)
	s.PidFile, s.Argv = "", append([]string{bin.oci}, payload...)
	return s
}

func run(t *testing.T, m *monitor.Monitor, s wire.Spawn) wire.Spawned {
	t.Helper()
	got, files, err := m.Run(t.Context(), s, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Pid <= 0 || len(files) != 0 {
		t.Fatalf("spawned %+v with %d files", got, len(files))
	}
	return got
}

func waitExit(t *testing.T, m *monitor.Monitor, id string) wire.Exit {
	t.Helper()
	for {
		select {
		case x, ok := <-m.Exits():
			if !ok {
				t.Fatalf("connection ended before the exit of %s", id)
			}
			if x.ID == id {
				return x
			}
		case <-time.After(patience):
			t.Fatalf("no exit of %s", id)
		}
	}
}

func exitFile(t *testing.T, path string) wire.Exit {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var x wire.Exit
	if err = json.Unmarshal(b, &x); err != nil {
		t.Fatalf("%s: %v in %q", path, err, b)
	}
	return x
}

var logLine = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) (.*)$`)

// readLog gives the content of each stream, with a newline after each F.
func readLog(t *testing.T, path string) (out, err string) {
	t.Helper()
	f, e := os.Open(path)
	if e != nil {
		t.Fatal(e)
	}
	defer f.Close()
	var text [2]strings.Builder
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	sc.Split(splitLF)
	for sc.Scan() {
		m := logLine.FindStringSubmatch(sc.Text())
		if m == nil {
			t.Fatalf("%s: line %q", path, sc.Text())
		}
		b := &text[0]
		if m[1] == "stderr" {
			b = &text[1]
		}
		b.WriteString(m[3])
		if m[2] == "F" {
			b.WriteByte('\n')
		}
	}
	return text[0].String(), text[1].String()
}

// splitLF is bufio.ScanLines that leaves "\r" where it is.
func splitLF(data []byte, _ bool) (int, []byte, error) {
	if i := strings.IndexByte(string(data), '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	return 0, nil, nil
}
