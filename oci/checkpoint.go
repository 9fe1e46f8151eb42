package oci

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// CheckCheckpoint reports what this host lacks for checkpoints: CRIU, or what CRIU needs of the kernel. The error wraps
// errors.ErrUnsupported.
func CheckCheckpoint(ctx context.Context) error {
	program, err := exec.LookPath("criu")
	if err != nil {
		return fmt.Errorf("checkpoints need criu, which is not in PATH: %w", errors.ErrUnsupported)
	}
	cmd := exec.CommandContext(ctx, program, "check")
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	version, _ := exec.CommandContext(ctx, program, "--version").Output()
	first, _, _ := strings.Cut(string(version), "\n")
	return fmt.Errorf("%s (%s) does not work with this kernel: %s: %w", program, strings.ToLower(first), firstError(string(out)), errors.ErrUnsupported)
}

// firstError is what CRIU complains of first; what follows are consequences.
func firstError(s string) string {
	for l := range strings.Lines(s) {
		if i := strings.Index(l, "rror (criu/"); i >= 0 {
			return strings.TrimSpace(l[i+5:])
		}
	}
	return strings.TrimSpace(s)
}

// Checkpoint writes the state of a running container's processes to a directory, CRIU's log to another, and lets it go on.
func (h Handler) Checkpoint(ctx context.Context, id, images, work string) error {
	_, err := h.run(ctx, nil, "checkpoint", "--image-path", images, "--work-path", work, "--leave-running",
		"--tcp-established", "--ext-unix-sk", "--file-locks", id)
	return err
}
