package launch

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/seccomp"
	"github.com/berth-runtime/berth/oci/launch/state"
)

// cacheVersion changes with what the compiler makes of a profile.
const cacheVersion = "2"

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
	if writeCache(name, raw, f.code) && f.listener == "" {
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

// A cached filter is the profile's length, the profile, the code, and a checksum of all that: a file that lost its middle in a
// crash, as one of zeros would, must not be taken for a filter that allows things.
func cached(name string) (raw, code []byte) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil || st.Uid != uint32(os.Geteuid()) || st.Mode&(unix.S_IFMT|0o022) != unix.S_IFREG {
		return nil, nil // not of our making
	}
	b, err := io.ReadAll(io.LimitReader(f, maxCached))
	if err != nil {
		return nil, nil
	}
	raw, code, sum, ok := seccomp.Unpack(b)
	if !ok || crc32.Checksum(b[:len(b)-4], crc32.MakeTable(crc32.Castagnoli)) != sum {
		return nil, nil
	}
	if _, err := seccomp.Decode(code); err != nil {
		return nil, nil
	}
	return raw, code
}

// maxCached is more than any: a config.json is not longer.
const maxCached = 8 << 20

// readCode reads the filter alone, for a profile known to be that file's; nil when that can't be done.
func readCode(name string) []byte {
	_, code := cached(name)
	return code
}

func readCache(name string, raw []byte) []byte {
	have, code := cached(name)
	if code == nil || !bytes.Equal(have, raw) {
		return nil
	}
	return code
}

// writeCache reports whether the file holds the filter now. One that holds another profile's, of the same hash, is left
// alone: a container may have noted its name.
func writeCache(name string, raw, enc []byte) bool {
	if have, _ := cached(name); have != nil && !bytes.Equal(have, raw) {
		return false
	}
	dir := filepath.Dir(name)
	if os.MkdirAll(dir, 0o700) != nil {
		return false
	}
	evict(dir)
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(raw)))
	b = append(append(b, raw...), enc...)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	tmp, err := os.CreateTemp(dir, "new")
	if err != nil {
		return false
	}
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), name)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err == nil
}

// maxFilters bounds the cache. Nodes have a handful of profiles; a caller that makes up one per container gets no use of it.
const maxFilters = 64

// evict makes room for one more by removing the oldest. A container whose filter is gone gets it from its config again.
func evict(dir string) {
	entries, _ := os.ReadDir(dir)
	if len(entries) < maxFilters {
		return
	}
	age := func(e fs.DirEntry) int64 {
		if info, err := e.Info(); err == nil {
			return info.ModTime().UnixNano()
		}
		return 0
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return cmp.Compare(age(a), age(b)) })
	for _, e := range entries[:len(entries)-maxFilters+1] {
		os.Remove(dir + "/" + e.Name())
	}
}
