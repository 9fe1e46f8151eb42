package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Attributes that x/sys/unix does not name (linux/if_link.h, linux/veth.h).
const (
	vethInfoPeer  = 1 // VETH_INFO_PEER
	brportHairpin = 4 // IFLA_BRPORT_MODE
)

// route is a routing netlink socket of one network namespace.
type route struct{ c *netlink.Conn }

// openRoute opens a socket in the namespace behind the descriptor; 0 means the current one.
func openRoute(netns int) (route, error) {
	c, err := dial(unix.NETLINK_ROUTE, netns)
	if err != nil {
		return route{}, err
	}
	return route{c}, nil
}

func (r route) close() { r.c.Close() }

// message is a request with an acknowledgement.
func message(kind uint16, flags netlink.HeaderFlags, body []byte, attrs func(*netlink.AttributeEncoder)) (netlink.Message, error) {
	ae := netlink.NewAttributeEncoder()
	attrs(ae)
	b, err := ae.Encode()
	if err != nil {
		return netlink.Message{}, err
	}
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request | netlink.Acknowledge | flags},
		Data:   append(body, b...),
	}, nil
}

// do sends one request.
func (r route) do(kind uint16, flags netlink.HeaderFlags, body []byte, attrs func(*netlink.AttributeEncoder)) error {
	m, err := message(kind, flags, body, attrs)
	if err != nil {
		return err
	}
	_, err = r.c.Execute(m)
	return err
}

// ifinfo is struct ifinfomsg (rtnetlink(7)).
func ifinfo(family uint8, index int32, flags, change uint32) []byte {
	b := make([]byte, 16)
	b[0] = family
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	binary.NativeEndian.PutUint32(b[8:], flags)
	binary.NativeEndian.PutUint32(b[12:], change)
	return b
}

// link is what we want to know of a link.
type link struct {
	index, master int32
	name          string
	mac           []byte
}

// link finds a link by name; the error wraps unix.ENODEV when there is none.
func (r route) link(name string) (link, error) {
	reply, err := r.get(unix.RTM_GETLINK, 0, ifinfo(unix.AF_UNSPEC, 0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
	})
	if err != nil {
		return link{}, fmt.Errorf("link %s: %w", name, err)
	}
	if len(reply) != 1 {
		return link{}, fmt.Errorf("link %s: %d answers", name, len(reply))
	}
	return parseLink(reply[0].Data)
}

// index is the index of a link; the error wraps unix.ENODEV when there is none.
func (r route) index(name string) (int32, error) {
	l, err := r.link(name)
	return l.index, err
}

// ports lists the names of a bridge's ports.
func (r route) ports(bridge int32) ([]string, error) {
	reply, err := r.get(unix.RTM_GETLINK, netlink.Dump, ifinfo(unix.AF_UNSPEC, 0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Uint32(unix.IFLA_MASTER, uint32(bridge))
	})
	if err != nil {
		return nil, err
	}
	var out []string
	for _, m := range reply {
		l, err := parseLink(m.Data)
		if err != nil {
			return nil, err
		}
		if l.master == bridge {
			out = append(out, l.name)
		}
	}
	return out, nil
}

// get asks for something, without an acknowledgement.
func (r route) get(kind uint16, flags netlink.HeaderFlags, body []byte, attrs func(*netlink.AttributeEncoder)) ([]netlink.Message, error) {
	m, err := message(kind, flags, body, attrs)
	if err != nil {
		return nil, err
	}
	m.Header.Flags &^= netlink.Acknowledge
	return r.c.Execute(m)
}

// parseLink reads a link message.
func parseLink(b []byte) (link, error) {
	if len(b) < 16 {
		return link{}, errors.New("short link message")
	}
	l := link{index: int32(binary.NativeEndian.Uint32(b[4:]))}
	ad, err := netlink.NewAttributeDecoder(b[16:])
	if err != nil {
		return link{}, err
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.IFLA_IFNAME:
			l.name = ad.String()
		case unix.IFLA_MASTER:
			l.master = int32(ad.Uint32())
		case unix.IFLA_ADDRESS:
			l.mac = ad.Bytes()
		}
	}
	return l, ad.Err()
}

// addrs returns the addresses of a link.
func (r route) addrs(index int32) (map[netip.Addr]bool, error) {
	reply, err := r.get(unix.RTM_GETADDR, netlink.Dump, make([]byte, 8), func(*netlink.AttributeEncoder) {})
	if err != nil {
		return nil, err
	}
	out := map[netip.Addr]bool{}
	for _, m := range reply {
		if len(m.Data) < 8 || int32(binary.NativeEndian.Uint32(m.Data[4:])) != index {
			continue
		}
		ad, err := netlink.NewAttributeDecoder(m.Data[8:])
		if err != nil {
			return nil, err
		}
		for ad.Next() {
			if ad.Type() == unix.IFA_ADDRESS {
				if a, ok := netip.AddrFromSlice(ad.Bytes()); ok {
					out[a] = true
				}
			}
		}
		if err := ad.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// addBridge makes a bridge that is up, and returns its index. It may exist already.
func (r route) addBridge(name string, mac []byte, mtu int) (int32, error) {
	err := r.do(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, ifinfo(0, 0, unix.IFF_UP, unix.IFF_UP), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
		// Without an address of its own a bridge takes that of a port, and changes it when that port goes.
		ae.Bytes(unix.IFLA_ADDRESS, mac)
		if mtu != 0 {
			ae.Uint32(unix.IFLA_MTU, uint32(mtu))
		}
		ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
			ae.String(unix.IFLA_INFO_KIND, "bridge")
			return nil
		})
	})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("make bridge %s: %w", name, err)
	}
	return r.index(name)
}

// veth describes a pair to be made: its host end as a port of a bridge, its peer in a namespace.
type veth struct {
	host, peer string
	bridge     int32
	netns      int // descriptor
	mac        []byte
	mtu        int
}

// addVeth makes a pair by one message: moving a link to another namespace would wait for RCU. The host's end is up;
// the peer can't be before the ends know each other (veth_open in drivers/net/veth.c).
func (r route) addVeth(v veth) error {
	return r.do(unix.RTM_NEWLINK, netlink.Create|netlink.Excl, ifinfo(0, 0, unix.IFF_UP, unix.IFF_UP), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, v.host)
		ae.Uint32(unix.IFLA_MASTER, uint32(v.bridge))
		if v.mtu != 0 {
			ae.Uint32(unix.IFLA_MTU, uint32(v.mtu))
		}
		ae.Nested(unix.IFLA_LINKINFO, func(ae *netlink.AttributeEncoder) error {
			ae.String(unix.IFLA_INFO_KIND, "veth")
			ae.Nested(unix.IFLA_INFO_DATA, func(ae *netlink.AttributeEncoder) error {
				peer, err := v.encodePeer()
				ae.Bytes(unix.NLA_F_NESTED|vethInfoPeer, peer)
				return err
			})
			return nil
		})
	})
}

// encodePeer is the attribute of the pod's end: a whole link message.
func (v veth) encodePeer() ([]byte, error) {
	ae := netlink.NewAttributeEncoder()
	ae.String(unix.IFLA_IFNAME, v.peer)
	ae.Bytes(unix.IFLA_ADDRESS, v.mac)
	ae.Uint32(unix.IFLA_NET_NS_FD, uint32(v.netns))
	if v.mtu != 0 {
		ae.Uint32(unix.IFLA_MTU, uint32(v.mtu))
	}
	b, err := ae.Encode()
	return append(ifinfo(0, 0, 0, 0), b...), err
}

// setHairpin lets the bridge send packets back out of the port they came from: a pod may call itself by a host port
// or by a service's address.
func (r route) setHairpin(index int32) error {
	return r.do(unix.RTM_SETLINK, 0, ifinfo(unix.AF_BRIDGE, index, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.Nested(unix.IFLA_PROTINFO, func(ae *netlink.AttributeEncoder) error {
			ae.Uint8(brportHairpin, 1)
			return nil
		})
	})
}

// delLink deletes a link by name; one that is not there is success. It waits for RCU: 30 ms on an idle kernel.
func (r route) delLink(name string) error {
	err := r.do(unix.RTM_DELLINK, 0, ifinfo(0, 0, 0, 0), func(ae *netlink.AttributeEncoder) {
		ae.String(unix.IFLA_IFNAME, name)
	})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// addrMessage gives a link an address. IPv6 goes without duplicate detection: addresses are ours to give, a hairpin
// port would reflect the probe, and pods would wait a second for it.
func addrMessage(index int32, p netip.Prefix) (netlink.Message, error) {
	body := make([]byte, 8) // struct ifaddrmsg
	body[0], body[1] = afOf(p.Addr()), uint8(p.Bits())
	if p.Addr().Is6() {
		body[2] = unix.IFA_F_NODAD
	}
	binary.NativeEndian.PutUint32(body[4:], uint32(index))
	return message(unix.RTM_NEWADDR, netlink.Create|netlink.Excl, body, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.IFA_LOCAL, p.Addr().AsSlice())
		ae.Bytes(unix.IFA_ADDRESS, p.Addr().AsSlice())
		if p.Addr().Is4() {
			ae.Bytes(unix.IFA_BROADCAST, broadcast(p).AsSlice())
		}
	})
}

// defaultRouteMessage sends all that is not local through the gateway.
func defaultRouteMessage(index int32, gateway netip.Addr) (netlink.Message, error) {
	body := make([]byte, 12) // struct rtmsg
	body[0], body[4], body[5], body[7] = afOf(gateway), unix.RT_TABLE_MAIN, unix.RTPROT_BOOT, unix.RTN_UNICAST
	return message(unix.RTM_NEWROUTE, netlink.Create|netlink.Excl, body, func(ae *netlink.AttributeEncoder) {
		ae.Bytes(unix.RTA_GATEWAY, gateway.AsSlice())
		ae.Uint32(unix.RTA_OIF, uint32(index))
	})
}

// upMessage brings a link up.
func upMessage(index int32) (netlink.Message, error) {
	return message(unix.RTM_NEWLINK, 0, ifinfo(0, index, unix.IFF_UP, unix.IFF_UP), func(*netlink.AttributeEncoder) {})
}

// batch sends requests at once and returns the errors of those that were refused.
func (r route) batch(ms []netlink.Message) error {
	if _, err := r.c.SendMessages(ms); err != nil {
		return err
	}
	var errs []error
	for range ms {
		if _, err := r.c.Receive(); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func afOf(a netip.Addr) uint8 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func broadcast(p netip.Prefix) netip.Addr {
	return nth(p.Masked().Addr(), 1<<(32-p.Bits())-1)
}
