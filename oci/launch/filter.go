package launch

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/launch/program"
	"github.com/berth-runtime/berth/oci/launch/seccomp"
)

// cacheVersion changes with what the compiler makes of a profile.
const cacheVersion = "1"

// filter compiles linux.seccomp, or takes the compiled form from the cache: a file named after a hash of the profile
// that holds the profile itself too, so that a hash that collides is seen. A cache that can't be written costs time only.
func (r *Runtime) filter(raw json.RawMessage, s *program.Security) error {
	if len(raw) == 0 {
		return nil
	}
	name := r.cacheName(raw)
	if enc := readCache(name, raw); enc != nil {
		s.Filter = enc
		return nil
	}
	var profile specs.LinuxSeccomp
	if err := json.Unmarshal(raw, &profile); err != nil {
		return fmt.Errorf("linux.seccomp: %w", err)
	}
	prog, err := seccomp.Compile(&profile)
	if err != nil {
		return fmt.Errorf("linux.seccomp: %w", err)
	}
	s.Filter = seccomp.Encode(prog)
	writeCache(name, raw, s.Filter)
	return nil
}

func (r *Runtime) cacheName(raw []byte) string {
	h := fnv.New64a()
	h.Write([]byte(cacheVersion))
	h.Write(raw)
	return r.Root + "/.seccomp/" + strconv.FormatUint(h.Sum64(), 16)
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
