package ns

import (
	"context"
	"fmt"
	"io/fs"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Dial connects from within the network namespace pinned at path. The host of addr has to be an IP address: names would be
// resolved in the daemon's network. Errors are those of package net, and fs.ErrNotExist when the namespace is gone.
func Dial(ctx context.Context, path, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, fs.ErrInvalid)
	}
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("dial %s in %s: %w", addr, path, err)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	c := make(chan result, 1)
	dial := func() {
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			c <- result{err: fmt.Errorf("dial %s: enter %s: %w", addr, path, err)}
			return
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		c <- result{conn, err}
	}
	aside(dial) // ctx bounds it
	r := <-c
	return r.conn, r.err
}
