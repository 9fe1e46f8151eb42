package bridge

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
)

// conf is the plugin's configuration as it comes on stdin.
type conf struct {
	types.NetConf
	Bridge    string       `json:"bridge"`
	Table     string       `json:"table"`
	Subnet    netip.Prefix `json:"subnet"`
	Subnet6   netip.Prefix `json:"subnet6"`
	StateDir  string       `json:"stateDir"`
	MTU       int          `json:"mtu"`
	LazyLinks bool         `json:"lazyLinks"`

	RuntimeConfig struct {
		PortMappings []portMapping `json:"portMappings"`
	} `json:"runtimeConfig"`
}

// portMapping is an entry of the portMappings capability.
type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

func parseConf(b []byte) (*conf, error) {
	c := &conf{Bridge: "berth0", StateDir: "/var/lib/berth-bridge"}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "configuration: "+err.Error(), "")
	}
	if c.Table == "" {
		c.Table = c.Bridge
	}
	if err := c.check(); err != nil {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "configuration: "+err.Error(), "")
	}
	return c, nil
}

func (c *conf) check() error {
	switch {
	case c.Bridge == "" || len(c.Bridge) > 15:
		return fmt.Errorf("bridge %q is not 1 to 15 bytes: %w", c.Bridge, fs.ErrInvalid)
	case !filepath.IsAbs(c.StateDir):
		return fmt.Errorf("stateDir %q is not absolute: %w", c.StateDir, fs.ErrInvalid)
	case c.MTU < 0:
		return fmt.Errorf("mtu %d: %w", c.MTU, fs.ErrInvalid)
	}
	if err := checkRanges(c.Subnet, c.Subnet6); err != nil {
		return err
	}
	if c.Subnet.IsValid() {
		c.Subnet = c.Subnet.Masked()
	}
	if c.Subnet6.IsValid() {
		c.Subnet6 = c.Subnet6.Masked()
	}
	return nil
}

// checkPorts checks what ADD is to lead where. DEL gets the same mappings and must succeed whatever they are: it gives
// back what the lease says.
func (c *conf) checkPorts() error {
	for _, p := range c.RuntimeConfig.PortMappings {
		if err := p.check(); err != nil {
			return types.NewError(types.ErrInvalidNetworkConfig, "configuration: "+err.Error(), "")
		}
	}
	return nil
}

// checkRanges checks the families and sizes of the ranges, either of which may be missing.
func checkRanges(v4, v6 netip.Prefix) error {
	has4, has6 := v4.IsValid(), v6.IsValid()
	switch {
	case !has4 && !has6:
		return fmt.Errorf("neither subnet nor subnet6: %w", fs.ErrInvalid)
	case has4 && (!v4.Addr().Is4() || v4.Bits() < 8 || v4.Bits() > 30):
		return fmt.Errorf("subnet %s is not an IPv4 range of /8 to /30: %w", v4, fs.ErrInvalid)
	case has6 && (!v6.Addr().Is6() || v6.Bits() > 112):
		return fmt.Errorf("subnet6 %s is not an IPv6 range of at least a /112: %w", v6, fs.ErrInvalid)
	case has4 && has6 && 128-v6.Bits() < 32-v4.Bits():
		return fmt.Errorf("subnet6 %s is smaller than subnet %s: %w", v6, v4, fs.ErrInvalid)
	}
	return nil
}

func (p portMapping) check() error {
	if _, ok := protocols()[p.Protocol]; !ok {
		return fmt.Errorf("port mapping protocol %q: %w", p.Protocol, fs.ErrInvalid)
	}
	if p.ContainerPort == 0 {
		return fmt.Errorf("port mapping %d: containerPort 0: %w", p.HostPort, fs.ErrInvalid)
	}
	if p.HostIP != "" {
		if _, err := netip.ParseAddr(p.HostIP); err != nil {
			return fmt.Errorf("port mapping %d: hostIP: %w", p.HostPort, err)
		}
	}
	return nil
}

const (
	gatewayIndex = 1 // the first address of the range
	firstIndex   = 2
)

// lastIndex is the index of the last address for pods.
func (c *conf) lastIndex() uint32 {
	if c.Subnet.IsValid() {
		return 1<<(32-c.Subnet.Bits()) - 2 // the last one is the broadcast address
	}
	return 1<<16 - 1
}

// addrs are the addresses of an index with the lengths of their subnets, IPv4 first.
func (c *conf) addrs(index uint32) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []netip.Prefix{c.Subnet, c.Subnet6} {
		if p.IsValid() {
			out = append(out, netip.PrefixFrom(nth(p.Addr(), index), p.Bits()))
		}
	}
	return out
}

// nth is the address that lies n after a, which is the start of a range.
func nth(a netip.Addr, n uint32) netip.Addr {
	b := a.AsSlice()
	for i := len(b) - 1; n > 0; i-- {
		n += uint32(b[i])
		b[i] = byte(n)
		n >>= 8
	}
	out, _ := netip.AddrFromSlice(b)
	return out
}

// mac is the hardware address of an index: locally administered, and a function of the address.
func (c *conf) mac(index uint32) []byte {
	if c.Subnet.IsValid() {
		return append([]byte{0x0a, 0x58}, nth(c.Subnet.Addr(), index).AsSlice()...)
	}
	return []byte{0x0a, 0x59, byte(index >> 24), byte(index >> 16), byte(index >> 8), byte(index)}
}
