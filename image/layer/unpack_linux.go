package layer

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Job is one layer to unpack.
type Job struct {
	Argv   []string  // the unpacking child: a program and arguments that lead to UnpackMain
	Dir    string    // an empty directory, absolute
	Stream io.Reader // plain tar; read to its end unless the child gives up
	Limits Limits
}

// Unpack fills j.Dir from j.Stream by a jailed child and returns what came of it. The directory is the caller's, to
// be removed after an error. The content is not synced. When the context ends the child is killed, and the error is
// the context's; an error of the stream is returned as it is; a full disk, a quota, a limit or a failing disk is that errno.
func Unpack(ctx context.Context, j Job) (Result, error) {
	limits := j.Limits.orDefault()
	argv := append(append([]string{}, j.Argv...), j.Dir, strconv.FormatInt(limits.Bytes, 10), strconv.FormatInt(limits.Entries, 10))
	if len(j.Argv) == 0 {
		return Result{}, fmt.Errorf("no unpacking program: %w", os.ErrInvalid)
	}
	r, w, err := os.Pipe()
	if err != nil {
		return Result{}, err
	}
	defer w.Close()
	widen(w)
	var out, text bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = []string{"GOMAXPROCS=1", "GOTRACEBACK=none"}
	cmd.Stdin = r
	cmd.Stdout = &capped{&out, maxReport}
	cmd.Stderr = &capped{&text, 4096}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	cmd.WaitDelay = 10 * time.Second
	err = cmd.Start()
	r.Close()
	if err != nil {
		return Result{}, fmt.Errorf("start %s: %w", argv[0], err)
	}
	feedErr := feed(w, j.Stream)
	w.Close()
	err = cmd.Wait()
	switch {
	case ctx.Err() != nil:
		return Result{}, ctx.Err()
	case feedErr != nil && !errors.Is(feedErr, unix.EPIPE):
		return Result{}, feedErr
	case err != nil:
		return Result{}, childError(err, text.String())
	}
	var res Result
	if err := json.Unmarshal(out.Bytes(), &res); err != nil {
		return Result{}, fmt.Errorf("unpack: report: %w", err)
	}
	return res, markOpaque(j.Dir, res.Opaque)
}

// failure is what the child said, with the class of what the machine lacked.
type failure struct {
	text  string
	errno unix.Errno
}

func (f failure) Error() string { return "unpack: " + f.text }

func (f failure) Unwrap() error {
	if f.errno == 0 {
		return nil
	}
	return f.errno
}

// childError makes one line of what the child wrote.
func childError(err error, text string) error {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if line == "" {
		return fmt.Errorf("unpack: %w", err)
	}
	f := failure{text: line}
	var exit *exec.ExitError
	if errors.As(err, &exit) && told(unix.Errno(exit.ExitCode())) {
		f.errno = unix.Errno(exit.ExitCode())
	}
	return f
}

// widen asks for a bigger pipe: fewer switches. The limit without privilege is 1 MiB (pipe(7), pipe-max-size); less is no
// harm.
func widen(w *os.File) {
	c, err := w.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, 1<<20) })
}

// feed copies the stream to the child. A child that has gone is EPIPE; what it said tells why.
func feed(w *os.File, r io.Reader) error {
	buf := make([]byte, 1<<18)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			// The child must not take a cut stream for a whole one: it is told by the end of its life.
			return err
		}
	}
}

// markOpaque sets the attribute the child may not set. The tree is hostile: names are resolved below dir and through
// no link.
func markOpaque(dir string, names []string) error {
	if len(names) == 0 {
		return nil
	}
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("mark opaque: %w", err)
	}
	defer unix.Close(root)
	for _, n := range names {
		fd, err := unix.Openat2(root, n, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: beneath})
		if err == nil {
			err = unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("mark opaque %q: %w", clip(n), err)
		}
	}
	return nil
}

// capped keeps the first max bytes and drops the rest.
type capped struct {
	buf *bytes.Buffer
	max int
}

func (c *capped) Write(p []byte) (int, error) {
	c.buf.Write(p[:min(len(p), max(0, c.max-c.buf.Len()))])
	return len(p), nil
}
