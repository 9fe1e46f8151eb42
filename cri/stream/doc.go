// Package stream is the HTTP side of exec, attach and port-forward.
//
// The CRI hands out a URL instead of carrying the data itself: Exec, Attach and PortForward answer with an address on
// this server and a token good for one minute and one use, and kubelet (or crictl) connects there. What comes in is
// one connection that carries several streams:
//
//	SPDY/3.1 upgrade, v4.channel.k8s.io and older      k8s.io/cri-streaming
//	WebSocket, v4.channel.k8s.io, base64 and older     k8s.io/cri-streaming
//	WebSocket, v5.channel.k8s.io                       v5.go: adds the half-close of stdin
//	WebSocket, SPDY/3.1+portforward.k8s.io             tunnel.go: unwraps, then k8s.io/cri-streaming
//
// The last two are what current clients offer first and the library does not know. Only the library's protocol
// packages are used; its server is replaced (server.go, token.go), because it keeps the requests to itself.
//
// Every session has a context that ends with its connection, whatever the protocol: the hijacked connection is
// watched (conn.go), so that a client that disappears ends its exec although nothing is being written. Nothing here
// knows how a process is started or a pod's network reached: that is what Runtime is for.
package stream
