package monitor_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-runtime/berth/sandbox/monitor"
)

// pipe gives two ends that the test closes.
func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// nullFiles is standard input and output for those who want none.
func nullFiles(t *testing.T) []*os.File {
	t.Helper()
	f, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return []*os.File{f, f, f}
}

// client is an attached client.
type client struct {
	in       *os.File
	out, err *bufio.Reader
}

// attach attaches to id.
func attach(t *testing.T, m *monitor.Monitor, id string) client {
	t.Helper()
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	errR, errW := pipe(t)
	if err := m.AttachIO(t.Context(), id, inR, outW, errW); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	errW.Close()
	return client{inW, bufio.NewReaderSize(outR, 64<<10), bufio.NewReader(errR)}
}

func (c client) line(t *testing.T) string {
	t.Helper()
	s, err := c.out.ReadString('\n')
	if err != nil {
		t.Errorf("client read %q: %v", s, err)
	}
	return s
}

func TestPassIO(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	for _, runtime := range []bool{true, false} {
		id := "x" + strconv.FormatBool(runtime)
		s := plain(dir, id, "cat")
		if runtime {
			s = spawn(dir, id, 0, "cat")
		}
		s.PassIO, s.Log, s.ExitFile = true, "", ""
		inR, inW := pipe(t)
		outR, outW := pipe(t)
		if _, _, err := m.Run(t.Context(), s, []*os.File{inR, outW, outW}); err != nil {
			t.Fatal(err)
		}
		inR.Close()
		outW.Close()
		io.WriteString(inW, "hello\n")
		inW.Close()
		// End of file comes because the monitor kept no copy.
		if b, err := io.ReadAll(outR); string(b) != "hello\neof\n" || err != nil {
			t.Errorf("%q %v", b, err)
		}
		if x := waitExit(t, m, id); x.Code != 0 {
			t.Errorf("%+v", x)
		}
	}
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	for _, runtime := range []bool{true, false} {
		id := "t" + strconv.FormatBool(runtime)
		s := plain(dir, id, "cat")
		if runtime {
			s = spawn(dir, id, 0)
			s.ConsoleSocket = "console"
			s.Argv = []string{bin.oci, "create-tty", s.PidFile, filepath.Join(dir, "console"), "cat"}
		}
		s.TTY, s.Stdin = true, true
		run(t, m, s)
		c := attach(t, m, id)
		if err := m.Resize(t.Context(), id, 99, 44); err != nil {
			t.Error(err)
		}
		io.WriteString(c.in, "hello\n")
		if echo, line := c.line(t), c.line(t); echo != "hello\r\n" || line != "hello\r\n" {
			t.Errorf("%q %q", echo, line)
		}
		io.WriteString(c.in, "\x04") // the terminal's end of file
		if line := c.line(t); line != "eof\r\n" {
			t.Errorf("%q", line)
		}
		if b, err := io.ReadAll(c.out); len(b) != 0 || err != nil {
			t.Errorf("%q %v", b, err)
		}
		waitExit(t, m, id)
		if out, err := readLog(t, s.Log); out != "hello\r\nhello\r\neof\r\n" || err != "" {
			t.Errorf("log %q %q", out, err)
		}
		if _, err := os.Lstat(filepath.Join(dir, "console")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("console socket: %v", err)
		}
	}
}

func TestTerminalPassed(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	for _, runtime := range []bool{true, false} {
		id := "p" + strconv.FormatBool(runtime)
		s := plain(dir, id, "sleep")
		if runtime {
			s = spawn(dir, id, 0)
			s.ConsoleSocket = "console"
			s.Argv = []string{bin.oci, "create-tty", s.PidFile, filepath.Join(dir, "console"), "sleep"}
		}
		s.TTY, s.PassIO, s.Log, s.ExitFile = true, true, "", ""
		_, files, err := m.Run(t.Context(), s, nil)
		if err != nil || len(files) != 1 {
			t.Fatal(files, err)
		}
		if err := monitor.SetSize(files[0], 80, 25); err != nil {
			t.Error(err)
		}
		io.WriteString(files[0], "hi\n") // echoed by the terminal
		if l, err := bufio.NewReader(files[0]).ReadString('\n'); l != "hi\r\n" {
			t.Errorf("%q %v", l, err)
		}
		files[0].Close() // the last master: the session gets SIGHUP
		if x := waitExit(t, m, id); x.Signal != int(syscall.SIGHUP) {
			t.Errorf("%+v", x)
		}
	}
}

func TestTerminalMissing(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := spawn(dir, "n", 0, "sleep")
	s.TTY, s.ConsoleSocket = true, "console"
	if _, _, err := m.Run(t.Context(), s, nil); err == nil || !strings.Contains(err.Error(), "terminal from the runtime") {
		t.Error(err)
	}
	s.ConsoleSocket = "../console"
	if _, _, err := m.Run(t.Context(), s, nil); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
}

func TestAttach(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := spawn(dir, "a", 0, "cat")
	s.Stdin = true
	run(t, m, s)
	one, two := attach(t, m, "a"), attach(t, m, "a")
	io.WriteString(one.in, "from one\n")
	for _, c := range []client{one, two} {
		if l := c.line(t); l != "from one\n" {
			t.Errorf("%q", l)
		}
	}
	one.in.Close() // not the end of the container's input
	io.WriteString(two.in, "from two\n")
	for _, c := range []client{one, two} {
		if l := c.line(t); l != "from two\n" {
			t.Errorf("%q", l)
		}
	}
	if err := m.Signal(t.Context(), "a", syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	for _, c := range []client{one, two} {
		if _, err := c.out.ReadByte(); err != io.EOF {
			t.Error(err)
		}
		if _, err := c.err.ReadByte(); err != io.EOF {
			t.Error(err)
		}
	}
	waitExit(t, m, "a")
	r, w := pipe(t)
	if err := m.AttachIO(t.Context(), "a", nil, w, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("attach to the dead: %v", err)
	}
	w.Close()
	if _, err := r.Read(make([]byte, 1)); err != io.EOF {
		t.Error("the monitor kept a descriptor of a refused attach")
	}
}

func TestStdinOnce(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := spawn(dir, "o", 0, "cat")
	s.Stdin, s.StdinOnce = true, true
	run(t, m, s)
	c := attach(t, m, "o")
	big := strings.Repeat("0123456789abcde\n", 1<<16) // 1 MiB: more than the pipes hold
	// ends when all is written
	go func() { io.WriteString(c.in, big); c.in.Close() }()
	b, err := io.ReadAll(c.out)
	if string(b) != big+"eof\n" || err != nil {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	if x := waitExit(t, m, "o"); x.Code != 0 {
		t.Errorf("%+v", x)
	}
	if out, _ := readLog(t, s.Log); out != big+"eof\n" {
		t.Errorf("log has %d bytes", len(out))
	}
}

// A client that does not read is cut off; the log has everything, another client too.
func TestSlowClient(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	const rounds, lines = 200, 1000 // 26 MB
	s := plain(dir, "f", append([]string{"gate"}, slices.Repeat([]string{strconv.Itoa(lines)}, rounds)...)...)
	s.Stdin = true
	run(t, m, s)
	slowR, slowW := pipe(t)
	if err := m.AttachIO(t.Context(), "f", nil, slowW, nil); err != nil {
		t.Fatal(err)
	}
	slowW.Close()
	c := attach(t, m, "f")
	var got strings.Builder
	for range rounds {
		io.WriteString(c.in, "go\n")
		if n, err := io.CopyN(&got, c.out, lines*129); err != nil {
			t.Fatalf("reading client got %d bytes, %v", n, err)
		}
	}
	waitExit(t, m, "f")
	if out, _ := readLog(t, s.Log); out != got.String() {
		t.Errorf("log has %d bytes", len(out))
	}
	slow, err := io.ReadAll(slowR)
	if len(slow) < 512<<10 || len(slow) >= got.Len() || err != nil {
		t.Errorf("slow client got %d bytes, %v", len(slow), err)
	}
}

// A client that is behind by more than its pipe holds, but not by too much, gets everything, also after the process's end.
func TestLateClient(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	const lines = 80_000 // 10 MB
	s := plain(dir, "late", "gate", strconv.Itoa(lines/2), strconv.Itoa(lines/2))
	s.Stdin = true
	run(t, m, s)
	c := attach(t, m, "late")
	io.WriteString(c.in, "go\n")
	n, err := io.CopyN(io.Discard, c.out, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(c.in, "go\n")
	waitExit(t, m, "late")
	eventually(t, "it is gone", func() bool { l, err := m.List(t.Context()); return err == nil && len(l) == 0 })
	rest, err := io.Copy(io.Discard, c.out)
	if n+rest != lines*129 || err != nil {
		t.Errorf("%d bytes, %v", n+rest, err)
	}
	if got := rss(t, m.Pid()); got > 4000 {
		t.Errorf("monitor has %d KiB", got)
	}
}

func TestHold(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	a, b := filepath.Join(dir, "held-a"), filepath.Join(dir, "held-b")
	for _, name := range []string{a, a, b} { // the second a replaces the first
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if err = m.Hold(t.Context(), filepath.Base(name), f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	extra, err := os.Open("/dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	s := spawn(dir, "h", 0)
	s.PidFile, s.Argv, s.Held = "", []string{bin.oci, "fds"}, []string{"held-b", "held-a"}
	if _, _, err = m.Run(t.Context(), s, []*os.File{extra}); err != nil {
		t.Fatal(err)
	}
	waitExit(t, m, "h")
	out, _ := readLog(t, s.Log)
	var kept []string
	for _, l := range strings.Split(out, "\n") { // beside what the Go runtime has opened
		if n, _, _ := strings.Cut(l, " "); n >= "3" && !strings.HasSuffix(l, " ") && !strings.Contains(l, "anon_inode") && !strings.Contains(l, "/sys/fs/cgroup") {
			kept = append(kept, l)
		}
	}
	if want := []string{"3 " + b, "4 " + a, "5 /dev/zero"}; strings.Join(kept, "|") != strings.Join(want, "|") {
		t.Errorf("descriptors %q, want %q", kept, want)
	}
	s.ID, s.Held = "h2", []string{"nothing"}
	if _, _, err = m.Run(t.Context(), s, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// Children begin with no signal blocked or ignored and no descriptor but their own.
func TestChildIsClean(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := plain(dir, "c", "signals")
	run(t, m, s)
	waitExit(t, m, "c")
	if out, _ := readLog(t, s.Log); out != "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n" {
		t.Errorf("%s", out)
	}
}

func TestBigPackets(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := plain(dir, "big", "exit", "0")
	s.Argv = append(s.Argv, strings.Repeat("x", 120<<10))
	s.Env = append(s.Env, "Y="+strings.Repeat("y", 100<<10))
	run(t, m, s)
	if x := waitExit(t, m, "big"); x.Code != 0 {
		t.Errorf("%+v", x)
	}
	s.Argv = append(s.Argv, strings.Repeat("x", 120<<10))
	if _, _, err := m.Run(t.Context(), s, nil); !errors.Is(err, syscall.EMSGSIZE) || !strings.Contains(err.Error(), "256 KiB") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.List(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := m.List(t.Context()); err != nil {
		t.Error(err)
	}
}
