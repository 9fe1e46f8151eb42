package netplugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"golang.org/x/sys/unix"
)

// errDamaged marks a record that exists and can't be read as one.
var errDamaged = errors.New("damaged record")

// record is what <cache>/<pod>.json holds: all that DEL needs, and the result once there is one.
type record struct {
	Pod          string                     `json:"pod"`
	Boot         string                     `json:"boot"` // boot id; namespaces die with it
	NetNS        string                     `json:"netns,omitempty"`
	Network      string                     `json:"network"`
	Config       json.RawMessage            `json:"config"` // conflist with all its plugins inlined
	Args         [][2]string                `json:"args,omitempty"`
	Capabilities map[string]json.RawMessage `json:"capabilities,omitempty"`
	Result       json.RawMessage            `json:"result,omitempty"`
}

func newRecord(list *libcni.NetworkConfigList, pod Pod, boot string) (*record, error) {
	if err := checkID(pod.ID); err != nil {
		return nil, err
	}
	config, err := inline(list)
	if err != nil {
		return nil, err
	}
	caps, err := capabilities(pod)
	if err != nil {
		return nil, err
	}
	return &record{
		Pod: pod.ID, Boot: boot, NetNS: pod.NetNS, Network: list.Name, Config: config, Capabilities: caps,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", pod.Namespace},
			{"K8S_POD_NAME", pod.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", pod.ID},
			{"K8S_POD_UID", pod.UID},
		},
	}, nil
}

// runtimeConf is the record in libcni's terms.
func (r *record) runtimeConf(netns string) *libcni.RuntimeConf {
	rt := &libcni.RuntimeConf{
		ContainerID: r.Pod, NetNS: netns, IfName: ifname, Args: r.Args,
		CapabilityArgs: make(map[string]any, len(r.Capabilities)),
	}
	for k, v := range r.Capabilities {
		rt.CapabilityArgs[k] = v
	}
	return rt
}

func (r *record) write(dir string) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replaceFile(recordPath(dir, r.Pod), b)
}

// readRecord wraps fs.ErrNotExist when there is none and errDamaged when it does not parse.
func readRecord(dir, podID string) (*record, error) {
	if err := checkID(podID); err != nil {
		return nil, err
	}
	b, err := os.ReadFile(recordPath(dir, podID))
	if err != nil {
		return nil, err
	}
	rec := &record{}
	if err := json.Unmarshal(b, rec); err != nil || rec.Pod != podID || len(rec.Config) == 0 {
		return nil, fmt.Errorf("%s: %w", recordPath(dir, podID), errDamaged)
	}
	return rec, nil
}

// removeRecord is idempotent.
func removeRecord(dir, podID string) error {
	if err := os.Remove(recordPath(dir, podID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// recorded lists the pods that have a record, in order of their ids.
func recorded(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var pods []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), recordSuffix); ok && checkID(id) == nil {
			pods = append(pods, id)
		}
	}
	return pods, nil
}

const recordSuffix = ".json"

func recordPath(dir, podID string) string {
	return filepath.Join(dir, podID+recordSuffix)
}

// checkID refuses ids that are not plain file names.
func checkID(id string) error {
	if id == "" || id[0] == '.' || strings.ContainsAny(id, "/\x00") {
		return fmt.Errorf("pod id %q: %w", id, fs.ErrInvalid)
	}
	return nil
}

// replaceFile gives path its new content in one step.
func replaceFile(path string, b []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// inline is the conflist with all its plugins inside, also those libcni found in files of their own.
func inline(list *libcni.NetworkConfigList) (json.RawMessage, error) {
	all := map[string]any{}
	if err := json.Unmarshal(list.Bytes, &all); err != nil {
		return nil, fmt.Errorf("network %s: %w", list.Name, err)
	}
	plugins := make([]json.RawMessage, len(list.Plugins))
	for i, p := range list.Plugins {
		plugins[i] = p.Bytes
	}
	all["plugins"] = plugins
	all["loadOnlyInlinedPlugins"] = true
	return json.Marshal(all)
}

// isNamespace tells whether path is a namespace rather than the plain file a reboot leaves of its mount point.
func isNamespace(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// bootID names the boot; empty, hence never equal to a recorded one's, when the kernel does not tell.
func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
