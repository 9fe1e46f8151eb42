package program

import (
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Numbers reads a list of CPUs or memory nodes such as "0-3,7": ascending result, at most 4096 and below 65536. The
// empty list has none.
func Numbers(list string) ([]uint64, error) {
	var out []uint64
	if list == "" {
		return nil, nil
	}
	for _, part := range strings.Split(list, ",") {
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.ParseUint(strings.TrimSpace(low), 10, 16)
		b := a
		if err == nil && isRange {
			b, err = strconv.ParseUint(strings.TrimSpace(high), 10, 16)
		}
		if err != nil || b < a {
			return nil, fmt.Errorf("list %q: %w", list, fs.ErrInvalid)
		}
		for n := a; n <= b && len(out) < 4096; n++ {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}
