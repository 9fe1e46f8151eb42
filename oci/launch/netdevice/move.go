package netdevice

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Attributes of addresses that x/sys/unix does not name (linux/if_addr.h).
const (
	ifaFlags      = 8
	ifaRtPriority = 9
	ifaProto      = 11
)

// Move moves the device called from into the network namespace ns, where it is called to, or what the kernel makes of
// that if it is a template, and brings it up with its permanent addresses of global scope.
func Move(from, to string, ns *os.File) error {
	here, err := open()
	if err != nil {
		return err
	}
	defer here.close()
	there, err := openIn(ns)
	if err != nil {
		return err
	}
	defer there.close()
	index, err := here.index(from)
	if err != nil {
		return fmt.Errorf("device %s: %w", from, err)
	}
	addresses, err := here.addresses(index)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", from, err)
	}
	before, err := there.names()
	if err != nil {
		return err
	}
	// The kernel looks at the name when the device has moved already: it goes first and is renamed there.
	for _, name := range before {
		if name == to {
			return fmt.Errorf("move %s as %s: %w", from, to, fs.ErrExist)
		}
	}
	if err := here.move(index, to, ns); err != nil {
		return fmt.Errorf("move %s as %s: %w", from, to, err)
	}
	index, name, err := there.arrived(before, to)
	if err != nil {
		return err
	}
	for _, a := range addresses {
		if err := there.add(index, a, from, name); err != nil {
			return fmt.Errorf("address of %s: %w", name, err)
		}
	}
	if err := there.up(index); err != nil {
		return fmt.Errorf("bring up %s: %w", name, err)
	}
	return nil
}

// linkBody is an ifinfomsg.
func linkBody(index int32, flags, change uint32) []byte {
	b := make([]byte, 4, unix.SizeofIfInfomsg)
	b = binary.NativeEndian.AppendUint32(b, uint32(index))
	return append(append(b, number(flags)...), number(change)...)
}

func linkIndex(m *syscall.NetlinkMessage) int32 {
	if len(m.Data) < unix.SizeofIfInfomsg {
		return 0
	}
	return int32(binary.NativeEndian.Uint32(m.Data[4:]))
}

func (s *socket) index(name string) (int32, error) {
	list, err := s.ask(unix.RTM_GETLINK, unix.NLM_F_ACK, append(linkBody(0, 0, 0), attr(unix.IFLA_IFNAME, text(name))...))
	if err != nil {
		return 0, err
	}
	if len(list) != 1 {
		return 0, fs.ErrNotExist
	}
	return linkIndex(&list[0]), nil
}

// names lists the devices of the namespace by index.
func (s *socket) names() (map[int32]string, error) {
	list, err := s.ask(unix.RTM_GETLINK, unix.NLM_F_DUMP, linkBody(0, 0, 0))
	if err != nil {
		return nil, fmt.Errorf("list devices: %w", err)
	}
	out := map[int32]string{}
	for i := range list {
		attrs, err := syscall.ParseNetlinkRouteAttr(&list[i])
		if err != nil {
			return nil, fmt.Errorf("list devices: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.IFLA_IFNAME {
				out[linkIndex(&list[i])] = strings.TrimRight(string(a.Value), "\x00")
			}
		}
	}
	return out, nil
}

// arrived finds the device that has come: its index may be another one here, and its name is not known beforehand when
// it is a template's.
func (s *socket) arrived(before map[int32]string, to string) (int32, string, error) {
	now, err := s.names()
	if err != nil {
		return 0, "", err
	}
	stem, _, template := strings.Cut(to, "%d")
	for index, name := range now {
		if before[index] == "" && (name == to || template && strings.HasPrefix(name, stem)) {
			return index, name, nil
		}
	}
	return 0, "", fmt.Errorf("device %s did not arrive: %w", to, fs.ErrNotExist)
}

func (s *socket) move(index int32, name string, ns *os.File) error {
	body := append(linkBody(index, 0, 0), attr(unix.IFLA_NET_NS_FD, number(uint32(ns.Fd())))...)
	_, err := s.ask(unix.RTM_NEWLINK, unix.NLM_F_ACK, append(body, attr(unix.IFLA_IFNAME, text(name))...))
	return err
}

func (s *socket) up(index int32) error {
	_, err := s.ask(unix.RTM_NEWLINK, unix.NLM_F_ACK, linkBody(index, unix.IFF_UP, unix.IFF_UP))
	return err
}

// address is what is kept of an ifaddrmsg.
type address struct {
	family, prefix byte
	flags          uint32
	attrs          []syscall.NetlinkRouteAttr
}

// addresses lists the permanent ones of global scope.
func (s *socket) addresses(index int32) ([]address, error) {
	list, err := s.ask(unix.RTM_GETADDR, unix.NLM_F_DUMP, make([]byte, unix.SizeofIfAddrmsg))
	if err != nil {
		return nil, err
	}
	var out []address
	for i := range list {
		m := &list[i]
		if len(m.Data) < unix.SizeofIfAddrmsg || int32(binary.NativeEndian.Uint32(m.Data[4:])) != index {
			continue
		}
		a := address{family: m.Data[0], prefix: m.Data[1], flags: uint32(m.Data[2])}
		if a.attrs, err = syscall.ParseNetlinkRouteAttr(m); err != nil {
			return nil, err
		}
		for _, x := range a.attrs {
			if x.Attr.Type == ifaFlags && len(x.Value) == 4 {
				a.flags = binary.NativeEndian.Uint32(x.Value)
			}
		}
		if a.flags&unix.IFA_F_PERMANENT != 0 && m.Data[3] == unix.RT_SCOPE_UNIVERSE {
			out = append(out, a)
		}
	}
	return out, nil
}

// kept are the flags somebody has set; the others are what became of the address.
const kept = unix.IFA_F_NODAD | unix.IFA_F_HOMEADDRESS | unix.IFA_F_MANAGETEMPADDR | unix.IFA_F_NOPREFIXROUTE | unix.IFA_F_MCAUTOJOIN

// add gives a device an address it had under another name. A label begins with the device's name, so it changes too.
func (s *socket) add(index int32, a address, from, to string) error {
	body := binary.NativeEndian.AppendUint32([]byte{a.family, a.prefix, 0, unix.RT_SCOPE_UNIVERSE}, uint32(index))
	for _, x := range a.attrs {
		value := x.Value
		switch x.Attr.Type {
		case unix.IFA_LABEL:
			label := strings.TrimRight(string(value), "\x00")
			if rest, ok := strings.CutPrefix(label, from); ok && len(to+rest) < unix.IFNAMSIZ {
				label = to + rest
			}
			value = text(label)
		case unix.IFA_LOCAL, unix.IFA_ADDRESS, unix.IFA_BROADCAST, ifaRtPriority, ifaProto:
		default:
			continue
		}
		body = append(body, attr(x.Attr.Type, value)...)
	}
	body = append(body, attr(ifaFlags, number(a.flags&kept))...)
	_, err := s.ask(unix.RTM_NEWADDR, unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, body)
	if errors.Is(err, unix.EEXIST) {
		return nil // the kernel has made the same one
	}
	return err
}
