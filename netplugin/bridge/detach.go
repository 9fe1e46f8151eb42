package bridge

import (
	"errors"

	"github.com/containernetworking/cni/pkg/skel"
)

// del gives back what an attachment holds. It needs neither the namespace nor the result of ADD, and may be repeated.
func del(args *skel.CmdArgs) error {
	c, err := parseConf(args.StdinData)
	if err != nil {
		return err
	}
	key := leaseKey(args.ContainerID, args.IfName)
	if c.LazyLinks {
		return detach(c, key, "")
	}
	return detach(c, key, hostName(c.Bridge, key))
}

// detach returns ports and address, and deletes the link named, if any. The lease goes last: what it stands for is
// either held or on its way back.
func detach(c *conf, key, link string) error {
	l, err := openLeases(c)
	if err != nil {
		return err
	}
	defer l.close()
	all, err := l.list()
	if err != nil {
		return err
	}
	if link != "" {
		if err := deleteLinks(link); err != nil {
			return err
		}
	}
	index, ok := all[key]
	if !ok {
		return nil
	}
	le := l.read(key, index)
	if err := removePorts(c, le); err != nil {
		return err
	}
	return l.release(le)
}

func deleteLinks(names ...string) error {
	r, err := openRoute(0)
	if err != nil {
		return err
	}
	defer r.close()
	var errs []error
	for _, n := range names {
		errs = append(errs, r.delLink(n))
	}
	return errors.Join(errs...)
}
