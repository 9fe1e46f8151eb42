package plan

import (
	"fmt"
	"math"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxMaps is how many lines uid_map takes (UID_GID_MAP_MAX_EXTENTS, Linux 4.15).
const maxMaps = 340

// checkMaps holds id mappings to the kernel's rules (user_namespaces(7)): nothing empty, nothing beyond 32 bits, no id
// twice on either side. A sum that wraps would otherwise make somebody else's id, root's for one, out of a large one.
func checkMaps(field string, maps []specs.LinuxIDMapping) error {
	if len(maps) > maxMaps {
		return invalid("%s: %d mappings, the kernel takes %d", field, len(maps), maxMaps)
	}
	for i, m := range maps {
		inside, outside, size := uint64(m.ContainerID), uint64(m.HostID), uint64(m.Size)
		if size == 0 {
			return invalid("%s[%d].size: 0", field, i)
		}
		if inside+size > math.MaxUint32 || outside+size > math.MaxUint32 {
			return invalid("%s[%d]: ends beyond the last id", field, i)
		}
		for j, o := range maps[:i] {
			if meet(m.ContainerID, o.ContainerID, m.Size, o.Size) || meet(m.HostID, o.HostID, m.Size, o.Size) {
				return invalid("%s[%d]: overlaps %s[%d]", field, i, field, j)
			}
		}
	}
	return nil
}

// meet reports whether ranges that begin at a and b have an id in common.
func meet(a, b, sizeA, sizeB uint32) bool {
	return uint64(a) < uint64(b)+uint64(sizeB) && uint64(b) < uint64(a)+uint64(sizeA)
}

// checkAllMaps checks those of the container and of its mounts.
func (c *Config) checkAllMaps() error {
	type list struct {
		field string
		maps  []specs.LinuxIDMapping
	}
	all := []list{{"linux.uidMappings", c.Linux.UIDMappings}, {"linux.gidMappings", c.Linux.GIDMappings}}
	for i, m := range c.Mounts {
		all = append(all, list{fmt.Sprintf("mounts[%d].uidMappings", i), m.UIDMappings}, list{fmt.Sprintf("mounts[%d].gidMappings", i), m.GIDMappings})
	}
	for _, l := range all {
		if err := checkMaps(l.field, l.maps); err != nil {
			return err
		}
	}
	return nil
}
