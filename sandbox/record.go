package sandbox

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
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
	Ready     bool     `json:"ready,omitempty"`      // false: building, or stopped
	Stopped   bool     `json:"stopped,omitempty"`
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
	StartError  string   `json:"start_error,omitempty"`
	EndedAt     int64    `json:"ended_at,omitempty"` // of a failed start or a lost process; otherwise exit.json knows
	Lost        bool     `json:"lost,omitempty"`     // the process is gone and nobody saw how
	Resources   []byte   `json:"resources,omitempty"`
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
