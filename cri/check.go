package cri

import (
	"fmt"
	"io/fs"
	"math"
	"strings"
	"time"
)

// maxID bounds what is taken for an id; ours have 64 characters.
const maxID = 256

// missing says that a part of the request is not there.
func missing(field string) error {
	return fmt.Errorf("%s is missing: %w", field, fs.ErrInvalid)
}

// checkID refuses what can be neither an id nor the beginning of one. An id that merely does not exist is not its
// business: stopping or removing it succeeds.
func checkID(field, id string) error {
	if id == "" {
		return missing(field)
	}
	if len(id) > maxID {
		return fmt.Errorf("%s has %d characters: %w", field, len(id), fs.ErrInvalid)
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', strings.IndexByte("-_.:", c) >= 0:
		default:
			return fmt.Errorf("%s %q: character %q: %w", field, id, c, fs.ErrInvalid)
		}
	}
	return nil
}

// seconds turns a number of seconds into a duration: negative is none, and what does not fit is the longest there is.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(n, 0), math.MaxInt64/int64(time.Second))) * time.Second
}
