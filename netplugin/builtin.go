package netplugin

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

const (
	builtinName   = "berth"
	builtinBridge = "berth0"
	// defaultCache is the cache directory of a daemon with default settings; it alone gets the plain bridge name.
	defaultCache = "/var/lib/berth/net"
)

// BuiltinConf is the configuration of the built-in network. Zero fields are chosen when the Manager is first made and
// kept in <cache>/builtin.conflist: the bridge is berth0, or for another cache directory than the default one
// "berth-" and a hash of its path; the table has the bridge's name; the subnet is the first /20 of 10.160.0.0/11,
// counted from that hash, that no route of the host touches. So daemons with different roots do not meet.
type BuiltinConf struct {
	Bridge  string       // name of the bridge, at most 15 bytes
	Table   string       // name of the nftables table (family inet)
	Subnet  netip.Prefix // IPv4
	Subnet6 netip.Prefix // IPv6; zero: a unique local /64 if IPv6 is set, else none
	IPv6    bool
	MTU     int // 0: the kernel's default
}

// builtinList makes the conflist of the built-in network, or reads the one made before.
func builtinList(cache string, conf BuiltinConf) (*libcni.NetworkConfigList, error) {
	abs, err := filepath.Abs(cache)
	if err != nil {
		return nil, err
	}
	old, err := readBuiltin(abs)
	if err != nil {
		return nil, err
	}
	if err := conf.complete(abs, old); err != nil {
		return nil, err
	}
	plugin := map[string]any{
		"type": builtinType, "bridge": conf.Bridge, "table": conf.Table, "subnet": conf.Subnet.String(),
		"stateDir":     filepath.Join(abs, "bridge"),
		"lazyLinks":    true, // the pod's namespace goes right after DEL, and its links with it
		"capabilities": map[string]bool{"portMappings": true},
	}
	if conf.Subnet6.IsValid() {
		plugin["subnet6"] = conf.Subnet6.String()
	}
	if conf.MTU != 0 {
		plugin["mtu"] = conf.MTU
	}
	b, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.1.0", "name": builtinName, "plugins": []any{plugin},
	}, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := replaceFile(builtinPath(abs), b); err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(b)
}

func builtinPath(cache string) string {
	return filepath.Join(cache, "builtin.conflist")
}

// readBuiltin returns the subnets chosen before; the zero value if there are none.
func readBuiltin(cache string) (BuiltinConf, error) {
	b, err := os.ReadFile(builtinPath(cache))
	if errors.Is(err, fs.ErrNotExist) {
		return BuiltinConf{}, nil
	}
	if err != nil {
		return BuiltinConf{}, err
	}
	var list struct {
		Plugins []struct{ Bridge, Table, Subnet, Subnet6 string }
	}
	if json.Unmarshal(b, &list) != nil || len(list.Plugins) != 1 {
		return BuiltinConf{}, nil // damaged by a power cut: choose anew
	}
	p := list.Plugins[0]
	old := BuiltinConf{Bridge: p.Bridge, Table: p.Table}
	old.Subnet, _ = netip.ParsePrefix(p.Subnet)
	old.Subnet6, _ = netip.ParsePrefix(p.Subnet6)
	return old, nil
}

// complete fills the zero fields from what was chosen before, else chooses.
func (c *BuiltinConf) complete(cache string, old BuiltinConf) error {
	sum := sha256.Sum256([]byte(cache))
	if c.Bridge == "" {
		c.Bridge = builtinBridge
		if cache != defaultCache {
			c.Bridge = "berth-" + hex.EncodeToString(sum[:4])
		}
	}
	if c.Table == "" {
		c.Table = c.Bridge
	}
	if !c.Subnet.IsValid() {
		c.Subnet = old.Subnet
	}
	if !c.Subnet.IsValid() {
		var err error
		if c.Subnet, err = freeSubnet(binary.BigEndian.Uint32(sum[:])); err != nil {
			return err
		}
	}
	if c.IPv6 && !c.Subnet6.IsValid() {
		if c.Subnet6 = old.Subnet6; !c.Subnet6.IsValid() && hostHasIPv6() {
			c.Subnet6 = uniqueLocal(sum)
		}
	}
	return nil
}

// freeSubnet picks the first candidate, counted from start, that no route of this network namespace touches.
func freeSubnet(start uint32) (netip.Prefix, error) {
	routes, err := routes4()
	if err != nil {
		return netip.Prefix{}, err
	}
	const candidates = 1 << (20 - 11)
	for i := range uint32(candidates) {
		n := (start + i) % candidates
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(160 + n>>4), byte(n << 4), 0}), 20)
		if !overlaps(routes, p) {
			return p, nil
		}
	}
	return netip.Prefix{}, errors.New("no free subnet in 10.160.0.0/11; set one")
}

func overlaps(routes []netip.Prefix, p netip.Prefix) bool {
	for _, r := range routes {
		if r.Overlaps(p) {
			return true
		}
	}
	return false
}

// routes4 reads the IPv4 routes but the default ones (proc_net(5): little-endian hexadecimal).
func routes4() ([]netip.Prefix, error) {
	f, err := os.Open("/proc/net/route")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []netip.Prefix
	s := bufio.NewScanner(f)
	for s.Scan() {
		fields := strings.Fields(s.Text())
		if len(fields) < 8 || fields[0] == "Iface" {
			continue
		}
		dst, err1 := strconv.ParseUint(fields[1], 16, 32)
		mask, err2 := strconv.ParseUint(fields[7], 16, 32)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("/proc/net/route: %q: %w", s.Text(), fs.ErrInvalid)
		}
		if mask == 0 {
			continue
		}
		var a [4]byte
		binary.LittleEndian.PutUint32(a[:], uint32(dst))
		bits := 0
		for m := uint32(mask); m != 0; m &= m - 1 {
			bits++
		}
		out = append(out, netip.PrefixFrom(netip.AddrFrom4(a), bits))
	}
	return out, s.Err()
}

func hostHasIPv6() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/all/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}

// uniqueLocal is a /64 below fd00::/8 (RFC 4193) whose global id is the hash.
func uniqueLocal(sum [sha256.Size]byte) netip.Prefix {
	var a [16]byte
	a[0] = 0xfd
	copy(a[1:8], sum[:])
	return netip.PrefixFrom(netip.AddrFrom16(a), 64)
}
