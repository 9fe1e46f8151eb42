package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// collect gives back what belongs to no valid attachment: leases, links, host ports. When no attachment is left, the
// table goes too, and the bridge if it is one of ours and has no ports. It must not run beside ADD (CNI, GC).
func collect(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	l, err := openLeases(c)
	if err != nil {
		return err
	}
	defer l.close()
	kept, err := c.collectLeases(l)
	if err != nil {
		return err
	}
	r, err := openRoute(0)
	if err != nil {
		return err
	}
	defer r.close()
	errs := []error{r.collectLinks(c, kept)}
	t, err := openTable(c)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer t.close()
	if len(kept) > 0 {
		errs = append(errs, t.collectPorts(kept))
	} else {
		errs = append(errs, t.remove(), r.removeBridge(c))
	}
	return errors.Join(errs...)
}

// collectLeases removes the leases that are not valid and returns the others.
func (c *conf) collectLeases(l *leases) ([]lease, error) {
	valid := map[string]bool{}
	for _, a := range c.ValidAttachments {
		valid[leaseKey(a.ContainerID, a.IfName)] = true
	}
	all, err := l.list()
	if err != nil {
		return nil, err
	}
	var kept []lease
	for key, index := range all {
		le := l.read(key, index)
		if valid[key] {
			kept = append(kept, le)
			continue
		}
		if err := removePorts(c, le); err != nil {
			return nil, err
		}
		if err := l.release(le); err != nil {
			return nil, err
		}
	}
	return kept, nil
}

// collectLinks deletes the veth pairs of the bridge that belong to no lease.
func (r route) collectLinks(c *conf, kept []lease) error {
	index, err := r.index(c.Bridge)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil {
		return err
	}
	ports, err := r.ports(index)
	if err != nil {
		return fmt.Errorf("ports of bridge %s: %w", c.Bridge, err)
	}
	wanted := map[string]bool{}
	for _, le := range kept {
		wanted[le.Host] = true
	}
	var errs []error
	for _, name := range ports {
		if strings.HasPrefix(name, vethPrefix) && !wanted[name] {
			errs = append(errs, r.delLink(name))
		}
	}
	return errors.Join(errs...)
}

// removeBridge removes the bridge if we made it, which its hardware address tells, and it has no ports.
func (r route) removeBridge(c *conf) error {
	l, err := r.link(c.Bridge)
	if errors.Is(err, unix.ENODEV) {
		return nil
	}
	if err != nil || !bytes.Equal(l.mac, c.mac(gatewayIndex)) {
		return err
	}
	ports, err := r.ports(l.index)
	if err != nil || len(ports) > 0 {
		return err
	}
	return r.delLink(c.Bridge)
}

// collectPorts removes entries of the maps that belong to none of the leases.
func (t *table) collectPorts(kept []lease) error {
	if !t.current() {
		return nil
	}
	wanted := map[string]bool{}
	for _, le := range kept {
		for _, e := range t.c.elements(le) {
			wanted[e.in.name+string(e.key)+string(e.val)] = true
		}
	}
	for _, m := range portMaps() {
		set := t.set(m)
		found, err := t.conn.GetSetElements(set)
		if err != nil {
			return fmt.Errorf("host ports: %w", err)
		}
		for _, f := range found {
			if wanted[m.name+string(f.Key)+string(f.Val)] {
				continue
			}
			if err := t.conn.SetDeleteElements(set, []nftables.SetElement{{Key: f.Key}}); err != nil {
				return err
			}
		}
	}
	return t.conn.Flush()
}

// remove deletes the table.
func (t *table) remove() error {
	t.conn.AddTable(t.t) // so that deleting it succeeds
	t.conn.DelTable(t.t)
	return t.conn.Flush()
}
