// Berth-bridge is a CNI plugin (specification 0.3.1 to 1.1): it connects pods to a bridge, gives them addresses,
// masquerades what they send out and maps host ports to them. It is told what to do as CNI says, by its environment
// and stdin; package netplugin/bridge documents the configuration.
package main

import "github.com/berth-runtime/berth/netplugin/bridge"

// version is set by the linker.
var version = "dev"

func main() { bridge.Main(version) }
