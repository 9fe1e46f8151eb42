package bridge

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// layoutVersion changes whenever the rules do.
const layoutVersion = 1

// protocols are the transport protocols of host ports.
func protocols() map[string]byte {
	return map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}
}

// table is our nftables table, family inet:
//
//	map ports4, ports6    host address . protocol . port -> pod address . port
//	map any4, any6        protocol . port -> pod address . port
//	chain hostports       destination translation by the maps, the more exact first
//	chain prerouting      destined to this host: hostports       chain output: the same for what the host itself sends
//	chain postrouting     masquerade what leaves the range, what comes back to it by a host port, and 127.0.0.1
//	chain guard           drop what pods send to 127.0.0.0/8, which route_localnet would let in
//	chain layout-<hash>   empty: says that the table was made for this configuration by this version of the rules
type table struct {
	conn *nftables.Conn
	t    *nftables.Table
	c    *conf
}

func openTable(c *conf) (*table, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("nftables socket: %w", err)
	}
	return &table{conn: conn, t: &nftables.Table{Name: c.Table, Family: nftables.TableFamilyINet}, c: c}, nil
}

// close closes the socket. There is nothing to be done about an error.
func (t *table) close() { _ = t.conn.CloseLasting() }

// ensureTable makes the table if it is missing or not as it should be, and maps the new lease's ports.
func ensureTable(c *conf, l *leases, le lease) error {
	t, err := openTable(c)
	if err != nil {
		return err
	}
	defer t.close()
	if !t.current() {
		if err := t.rebuild(l); err != nil {
			return fmt.Errorf("table %s: %w", c.Table, err)
		}
	}
	if len(le.Ports) == 0 {
		return nil
	}
	return t.addPorts(le)
}

// layout is the name of the chain that tells what the table was made for.
func (t *table) layout() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s %s %s", layoutVersion, t.c.Bridge, t.c.Subnet, t.c.Subnet6))
	return "layout-" + hex.EncodeToString(sum[:6])
}

// current tells whether the table is there and as it should be. It is made in one transaction, hence whole.
func (t *table) current() bool {
	_, err := t.conn.ListChain(t.t, t.layout())
	return err == nil
}

// rebuild makes the table anew, in one transaction, with the ports of all leases of this boot: someone may have
// flushed the rule set under running pods.
func (t *table) rebuild(l *leases) error {
	t.conn.AddTable(t.t) // so that it can be deleted
	t.conn.DelTable(t.t)
	t.conn.AddTable(t.t)
	t.conn.AddChain(&nftables.Chain{Table: t.t, Name: t.layout()})
	if err := t.addMaps(); err != nil {
		return err
	}
	t.addRules()
	if err := t.conn.Flush(); err != nil {
		return err
	}
	all, err := l.list()
	if err != nil {
		return err
	}
	boot := bootID()
	var errs []error
	for key, index := range all {
		if le := l.read(key, index); le.Boot == boot && len(le.Ports) > 0 {
			errs = append(errs, t.addPorts(le))
		}
	}
	return errors.Join(errs...)
}

// portMap is one of the maps.
type portMap struct {
	name  string
	v6    bool
	exact bool // keys begin with an address
}

func portMaps() []portMap {
	return []portMap{{"ports4", false, true}, {"any4", false, false}, {"ports6", true, true}, {"any6", true, false}}
}

// set is the map in nftables' terms.
func (t *table) set(m portMap) *nftables.Set {
	addr := nftables.TypeIPAddr
	if m.v6 {
		addr = nftables.TypeIP6Addr
	}
	key := []nftables.SetDatatype{nftables.TypeInetProto, nftables.TypeInetService}
	if m.exact {
		key = append([]nftables.SetDatatype{addr}, key...)
	}
	return &nftables.Set{
		Table: t.t, Name: m.name, IsMap: true, Concatenation: true,
		KeyType:  nftables.MustConcatSetType(key...),
		DataType: nftables.MustConcatSetType(addr, nftables.TypeInetService),
	}
}

func (t *table) addMaps() error {
	for _, m := range portMaps() {
		if err := t.conn.AddSet(t.set(m), nil); err != nil {
			return err
		}
	}
	return nil
}

// element is an entry of one of the maps.
type element struct {
	in  portMap
	key []byte
	val []byte
	of  portMapping
}

// elements are the entries a lease stands for. A mapping without a host address, or with the unspecified one, counts
// for every address of the host, of the family given or of both.
func (c *conf) elements(le lease) []element {
	var out []element
	for _, p := range le.Ports {
		if p.HostPort == 0 {
			continue
		}
		host, _ := netip.ParseAddr(p.HostIP) // checked before; none is the zero Addr
		host = host.Unmap()
		for _, pod := range c.addrs(le.Index) {
			v6 := pod.Addr().Is6()
			if host.IsValid() && host.Is6() != v6 {
				continue
			}
			exact := host.IsValid() && !host.IsUnspecified()
			e := element{of: p, val: append(pod.Addr().AsSlice(), word(p.ContainerPort)...)}
			for _, m := range portMaps() {
				if m.v6 == v6 && m.exact == exact {
					e.in = m
				}
			}
			if exact {
				e.key = host.AsSlice()
			}
			e.key = append(e.key, protocols()[p.Protocol], 0, 0, 0)
			e.key = append(e.key, word(p.HostPort)...)
			out = append(out, e)
		}
	}
	return out
}

// word is a port in a part of a concatenation, which is padded to four bytes.
func word(port uint16) []byte {
	return []byte{byte(port >> 8), byte(port), 0, 0}
}

// have returns the entries of the maps: values by key.
func (t *table) have(es []element) (map[string]map[string][]byte, error) {
	out := map[string]map[string][]byte{}
	for _, e := range es {
		if out[e.in.name] != nil {
			continue
		}
		found, err := t.conn.GetSetElements(t.set(e.in))
		if err != nil {
			return nil, err
		}
		out[e.in.name] = map[string][]byte{}
		for _, f := range found {
			out[e.in.name][string(f.Key)] = f.Val
		}
	}
	return out, nil
}

// addPorts maps a lease's ports, all or none. A port that leads to another pod stays with it.
func (t *table) addPorts(le lease) error {
	es := t.c.elements(le)
	have, err := t.have(es)
	if err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	for _, e := range es {
		val, ok := have[e.in.name][string(e.key)]
		if ok && !bytes.Equal(val, e.val) {
			addr, _ := netip.AddrFromSlice(val[:len(val)-4])
			return fmt.Errorf("host port %s %d/%s leads to %s: %w", e.of.HostIP, e.of.HostPort, e.of.Protocol, addr, unix.EADDRINUSE)
		}
		if err := t.conn.SetAddElements(t.set(e.in), []nftables.SetElement{{Key: e.key, Val: e.val}}); err != nil {
			return err
		}
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	return flushConntrack(es)
}

// removePorts removes the entries of a lease that are still its own.
func removePorts(c *conf, le lease) error {
	es := c.elements(le)
	if len(es) == 0 || le.Boot != bootID() {
		return nil
	}
	t, err := openTable(c)
	if err != nil {
		return err
	}
	defer t.close()
	if !t.current() {
		return nil
	}
	have, err := t.have(es)
	if err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	for _, e := range es {
		if !bytes.Equal(have[e.in.name][string(e.key)], e.val) {
			continue
		}
		if err := t.conn.SetDeleteElements(t.set(e.in), []nftables.SetElement{{Key: e.key}}); err != nil {
			return err
		}
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("host ports: %w", err)
	}
	return flushConntrack(es)
}
