package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// Messages and attributes of linux/netfilter/nfnetlink_conntrack.h, which x/sys/unix does not name.
const (
	ctGet, ctDelete                  = 1, 2 // IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE
	ctTupleOrig, ctTupleReply        = 1, 2
	ctTupleIP, ctTupleProto          = 1, 2
	ctIP4Src, ctIP4Dst               = 1, 2
	ctIP6Src, ctIP6Dst               = 3, 4
	ctProtoNum, ctProtoDst           = 1, 3
	ctFilter, ctFilterOrig           = 25, 1
	ctFilterNum, ctFilterDstPort     = 1 << 3, 1 << 5 // of the kernel's CTA_FILTER_F_*, 5.8 and later
	ctSubsystem                  int = unix.NFNL_SUBSYS_CTNETLINK << 8
)

// flow is the original direction of a connection.
type flow struct {
	dst   netip.Addr
	proto uint8
	dport uint16
}

// flushConntrack makes the kernel forget UDP connections to host ports whose translation changed: they would keep the
// old one for as long as packets come. Those of other protocols end or fail by themselves.
func flushConntrack(es []element) error {
	ports := map[uint16]bool{}
	for _, e := range es {
		if e.of.Protocol == "udp" {
			ports[e.of.HostPort] = true
		}
	}
	if len(ports) == 0 {
		return nil
	}
	c, err := dial(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return fmt.Errorf("conntrack socket: %w", err)
	}
	defer c.Close()
	for port := range ports {
		for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
			if err := flushPort(c, family, port); err != nil {
				return fmt.Errorf("conntrack entries of port %d: %w", port, err)
			}
		}
	}
	return nil
}

// flushPort deletes the entries of one port and family.
func flushPort(c *netlink.Conn, family uint8, port uint16) error {
	entries, err := c.Execute(ctRequest(ctGet, netlink.Dump, family, ctPortFilter(port)))
	if err != nil {
		// A kernel without filters; what does not concern us is skipped below.
		entries, err = c.Execute(ctRequest(ctGet, netlink.Dump, family, nil))
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
			return nil // the kernel has no such interface, and no other one
		}
		if err != nil {
			return err
		}
	}
	local := localAddrs()
	for _, m := range entries {
		if len(m.Data) < 4 {
			continue
		}
		orig, raw, err := parseEntry(m.Data[4:])
		if err != nil {
			return err
		}
		// What pods send to that port elsewhere, or to a service's address, is not ours.
		if orig.proto != unix.IPPROTO_UDP || orig.dport != port || !local(orig.dst) {
			continue
		}
		_, err = c.Execute(ctRequest(ctDelete, netlink.Acknowledge, family, raw))
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

func ctRequest(kind int, flags netlink.HeaderFlags, family uint8, attrs []byte) netlink.Message {
	return netlink.Message{
		Header: netlink.Header{Type: netlink.HeaderType(ctSubsystem | kind), Flags: netlink.Request | flags},
		Data:   append([]byte{family, unix.NFNETLINK_V0, 0, 0}, attrs...), // struct nfgenmsg
	}
}

// ctPortFilter has the kernel list only UDP connections to a port.
func ctPortFilter(port uint16) []byte {
	ae := netlink.NewAttributeEncoder()
	ae.ByteOrder = binary.BigEndian
	ae.Nested(ctTupleOrig, func(ae *netlink.AttributeEncoder) error {
		ae.Nested(ctTupleProto, func(ae *netlink.AttributeEncoder) error {
			ae.Uint8(ctProtoNum, unix.IPPROTO_UDP)
			ae.Uint16(ctProtoDst, port)
			return nil
		})
		return nil
	})
	ae.Nested(ctFilter, func(ae *netlink.AttributeEncoder) error {
		ae.ByteOrder = binary.NativeEndian
		ae.Uint32(ctFilterOrig, ctFilterNum|ctFilterDstPort)
		return nil
	})
	b, err := ae.Encode()
	if err != nil {
		return nil // no filter: everything is listed
	}
	return b
}

// parseEntry reads the original direction of an entry, and returns its attribute as it came: it names the entry for
// deletion.
func parseEntry(b []byte) (orig flow, raw []byte, err error) {
	ad, err := netlink.NewAttributeDecoder(b)
	if err != nil {
		return flow{}, nil, err
	}
	for ad.Next() {
		if ad.Type() != ctTupleOrig {
			continue
		}
		tuple := netlink.NewAttributeEncoder()
		tuple.Bytes(unix.NLA_F_NESTED|ctTupleOrig, ad.Bytes())
		if raw, err = tuple.Encode(); err != nil {
			return flow{}, nil, err
		}
		ad.Nested(orig.parse)
	}
	return orig, raw, ad.Err()
}

func (f *flow) parse(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		switch ad.Type() {
		case ctTupleIP:
			ad.Nested(f.parseAddrs)
		case ctTupleProto:
			ad.Nested(f.parseProto)
		}
	}
	return ad.Err()
}

func (f *flow) parseAddrs(ad *netlink.AttributeDecoder) error {
	for ad.Next() {
		if t := ad.Type(); t == ctIP4Dst || t == ctIP6Dst {
			f.dst, _ = netip.AddrFromSlice(ad.Bytes())
		}
	}
	return ad.Err()
}

func (f *flow) parseProto(ad *netlink.AttributeDecoder) error {
	ad.ByteOrder = binary.BigEndian
	for ad.Next() {
		switch ad.Type() {
		case ctProtoNum:
			f.proto = ad.Uint8()
		case ctProtoDst:
			f.dport = ad.Uint16()
		}
	}
	return ad.Err()
}

// localAddrs returns a test for addresses of this host.
func localAddrs() func(netip.Addr) bool {
	have := map[netip.Addr]bool{}
	addrs, err := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			have[p.Addr()] = true
		}
	}
	return func(a netip.Addr) bool { return err != nil || a.IsLoopback() || have[a] }
}
