package sandbox

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io/fs"
	"strings"
)

// newID makes an id of 64 lower-case hex digits, the form that cAdvisor's cgroup matchers and other tools expect.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// validID reports whether s has the form of newID: only such names are ever taken for objects on disk.
func validID(s string) bool {
	if len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// lookup finds the object of exactly this id, or else the only one whose id begins with it.
// An empty id is an error: it would match everything.
func lookup[T any](all map[string]T, kind, id string) (T, error) {
	var none T
	if id == "" {
		return none, fmt.Errorf("%s id is empty: %w", kind, fs.ErrInvalid)
	}
	if v, ok := all[id]; ok {
		return v, nil
	}
	var found T
	n := 0
	for k, v := range all {
		if strings.HasPrefix(k, id) {
			found = v
			n++
		}
	}
	switch n {
	case 1:
		return found, nil
	case 0:
		return none, fmt.Errorf("%s %s: %w", kind, short(id), fs.ErrNotExist)
	}
	return none, fmt.Errorf("%s %s: %d ids begin with it: %w", kind, short(id), n, fs.ErrInvalid)
}

// short bounds what of a foreign id goes into an error text.
func short(id string) string {
	if validID(id) {
		return id[:12]
	}
	if len(id) > 80 {
		id = id[:80] + "…"
	}
	return fmt.Sprintf("%q", id)
}
