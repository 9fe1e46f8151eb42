package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
)

// status tells whether ADD could work, and mends what others may have broken under running pods: a rule set flushed,
// forwarding switched off.
func status(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	l, err := openLeases(c)
	if err != nil {
		return unavailable(err)
	}
	defer l.close()
	all, err := l.list()
	if err != nil {
		return unavailable(err)
	}
	r, err := openRoute(0)
	if err != nil {
		return unavailable(err)
	}
	defer r.close()
	if len(all) == 0 {
		return nil
	}
	if _, err := r.ensureBridge(c); err != nil {
		return unavailable(err)
	}
	if err := ensureTable(c, l, lease{}); err != nil {
		return unavailable(err)
	}
	return nil
}

// unavailable is CNI's "plugin not available": ADD would not work.
func unavailable(err error) error {
	return types.NewError(types.ErrPluginNotAvailable, err.Error(), "")
}

// check tells whether an attachment is as ADD left it.
func check(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	l, err := openLeases(c)
	if err != nil {
		return err
	}
	defer l.close()
	all, err := l.list()
	if err != nil {
		return err
	}
	key := leaseKey(args.ContainerID, args.IfName)
	index, ok := all[key]
	if !ok {
		return fmt.Errorf("lease of container %s, interface %s: %w", args.ContainerID, args.IfName, fs.ErrNotExist)
	}
	le := l.read(key, index)
	if err := checkHost(c, le); err != nil {
		return err
	}
	return checkPod(c, le, args)
}

// checkHost checks the bridge, the host's end and the host ports.
func checkHost(c *conf, le lease) error {
	r, err := openRoute(0)
	if err != nil {
		return err
	}
	defer r.close()
	bridge, err := r.index(c.Bridge)
	if err != nil {
		return err
	}
	port, err := r.link(le.Host)
	if err != nil {
		return err
	}
	if port.master != bridge {
		return fmt.Errorf("link %s is no port of %s", le.Host, c.Bridge)
	}
	t, err := openTable(c)
	if err != nil {
		return err
	}
	defer t.close()
	if !t.current() {
		return fmt.Errorf("table %s: %w", c.Table, fs.ErrNotExist)
	}
	es := c.elements(le)
	have, err := t.have(es)
	if err != nil {
		return err
	}
	for _, e := range es {
		if !bytes.Equal(have[e.in.name][string(e.key)], e.val) {
			return fmt.Errorf("host port %d/%s does not lead to the pod", e.of.HostPort, e.of.Protocol)
		}
	}
	return nil
}

// checkPod checks the pod's end.
func checkPod(c *conf, le lease, args *skel.CmdArgs) error {
	netns, err := os.Open(args.Netns)
	if err != nil {
		return types.NewError(types.ErrInvalidNetNS, err.Error(), "")
	}
	defer netns.Close()
	r, err := openRoute(int(netns.Fd()))
	if err != nil {
		return err
	}
	defer r.close()
	index, err := r.index(args.IfName)
	if err != nil {
		return err
	}
	have, err := r.addrs(index)
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range c.addrs(le.Index) {
		if !have[p.Addr()] {
			errs = append(errs, fmt.Errorf("interface %s lacks address %s", args.IfName, p))
		}
	}
	return errors.Join(errs...)
}
