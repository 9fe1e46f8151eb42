// Package bridge is the body of berth-bridge, a CNI plugin for pods on one node: a bridge, addresses, masquerading and
// host ports, by netlink alone.
//
// One run is one exec, so what costs time is avoided rather than optimised: the veth pair is made by one message with
// its peer already in the pod's namespace and its host end up and in the bridge; nothing is moved or deleted on
// the way, since both wait for RCU grace periods (20 to 30 ms on an idle kernel); masquerading is one static rule for
// the whole range; host ports are elements of nftables maps.
//
// # Configuration
//
//	bridge     name of the bridge; made when missing             default "berth0"
//	table      name of the nftables table, family inet           default: the bridge's name
//	subnet     IPv4 range; its first address is the gateway's    at least one of subnet and subnet6
//	subnet6    IPv6 range, at least as large as subnet
//	stateDir   where leases are kept, in a directory named after the network   default /var/lib/berth-bridge
//	mtu        of the pods' links                                default: the kernel's
//	lazyLinks  DEL leaves the veth pair to the end of the namespace, which must be near
//
// Several networks, or daemons, on one host differ in all of bridge, table and subnet. Capability: portMappings.
//
// # Leases
//
// A lease is a file, <index>@<container>@<interface>, written before anything is taken from the kernel and removed
// after all is given back. The index counts from the start of the range and gives both the IPv4 and the IPv6 address;
// the interface's MAC address follows from it too, so a neighbour entry that outlives a pod is right for the next one.
// Addresses are handed out in turn and returned ones are used again last, first in first out: a veth pair lives on for
// a while after its namespace is dropped. A file lock covers leases and table.
//
// # Packets
//
// The table replaces nothing and must coexist with others. Its chains only translate addresses, and drop packets that
// pods send to 127.0.0.0/8 (host ports on 127.0.0.1 need route_localnet on the bridge). A firewall that drops forwarded
// packets, such as Docker's policy for the FORWARD chain, must let the pod range pass by a rule of its own: an accept
// here can't overrule a drop there. [::1] has no host ports (hack/decisions/0022).
package bridge
