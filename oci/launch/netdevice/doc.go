// Package netdevice moves a network device of the runtime's network namespace into a container's (config-linux.md,
// "Network Devices").
//
//	runtime's namespace                               container's namespace
//	link by name, its addresses
//	RTM_NEWLINK: namespace and new name in one  ───>  the same device, down, without addresses
//	                                                  permanent addresses of global scope added again, then up
//
// Moving and renaming is one message, so that no other program can take the name in between. A device of the new
// name that exists there already is an error, unless the name is a template ("eth%d", for the kernel to number).
//
// Nothing is moved back, ever: the specification says so, and the kernel returns physical devices when the namespace
// ends. The eight routing messages this needs are encoded here, on a socket of its own: a netlink library would make
// every start of the init dearer for a field that few containers have.
package netdevice
