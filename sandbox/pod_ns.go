package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/handler"
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
	"github.com/berth-runtime/berth/sandbox/ns"
)

// holderID is the monitor's name for the process that makes the pod's namespaces.
const holderID = "holder"

// holderTime bounds the wait for the holder: it only makes system calls of its own.
const holderTime = 20 * time.Second

// namespaces says which namespaces the pod has of its own (CRI NamespaceOption).
func (c podConfig) namespaces(host string) (ns.Spec, error) {
	sysctls, err := compile.Sysctls(c.PodSandboxConfig, compile.DefaultSysctls())
	if err != nil {
		return ns.Spec{}, err
	}
	s := ns.Spec{
		Net: !c.hostNetwork(), UTS: !c.hostNetwork(), IPC: !c.hostIPC(), Sysctls: sysctls,
		User: c.userNS(), PID: c.options().GetPid() == rt.NamespaceMode_POD,
	}
	s.Stay = s.PID
	if s.UTS {
		s.Hostname = c.hostname(host)
	}
	if s.User {
		o := c.options().GetUsernsOptions()
		s.UIDMap, s.GIDMap = idMaps(o.GetUids()), idMaps(o.GetGids())
	}
	return s, nil
}

func idMaps(maps []*rt.IDMapping) []ns.IDMap {
	var out []ns.IDMap
	for _, m := range maps {
		out = append(out, ns.IDMap{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return out
}

// makeNamespaces has the monitor clone a holder, which furnishes the namespaces from inside; they are pinned and the
// holder is let go. Where the pod shares a PID namespace it stays, as that namespace's init.
func (b building) makeNamespaces(ctx context.Context, mon *monitor.Monitor) error {
	p := b.p
	spec, err := p.cfg.namespaces(p.m.host.Compile.Hostname)
	if err != nil {
		return err
	}
	if len(spec.Kinds()) == 0 {
		return nil
	}
	child, err := spec.Spawn("")
	if err != nil {
		return err
	}
	inR, inW, err := pipe(false)
	if err != nil {
		return err
	}
	defer inW.Close() // lets the holder go
	defer inR.Close()
	outR, outW, err := pipe(true)
	if err != nil {
		return err
	}
	defer outR.Close()
	defer outW.Close()
	res, _, err := mon.Run(ctx, wire.Spawn{
		ID: holderID, Path: child.Path, Argv: child.Argv, Env: child.Env, PassIO: true, Clone: child.Clone,
		UIDMap: wireMaps(child.UIDMap), GIDMap: wireMaps(child.GIDMap),
	}, []*os.File{inR, outW, outW})
	outW.Close()
	if err != nil {
		return fmt.Errorf("start holder: %w", err)
	}
	outR.SetReadDeadline(time.Now().Add(holderTime))
	line, err := bufio.NewReader(outR).ReadString('\n')
	if line != "ok\n" {
		if text := strings.TrimSpace(line); text != "" {
			return fmt.Errorf("holder: %s", text)
		}
		return fmt.Errorf("holder: %w", err)
	}
	_, err = ns.Pin(res.Pid, spec.Kinds(), p.nsDir(), p.m.netnsPath(p.id))
	return err
}

func wireMaps(maps []ns.IDMap) []wire.IDMap {
	var out []wire.IDMap
	for _, m := range maps {
		out = append(out, wire.IDMap(m))
	}
	return out
}

// stage has everything mounted that a foreign runtime expects to find mounted, and puts it in the place of what only the native one
// understands.
func (k *creation) stage() {
	c, p := k.c, k.c.pod
	if p.handler.Native {
		return
	}
	s, paths, user := p.m.roots().Stage(p.id, c.id), &k.in.Paths, ""
	if p.cfg.userNS() {
		user = paths.User
	}
	s.Overlay(s.Root(), paths.Lower, paths.Upper, paths.Work, user)
	paths.Root, paths.Lower = s.Root(), nil
	if paths.Shm != "" {
		s.Bind(firstHeld, s.Shm())
		paths.Shm = s.Shm()
	}
	for i, v := range k.in.Images {
		if v.File != "" || len(v.Layers) < 2 {
			continue // a bind, which every runtime makes itself
		}
		own := user
		if len(c.cfg.GetMounts()[i].GetUidMappings()) == 0 {
			own = ""
		}
		v.Dir = s.Merged(i)
		s.Overlay(v.Dir, v.Layers, "", "", own)
		k.in.Images[i] = v
	}
	k.staged = s
}

// ownUpper gives the upper directory, which the container sees as its root, the owner that stands for its own in the pod's
// user namespace. The upper directory is not id-mapped: overlayfs creates files in it with the mapped ids of their makers. (The
// native runtime does that itself.)
func (k *creation) ownUpper() error {
	if k.staged == nil || !k.c.pod.cfg.userNS() {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(k.in.Paths.Upper, &st); err != nil {
		return fmt.Errorf("stat upper directory: %w", err)
	}
	uid, gid := k.c.pod.cfg.hostIDs(st.Uid, st.Gid)
	return os.Lchown(k.in.Paths.Upper, uid, gid)
}

// wrap has the runtime's program run with the mounts of its stage, and with a clone of the pod's shared memory where that is kept in
// a mount namespace.
func (k *creation) wrap(s *wire.Spawn) error {
	staged := k.staged
	if len(s.Held) > 0 && k.c.m.attachShm() {
		if staged == nil {
			staged = new(handler.Stage)
		}
		staged.Clone(firstHeld)
	}
	if staged == nil {
		return nil
	}
	child, err := staged.Wrap(s.Argv, s.Env)
	if err != nil {
		return fmt.Errorf("prepare mounts: %w", err)
	}
	s.Path, s.Argv, s.Env, s.Clone = child.Path, child.Argv, child.Env, child.Clone
	return nil
}

// consoleArg names a socket in the monitor's directory to a runtime. The whole path may not fit into a socket's address, so the
// native runtime gets a name relative to that directory, where it is started. Others go elsewhere before they connect.
func (p *Pod) consoleArg(mon *monitor.Monitor, name string) string {
	if name == "" || p.handler.Native {
		return name
	}
	if full := filepath.Join(p.state(), name); len(full) < 108 { // sun_path, unix(7)
		return full
	}
	return fmt.Sprintf("/proc/%d/cwd/%s", mon.Pid(), name)
}
