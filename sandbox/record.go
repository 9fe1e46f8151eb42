package sandbox

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/sandbox/checkpoint"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
	"github.com/berth-runtime/berth/sandbox/operation"
)

// podRecord is pod.json. The request is kept as the bytes it came in: environment values and annotations need not be
// valid JSON strings, and fields we do not know yet survive.
type podRecord struct {
	ID        string   `json:"id"`
	Boot      string   `json:"boot_id"` // of the kernel that ran it: under another one it is history
	CreatedAt int64    `json:"created_at"`
	Handler   string   `json:"handler"`
	Config    []byte   `json:"config"` // runtime.v1.PodSandboxConfig
	Parent    string   `json:"cgroup_parent"`
	OwnParent bool     `json:"own_parent,omitempty"` // the parent did not exist: it is ours to remove
	Ready     bool     `json:"ready,omitempty"`      // false: building, or stopped, or its monitor is dead
	Stopped   bool     `json:"stopped,omitempty"`    // it was ready: its client knows it
	IPs       []string `json:"ips,omitempty"`
	Overhead  []byte   `json:"overhead,omitempty"`  // runtime.v1.LinuxContainerResources, as last told
	Resources []byte   `json:"resources,omitempty"` // likewise
}

// containerRecord is container.json. Everything that status needs is in it: neither the image nor the process has to
// exist for a container to be described.
type containerRecord struct {
	ID          string   `json:"id"`
	Pod         string   `json:"pod"`
	CreatedAt   int64    `json:"created_at"`
	Config      []byte   `json:"config"` // runtime.v1.ContainerConfig
	ImageID     string   `json:"image_id"`
	ImageRef    string   `json:"image_ref"`
	ImageName   string   `json:"image_name"`
	Layers      []string `json:"layers"` // held until the container is removed; image volumes' layers included
	LogPath     string   `json:"log_path,omitempty"`
	CgroupsPath string   `json:"cgroups_path"`
	User        []byte   `json:"user"` // runtime.v1.LinuxContainerUser
	StopSignal  int      `json:"stop_signal"`
	Created     bool     `json:"created,omitempty"` // false: creation was cut short
	StartingAt  int64    `json:"starting_at,omitempty"`
	StartedAt   int64    `json:"started_at,omitempty"`
	Resources   []byte   `json:"resources,omitempty"`

	Stopping *stopRecord `json:"stopping,omitempty"`
	endRecord
}

// stopRecord is a stop that was begun: it goes on in the daemon that comes next.
type stopRecord struct {
	KillAt   int64 `json:"kill_at"`            // by uptime, which nobody can set
	Signaled bool  `json:"signaled,omitempty"` // the stop signal was sent
}

// endRecord is an end that exit.json does not know: of a failed start, or of a process whose monitor is dead.
type endRecord struct {
	StartError string     `json:"start_error,omitempty"`
	EndedAt    int64      `json:"ended_at,omitempty"`
	Lost       bool       `json:"lost,omitempty"` // the process is gone and nobody saw how
	Seen       *wire.Exit `json:"seen,omitempty"` // the monitor did not tell, and the kernel did
}

// uptime is CLOCK_MONOTONIC in nanoseconds, which timers follow as well.
func uptime() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // it has no error that could come here (clock_gettime(2))
	}
	return ts.Nano()
}

// save replaces the file at path by the JSON of v: tmp and rename, so that a reader sees the old or the new.
func save(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", filepath.Base(path), err)
	}
	return replace(path, b, 0o600)
}

// replace puts content at path by rename.
func replace(path string, content []byte, mode os.FileMode) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, mode); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// removeAll removes a tree. What is not there is no error, also where nothing can be removed: a file system that has
// become read-only must not keep a pod that has nothing on it.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	for wait := time.Millisecond; errors.Is(err, syscall.ENOTEMPTY) && wait < time.Second; wait *= 2 {
		time.Sleep(wait) // somebody wrote in between: a monitor its exit file
		err = os.RemoveAll(path)
	}
	if err != nil {
		if _, serr := os.Lstat(path); errors.Is(serr, fs.ErrNotExist) {
			return nil
		}
	}
	return err
}

func load(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// encode gives the deterministic encoding of a message, for records and for comparing requests.
func encode(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		// A message that came through gRPC has valid UTF-8 in its strings; nothing else can fail.
		return nil
	}
	return b
}

// digest identifies a request's content.
func digest(parts ...[]byte) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:", len(p))
		h.Write(p)
	}
	return string(h.Sum(nil))
}

func decodePodConfig(b []byte) (*rt.PodSandboxConfig, error) {
	c := new(rt.PodSandboxConfig)
	if err := proto.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("decode pod config: %w", err)
	}
	return c, nil
}

func decodeContainerConfig(b []byte) (*rt.ContainerConfig, error) {
	c := new(rt.ContainerConfig)
	if err := proto.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("decode container config: %w", err)
	}
	return c, nil
}

func decodeResources(b []byte) *rt.LinuxContainerResources {
	if len(b) == 0 {
		return nil
	}
	r := new(rt.LinuxContainerResources)
	if proto.Unmarshal(b, r) != nil {
		return nil
	}
	return r
}

func asInfo(v map[string]any) map[string]string {
	b, err := json.Marshal(v)
	if err != nil {
		b = fmt.Appendf(nil, "{%q:%q}", "error", err)
	}
	return map[string]string{"info": string(b)}
}

// checkpointBudget bounds a checkpoint whose client names no time.
const checkpointBudget = 10 * time.Minute

// Checkpoint answers CheckpointContainer: an archive of the running container, which goes on, appears at location when it is
// complete.
func (c *Container) Checkpoint(ctx context.Context, location string, within time.Duration) error {
	if !filepath.IsAbs(location) || filepath.Clean(location) != location {
		return fmt.Errorf("checkpoint location %s: not a clean absolute path: %w", short(location), fs.ErrInvalid)
	}
	if err := c.running(); err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if within <= 0 {
		within = checkpointBudget
	}
	req := operation.Request{Key: "checkpoint container " + c.id, Digest: location, Budget: within}
	_, err := c.m.ops.Do(ctx, req, func(ctx context.Context, op *operation.Operation) (string, error) {
		if err := snapshot(ctx, c, op, location); err != nil {
			return "", fmt.Errorf("checkpoint container %s: %w", short(c.id), err)
		}
		return c.id, nil
	})
	return err
}

// snapshot makes the archive; what it needs meanwhile lies in the container's directory and goes with it at the latest.
func snapshot(ctx context.Context, c *Container, op *operation.Operation, location string) error {
	op.At("check what the host can do")
	if err := oci.CheckCheckpoint(ctx); err != nil {
		return err
	}
	work := filepath.Join(c.dir(), "checkpoint")
	defer removeAll(work)
	if err := os.MkdirAll(work, 0o700); err != nil {
		return err
	}
	images := filepath.Join(work, "images")
	op.At("run " + c.pod.handler.Name + " checkpoint")
	if err := c.pod.handler.Checkpoint(ctx, c.id, images, work); err != nil {
		return err
	}
	op.At("write archive")
	var spec map[string]any
	if err := load(filepath.Join(c.dir(), "config.json"), &spec); err != nil {
		return err
	}
	s, pod, lower := c.status(), c.pod.cfg.GetMetadata(), rootLayers(spec)
	if lower == nil {
		lower = c.rec.Layers // a foreign runtime's specification does not name them
	}
	spec["annotations"] = map[string]string{ // by these tools find names
		"io.kubernetes.cri.container-type": "container", "io.kubernetes.cri.container-name": s.GetMetadata().GetName(),
		"io.kubernetes.cri.sandbox-id": c.pod.id, "io.kubernetes.cri.sandbox-name": pod.GetName(),
		"io.kubernetes.cri.sandbox-namespace": pod.GetNamespace(), "io.kubernetes.cri.sandbox-uid": pod.GetUid(), "io.kubernetes.cri.image-name": c.rec.ImageName,
	}
	return checkpoint.Archive{
		Config: checkpoint.Config{ID: c.id, Name: s.GetMetadata().GetName(), RootfsImage: c.rec.ImageName, RootfsImageRef: c.rec.ImageRef, RootfsImageName: c.rec.ImageName,
			OCIRuntime: c.pod.handler.Name, CreatedTime: time.Unix(0, c.rec.CreatedAt), CheckpointedAt: time.Now()},
		Spec: spec, Status: map[string]any{"CreatedAt": c.rec.CreatedAt, "StartedAt": s.StartedAt, "FinishedAt": 0, "ExitCode": 0, "Pid": c.view.Load().pid},
		Images: images, Work: work, Upper: filepath.Join(c.dir(), "upper"), Lower: lower, Log: c.rec.LogPath,
	}.Write(location)
}

// rootLayers are the layers below a container's writable one, as its specification has them.
func rootLayers(spec map[string]any) []string {
	mounts, _ := spec["mounts"].([]any)
	var out []string
	for _, m := range mounts {
		m, _ := m.(map[string]any)
		options, _ := m["options"].([]any)
		for _, o := range options {
			if dir, ok := strings.CutPrefix(fmt.Sprint(o), "lowerdir+="); ok && m["destination"] == "/" {
				out = append(out, dir)
			}
		}
	}
	return out
}
