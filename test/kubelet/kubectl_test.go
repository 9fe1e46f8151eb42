package kubelet

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestKubectl(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("target", `
terminationGracePeriodSeconds: 1
containers:
- {name: web, image: "`+nginx+`"}
- {name: chat, image: "`+busybox+`", stdin: true, command: [sh, -c, "i=0; while read l; do i=$((i+1)); echo $i: $l; done"]}`)
	b.ready("target")
	t.Run("exec", func(t *testing.T) {
		cmd := b.kubectl("exec", "-i", "target", "--", "sh", "-c", "cat; echo err >&2; exit 7")
		cmd.Stdin = strings.NewReader("to and fro\n")
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		if out.String() != "to and fro\n" || !strings.Contains(errs.String(), "err\n") || cmd.ProcessState.ExitCode() != 7 {
			t.Errorf("%q, %q, %v", out.String(), errs.String(), err)
		}
	})
	t.Run("attach", func(t *testing.T) {
		cmd := b.kubectl("attach", "-i", "-q", "target", "-c", "chat")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(in, "hello")
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "1: hello\n" {
			t.Errorf("%q, %v", line, err)
		}
		cmd.Process.Kill() // the container goes on
		cmd.Wait()
		if out := b.output("logs", "target", "-c", "chat"); !strings.Contains(out, "1: hello") {
			t.Errorf("log: %q", out)
		}
	})
	t.Run("cp", func(t *testing.T) {
		dir := t.TempDir()
		data := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		if err := os.WriteFile(filepath.Join(dir, "in"), data, 0o644); err != nil {
			t.Fatal(err)
		}
		b.output("cp", filepath.Join(dir, "in"), "target:/tmp/file", "-c", "web")
		b.output("cp", "target:/tmp/file", filepath.Join(dir, "out"), "-c", "web")
		back, err := os.ReadFile(filepath.Join(dir, "out"))
		if err != nil || sha256.Sum256(back) != sha256.Sum256(data) {
			t.Errorf("%d bytes came back, %v", len(back), err)
		}
	})
	t.Run("port-forward", func(t *testing.T) {
		cmd := b.kubectl("port-forward", "target", ":80")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
		line, err := bufio.NewReader(out).ReadString('\n')
		var port int
		if _, err2 := fmt.Sscanf(line, "Forwarding from 127.0.0.1:%d", &port); err2 != nil {
			t.Fatal(line, err, err2)
		}
		for range 3 {
			page, err := get(b.Context(), fmt.Sprintf("http://127.0.0.1:%d/", port))
			if err != nil || !strings.Contains(page, "Welcome to nginx") {
				t.Errorf("%q, %v", page, err)
			}
		}
	})
	t.Run("debug", func(t *testing.T) {
		b.output("debug", "target", "--image="+busybox, "--target=web", "-c", "dbg", "--image-pull-policy=IfNotPresent", "--",
			"sh", "-c", "ps | grep '[n]ginx: master' && echo sees it; sleep 3600")
		b.when("target", "debugged", func(p *corev1.Pod) bool {
			return len(p.Status.EphemeralContainerStatuses) == 1 && p.Status.EphemeralContainerStatuses[0].State.Running != nil
		})
		b.logs("target", "dbg", "sees it")
	})
}

func TestFollowLogs(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("talker", `
restartPolicy: Never
containers: [{name: c, image: "`+busybox+`", command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; sleep 0.2; done"]}]`)
	b.when("talker", "started", func(p *corev1.Pod) bool { return p.Status.Phase != corev1.PodPending })
	stream, err := b.Client.CoreV1().Pods(b.ns).GetLogs("talker", &corev1.PodLogOptions{Follow: true}).Stream(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	// It ends by itself when the container does.
	all, err := io.ReadAll(stream)
	if err != nil || string(all) != "line 1\nline 2\nline 3\nline 4\nline 5\n" {
		t.Errorf("%q, %v", all, err)
	}
	b.eventually("previous lines", func(ctx context.Context) error {
		two := int64(2)
		raw, err := b.Client.CoreV1().Pods(b.ns).GetLogs("talker", &corev1.PodLogOptions{TailLines: &two, Timestamps: true}).DoRaw(ctx)
		if err == nil && bytes.Count(raw, []byte("\n")) != 2 {
			err = fmt.Errorf("%q", raw)
		}
		return err
	})
}
