package launch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/launch/seccomp"
	"github.com/berth-runtime/berth/oci/launch/state"
)

// cacheVersion changes with what the compiler makes of a profile.
const cacheVersion = "1"

// filter is a compiled profile and where its notify descriptor goes to.
type filter struct {
	code               []byte // seccomp.Encode; nil: none
	cache              string // file that holds code
	listener, metadata string
}

// filter compiles linux.seccomp, or takes the compiled form from the cache: a file named after a hash of the profile
// that holds the profile itself too, so that a hash that collides is seen. A cache that can't be written costs time only.
func (r *Runtime) filter(raw json.RawMessage) (filter, error) {
	if len(raw) == 0 {
		return filter{}, nil
	}
	name := r.cacheName(raw)
	code := readCache(name, raw)
	notify := bytes.Contains(raw, []byte("listenerPath"))
	if code != nil && !notify {
		return filter{code: code, cache: name}, nil
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(raw, &profile); err != nil {
		return filter{}, fmt.Errorf("linux.seccomp: %w", err)
	}
	if profile.ListenerMetadata != "" && profile.ListenerPath == "" {
		return filter{}, fmt.Errorf("linux.seccomp.listenerMetadata without listenerPath: %w", fs.ErrInvalid)
	}
	prog, err := seccomp.Compile(&profile)
	if err != nil {
		return filter{}, fmt.Errorf("linux.seccomp: %w", err)
	}
	f := filter{code: seccomp.Encode(prog), metadata: profile.ListenerMetadata}
	if prog.Notify {
		f.listener = profile.ListenerPath
		if f.listener == "" {
			return f, fmt.Errorf("linux.seccomp: SCMP_ACT_NOTIFY without listenerPath: %w", fs.ErrInvalid)
		}
	}
	if writeCache(name, raw, f.code); f.listener == "" {
		f.cache = name
	}
	return f, nil
}

// notifyState is what the listener is told about the process (config-linux.md, "The Container Process State").
func notifyState(s *state.State, pid int, metadata string) []byte {
	b, _ := json.Marshal(&specs.ContainerProcessState{Version: specs.Version, Fds: []string{specs.SeccompFdName}, Pid: pid,
		Metadata: metadata, State: *ociState(s, state.Creating)})
	return b
}

func (r *Runtime) cacheName(raw []byte) string {
	h := fnv.New64a()
	h.Write([]byte(cacheVersion))
	h.Write(raw)
	return r.Root + "/.seccomp/" + strconv.FormatUint(h.Sum64(), 16)
}

// readCode reads the filter alone, for a profile known to be that file's; nil when that can't be done.
func readCode(name string) []byte {
	b, err := os.ReadFile(name)
	if err != nil || len(b) < 4 {
		return nil
	}
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil
	}
	if _, err := seccomp.Decode(b[4+n:]); err != nil {
		return nil
	}
	return b[4+n:]
}

func readCache(name string, raw []byte) []byte {
	b, err := os.ReadFile(name)
	if err != nil || len(b) < 4 {
		return nil
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n != len(raw) || len(b) < 4+n || !bytes.Equal(b[4:4+n], raw) {
		return nil
	}
	if _, err := seccomp.Decode(b[4+n:]); err != nil {
		return nil
	}
	return b[4+n:]
}

func writeCache(name string, raw, enc []byte) {
	dir := filepath.Dir(name)
	if os.MkdirAll(dir, 0o700) != nil {
		return
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(raw)))
	b = append(append(b, raw...), enc...)
	tmp := name + "." + strconv.Itoa(os.Getpid())
	if os.WriteFile(tmp, b, 0o600) != nil || os.Rename(tmp, name) != nil {
		os.Remove(tmp)
	}
}
