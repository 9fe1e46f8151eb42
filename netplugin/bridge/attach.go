package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// loIndex is the index of lo in every network namespace.
const loIndex = 1

// add connects a pod: lease, bridge and table under the lock; links and addresses without it.
func add(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	if err := c.checkPorts(); err != nil {
		return err
	}
	netns, err := os.Open(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, err.Error(), "")
	}
	defer netns.Close()
	host, err := openRoute(0)
	if err != nil {
		return err
	}
	defer host.close()
	le, bridge, err := host.lease(c, args)
	if err != nil {
		return err
	}
	if err := host.connect(c, le, bridge, args, netns); err != nil {
		return errors.Join(err, detach(c, leaseKey(args.ContainerID, args.IfName), le.Host))
	}
	return types.PrintResult(c.result(le, args), c.CNIVersion)
}

// lease takes an address and makes sure of the bridge and the table. After an error nothing is held.
func (r route) lease(c *conf, args *skel.CmdArgs) (lease, int32, error) {
	l, err := openLeases(c)
	if err != nil {
		return lease{}, 0, err
	}
	defer l.close()
	all, err := l.list()
	if err != nil {
		return lease{}, 0, err
	}
	key := leaseKey(args.ContainerID, args.IfName)
	if _, ok := all[key]; ok {
		return lease{}, 0, fmt.Errorf("container %s has an interface %s: %w", args.ContainerID, args.IfName, fs.ErrExist)
	}
	le, err := l.take(c, all, lease{
		Key: key, Host: hostName(c.Bridge, key), Boot: bootID(), Ports: c.RuntimeConfig.PortMappings,
	})
	if err != nil {
		return lease{}, 0, err
	}
	bridge, err := r.ensureBridge(c)
	if err == nil {
		err = ensureTable(c, l, le)
	}
	if err != nil {
		return lease{}, 0, errors.Join(err, l.release(le))
	}
	return le, bridge, nil
}

// hostName is the name of the host's end of the pair, at most 15 bytes; bridges are what differs between daemons.
func hostName(bridge, key string) string {
	sum := sha256.Sum256([]byte(bridge + "@" + key))
	return vethPrefix + hex.EncodeToString(sum[:5])
}

const vethPrefix = "veth"

// ensureBridge makes what is missing of the bridge: every step is idempotent, since we may have died between any two.
func (r route) ensureBridge(c *conf) (int32, error) {
	index, err := r.index(c.Bridge)
	made := errors.Is(err, unix.ENODEV)
	if made {
		if err := c.checkOverlap(); err != nil {
			return 0, err
		}
		index, err = r.addBridge(c.Bridge, c.mac(gatewayIndex), c.MTU)
	}
	if err != nil {
		return 0, err
	}
	for _, p := range c.addrs(gatewayIndex) {
		m, err := addrMessage(index, p)
		if err != nil {
			return 0, err
		}
		if err := r.batch([]netlink.Message{m}); err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("bridge %s: address %s: %w", c.Bridge, p, err)
		}
	}
	for _, s := range c.sysctls() {
		if err := setSysctl(s, "1"); err != nil {
			return 0, err
		}
	}
	return index, nil
}

// sysctls are those of the host that must be 1.
func (c *conf) sysctls() []string {
	var out []string
	if c.Subnet.IsValid() {
		out = append(out, "net/ipv4/ip_forward", "net/ipv4/conf/"+c.Bridge+"/route_localnet")
	}
	if c.Subnet6.IsValid() {
		out = append(out, "net/ipv6/conf/all/forwarding")
	}
	return out
}

// checkOverlap refuses to make a bridge whose range another link of the host has.
func (c *conf) checkOverlap() error {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return err
	}
	for _, a := range addrs {
		have, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		for _, want := range []netip.Prefix{c.Subnet, c.Subnet6} {
			if want.IsValid() && want.Overlaps(have.Masked()) {
				return types.NewError(types.ErrInvalidNetworkConfig, fmt.Sprintf("range %s overlaps address %s of this host", want, have), "")
			}
		}
	}
	return nil
}

// connect makes the links and configures the pod's end.
func (r route) connect(c *conf, le lease, bridge int32, args *skel.CmdArgs, netns *os.File) error {
	v := veth{host: le.Host, peer: args.IfName, bridge: bridge, netns: int(netns.Fd()), mac: c.mac(le.Index), mtu: c.MTU}
	err := r.addVeth(v)
	if errors.Is(err, unix.EEXIST) {
		// An earlier attachment of the same pod, whose DEL left the pair to the end of the namespace.
		if err := r.delLink(le.Host); err != nil {
			return err
		}
		err = r.addVeth(v)
	}
	if err != nil {
		return fmt.Errorf("make veth pair %s, %s: %w", le.Host, args.IfName, err)
	}
	port, err := r.index(le.Host)
	if err != nil {
		return err
	}
	if err := r.setHairpin(port); err != nil {
		return fmt.Errorf("hairpin mode of %s: %w", le.Host, err)
	}
	pod, err := openRoute(int(netns.Fd()))
	if err != nil {
		return fmt.Errorf("enter %s: %w", args.Netns, err)
	}
	defer pod.close()
	if err := pod.configure(c, le, args.IfName); err != nil {
		return fmt.Errorf("configure %s: %w", args.IfName, err)
	}
	return nil
}

// configure brings lo up and gives the pod's interface its addresses and default routes.
func (r route) configure(c *conf, le lease, ifname string) error {
	index, err := r.index(ifname)
	if err != nil {
		return err
	}
	var ms []netlink.Message
	var errs []error
	put := func(m netlink.Message, err error) {
		ms, errs = append(ms, m), append(errs, err)
	}
	put(upMessage(loIndex))
	for _, p := range c.addrs(le.Index) {
		put(addrMessage(index, p))
	}
	put(upMessage(index))
	for _, p := range c.addrs(gatewayIndex) {
		put(defaultRouteMessage(index, p.Addr()))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return r.batch(ms)
}

// result is the answer to ADD.
func (c *conf) result(le lease, args *skel.CmdArgs) *types100.Result {
	inPod := 2
	r := &types100.Result{
		CNIVersion: types100.ImplementedSpecVersion,
		Interfaces: []*types100.Interface{
			{Name: c.Bridge, Mac: net.HardwareAddr(c.mac(gatewayIndex)).String()},
			{Name: le.Host},
			{Name: args.IfName, Mac: net.HardwareAddr(c.mac(le.Index)).String(), Sandbox: args.Netns},
		},
		DNS: c.DNS,
	}
	gateways := c.addrs(gatewayIndex)
	for i, p := range c.addrs(le.Index) {
		r.IPs = append(r.IPs, &types100.IPConfig{
			Interface: &inPod, Address: ipNet(p), Gateway: gateways[i].Addr().AsSlice(),
		})
		zero := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if p.Addr().Is6() {
			zero = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
		r.Routes = append(r.Routes, &types.Route{Dst: ipNet(zero), GW: gateways[i].Addr().AsSlice()})
	}
	return r
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
