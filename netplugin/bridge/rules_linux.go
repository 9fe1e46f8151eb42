package bridge

import (
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers of the nftables machine: the first holds 16 bytes and is the four 32-bit ones that follow in this list
// (linux/netfilter/nf_tables.h).
const (
	reg  = unix.NFT_REG_1
	reg0 = unix.NFT_REG32_00
)

// statusDNAT is IPS_DST_NAT of a connection's status.
const statusDNAT = 1 << 5

// exprs is a rule in the making.
type exprs []expr.Any

// addRules makes the chains and their rules.
func (t *table) addRules() {
	nat := func(name string, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
		return t.conn.AddChain(&nftables.Chain{Table: t.t, Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: prio})
	}
	hostports := t.conn.AddChain(&nftables.Chain{Table: t.t, Name: "hostports"})
	for _, m := range portMaps() {
		t.rule(hostports, t.translate(m))
	}
	// Priority -100 for locally sent packets too: dstnat.
	for _, ch := range []*nftables.Chain{
		nat("prerouting", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest),
		nat("output", nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
	} {
		t.rule(ch, exprs{}.toThisHost().jump(hostports.Name))
	}
	post := nat("postrouting", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	for _, p := range []netip.Prefix{t.c.Subnet, t.c.Subnet6} {
		if p.IsValid() {
			t.masquerade(post, p)
		}
	}
	guard := t.conn.AddChain(&nftables.Chain{
		Table: t.t, Name: "guard", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw,
	})
	t.rule(guard, exprs{}.fromLink(t.c.Bridge).addr(false, loopback4(), false).verdict(expr.VerdictDrop))
}

func (t *table) rule(ch *nftables.Chain, e exprs) {
	t.conn.AddRule(&nftables.Rule{Table: t.t, Chain: ch, Exprs: e})
}

// masquerade adds the rules for a range: what it sends elsewhere, what comes back to it by a host port (a pod's answer
// would otherwise go to its neighbour directly, from an address that one never called), and what the host sends from
// its loopback address.
func (t *table) masquerade(post *nftables.Chain, p netip.Prefix) {
	multicast := netip.MustParsePrefix("224.0.0.0/4")
	if p.Addr().Is6() {
		multicast = netip.MustParsePrefix("ff00::/8")
	}
	t.rule(post, exprs{}.addr(true, p, false).addr(false, p, true).addr(false, multicast, true).masq())
	t.rule(post, exprs{}.addr(true, p, false).addr(false, p, false).translated().masq())
	if p.Addr().Is4() {
		t.rule(post, exprs{}.addr(true, loopback4(), false).addr(false, p, false).masq())
	}
}

func loopback4() netip.Prefix { return netip.MustParsePrefix("127.0.0.0/8") }

func loopback6() netip.Prefix { return netip.MustParsePrefix("::1/128") }

// translate looks a packet's destination up in a map and sends it to what is found.
func (t *table) translate(m portMap) exprs {
	fam, off, size := uint32(unix.NFPROTO_IPV4), uint32(16), uint32(4)
	if m.v6 {
		fam, off, size = unix.NFPROTO_IPV6, 24, 16
	}
	e := exprs{}.family(byte(fam))
	if m.v6 {
		// Connections to [::1] can't be sent elsewhere; those who try it first are to be refused at once.
		e = e.addr(false, loopback6(), true)
	}
	next := uint32(reg0)
	if m.exact {
		e = append(e, &expr.Payload{DestRegister: next, Base: expr.PayloadBaseNetworkHeader, Offset: off, Len: size})
		next += size / 4
	}
	set := t.set(m)
	return append(e,
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: reg0, DestRegister: reg0, IsDestRegSet: true, SetName: set.Name, SetID: set.ID},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: fam, RegAddrMin: reg0, RegProtoMin: reg0 + size/4, Specified: true},
	)
}

// family matches the network protocol.
func (e exprs) family(proto byte) exprs {
	return append(e,
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: []byte{proto}},
	)
}

// addr matches the source or destination address against a range.
func (e exprs) addr(source bool, p netip.Prefix, not bool) exprs {
	proto, off := byte(unix.NFPROTO_IPV4), uint32(16)
	if p.Addr().Is6() {
		proto, off = unix.NFPROTO_IPV6, 24
	}
	size := uint32(p.Addr().BitLen() / 8)
	if source {
		off -= size
	}
	op := expr.CmpOpEq
	if not {
		op = expr.CmpOpNeq
	}
	return append(e.family(proto),
		&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: off, Len: size},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: size, Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen()), Xor: make([]byte, size)},
		&expr.Cmp{Op: op, Register: reg, Data: p.Masked().Addr().AsSlice()},
	)
}

// toThisHost matches packets to any address of the host.
func (e exprs) toThisHost() exprs {
	return append(e,
		&expr.Fib{Register: reg, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	)
}

// fromLink matches packets that came in by a link.
func (e exprs) fromLink(name string) exprs {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return append(e,
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg},
		&expr.Cmp{Op: expr.CmpOpEq, Register: reg, Data: b},
	)
}

// translated matches connections whose destination was translated.
func (e exprs) translated() exprs {
	return append(e,
		&expr.Ct{Key: expr.CtKeySTATUS, Register: reg},
		&expr.Bitwise{SourceRegister: reg, DestRegister: reg, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(statusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: reg, Data: make([]byte, 4)},
	)
}

func (e exprs) masq() exprs { return append(e, &expr.Masq{}) }

func (e exprs) jump(chain string) exprs {
	return append(e, &expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}

func (e exprs) verdict(kind expr.VerdictKind) exprs {
	return append(e, &expr.Verdict{Kind: kind})
}
