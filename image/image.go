package image

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"sync"

	"github.com/berth-runtime/berth/image/overlay"
)

// Image is what the store knows of one image. It is a value that does not change; a later Resolve may give another.
type Image struct {
	// ID is the digest of the configuration, "sha256:<hex>" (CRI Image.id).
	ID string
	// RepoTags are normalised names with tags, sorted; RepoDigests "repo@digest" as pulled, one per repository, the newest.
	RepoTags, RepoDigests []string
	// Size is what the registry has of it, compressed, in bytes; at least 1.
	Size   uint64
	Pinned bool
	// Layers are absolute directories, top first, ready as overlayfs lower directories; at least one.
	Layers []string
	Config Config
	// ConfigJSON is the configuration as the registry has it.
	ConfigJSON []byte

	files *fileCache
}

// Config is the part of the OCI image configuration that starting a container needs (OCI image-spec config.md). Treat it as
// read-only.
type Config struct {
	User       string              `json:"User"`
	Env        []string            `json:"Env"`
	Entrypoint []string            `json:"Entrypoint"`
	Cmd        []string            `json:"Cmd"`
	WorkingDir string              `json:"WorkingDir"`
	StopSignal string              `json:"StopSignal"`
	Volumes    map[string]struct{} `json:"Volumes"`
	Labels     map[string]string   `json:"Labels"`
}

func parseConfig(raw []byte) (Config, error) {
	var c struct {
		Config Config `json:"config"`
	}
	if err := json.Unmarshal(raw, &c); err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return c.Config, nil
}

// ReadFile reads a regular file of the merged image, at most max bytes. Links are resolved inside the image. A missing file is
// fs.ErrNotExist, anything but a regular file fs.ErrInvalid, a larger one overlay.ErrTooLarge. /etc/passwd and /etc/group
// are read once.
func (i Image) ReadFile(name string, max int64) ([]byte, error) {
	name = path.Clean("/" + name)
	if i.files == nil || name != "/etc/passwd" && name != "/etc/group" {
		return overlay.ReadFile(i.Layers, name, max)
	}
	return i.files.read(i.Layers, name, max)
}

// Sub finds a directory or regular file of the merged image, as overlay.Sub does: for an image volume of which only a part is
// mounted (CRI Mount.image_sub_path).
func (i Image) Sub(name string) (dirs []string, file string, err error) {
	return overlay.Sub(i.Layers, name)
}

// fileCache keeps what is read at each container start.
type fileCache struct {
	mu  sync.Mutex
	all map[string]cached
}

type cached struct {
	data []byte
	err  error
	max  int64
}

func (c *fileCache) read(layers []string, name string, max int64) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f, ok := c.all[name]; ok && f.max == max {
		return slices.Clone(f.data), f.err
	}
	data, err := overlay.ReadFile(layers, name, max)
	if c.all == nil {
		c.all = map[string]cached{}
	}
	c.all[name] = cached{data, err, max}
	return slices.Clone(data), err
}
