package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-runtime/berth/sandbox/cdi"
	"github.com/berth-runtime/berth/sandbox/handler"
	"github.com/berth-runtime/berth/sandbox/host"
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/operation"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/image/overlay"
	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

const (
	createBudget = 4 * time.Minute
	// runtimeTimeout bounds one run of the OCI runtime's program.
	runtimeTimeout = 3 * time.Minute
	maxProfile     = 1 << 20 // bytes of a seccomp profile file
)

// Create answers CreateContainer: it makes the container up to the point where only exec is missing, or joins the
// making of it. A container of this name and attempt is returned if it was asked for in the same words.
func (p *Pod) Create(ctx context.Context, cc *rt.ContainerConfig) (string, error) {
	if err := compile.CheckContainer(p.cfg.PodSandboxConfig, cc); err != nil {
		return "", err
	}
	key := containerKey(p.id, cc.GetMetadata())
	raw := encode(cc)
	name := fmt.Sprintf("create container %s/%d in pod %s", cc.GetMetadata().GetName(), cc.GetMetadata().GetAttempt(), short(p.id))
	req := operation.Request{Key: name, Digest: digest(raw), Budget: createBudget}
	return p.m.ops.Do(ctx, req, func(ctx context.Context, op *operation.Operation) (string, error) {
		ctx, leave, err := p.enter(ctx)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		defer leave()
		if c, ok := p.m.index.Load().ctrNames[key]; ok {
			if digest(c.rec.Config) == req.Digest && c.view.Load().state() == rt.ContainerState_CONTAINER_CREATED {
				return c.id, nil
			}
			return "", fmt.Errorf("%s: container %s has this name and attempt: %w", name, short(c.id), fs.ErrExist)
		}
		rec := containerRecord{ID: newID(), Pod: p.id, CreatedAt: time.Now().UnixNano(), Config: raw}
		c := newContainer(p, rec, cc)
		k := &creation{c: c}
		if err := k.run(ctx, op); err != nil {
			k.abandon(err)
			return "", fmt.Errorf("%s: %w", name, stopped(ctx, err))
		}
		p.m.update(func(x *index) { x.addContainer(c) })
		// The init may have died meanwhile: its exit was for an object nobody knew yet.
		c.catchUp(ctx)
		p.emit(rt.ContainerEventType_CONTAINER_CREATED_EVENT, c.id)
		return c.id, nil
	})
}

// abandon removes a container that could not be made. It was never visible.
func (k *creation) abandon(cause error) {
	c := k.c
	ctx, cancel := context.WithTimeout(c.m.life, clearBudget)
	defer cancel()
	if err := (footprint{c}).clear(ctx); err != nil {
		c.m.opt.Log.Warn("container is left half made until its pod is stopped", "container", c.id, "cause", cause, "err", err)
		leave(c.pod, c)
	}
}

// creation is the making of one container.
type creation struct {
	c       *Container
	img     image.Image
	in      compile.Input
	cdi     []string // names of CDI devices
	passwd  []byte   // the image's file, nil: it has none; group likewise
	group   []byte
	staged  *handler.Stage      // nil: the native runtime mounts everything itself
	volumes map[string][]string // directory of each anonymous volume -> the image's directories it is filled from
}

// firstHeld is the descriptor of the runtime's program that is the first of wire.Spawn.Held: the pod's shared memory.
const firstHeld = 3

// Bounds on what the image's anonymous volumes take before the container has run.
const (
	maxVolumeBytes   = 64 << 30
	maxVolumeEntries = 4 << 20
)

// run takes the container from nothing to a waiting init, in a straight line.
func (k *creation) run(ctx context.Context, op *operation.Operation) error {
	c := k.c
	op.At("hold image")
	if err := k.holdImage(); err != nil {
		return err
	}
	op.At("compile specification")
	if err := k.gather(); err != nil {
		return err
	}
	spec, err := compile.Container(k.in)
	if err != nil {
		return err
	}
	spec.Annotations = c.pod.handler.AnnotationsFor(c.pod.cfg.GetAnnotations(), c.cfg.GetAnnotations())
	if !c.pod.handler.Native && !c.pod.cfg.hostNetwork() {
		// The pod's UTS namespace says it already, but not to a runtime with a kernel of its own (gVisor).
		spec.Hostname = c.pod.cfg.hostname(c.m.host.Compile.Hostname)
	}
	if err := cdi.Apply(spec, c.m.opt.CDIDirs, k.cdi); err != nil {
		return err
	}
	op.At("write record")
	if err := k.write(spec); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	op.At("fill volumes of the image")
	if err := k.fillVolumes(ctx); err != nil {
		return err
	}
	op.At("run " + c.pod.handler.Name + " create")
	mon, err := c.pod.sup.get(ctx)
	if err != nil {
		return err
	}
	s := k.spawn(mon)
	if err := k.wrap(&s); err != nil {
		return err
	}
	res, _, err := mon.Run(ctx, s, executed(c.pod.handler, &s, nil, 3+len(s.Held)))
	if err != nil {
		return fmt.Errorf("%s create: %w", c.pod.handler.Name, oci.Spoken(err))
	}
	watch(c, mon, res.Pid)
	if err := c.change(func(r *containerRecord) { r.Created = true }); err != nil {
		return fmt.Errorf("mark created: %w", err)
	}
	return nil
}

// holdImage finds the image and holds its layers until the container is removed.
func (k *creation) holdImage() error {
	c := k.c
	ref := c.cfg.GetImage().GetImage()
	img, err := c.m.opt.Images.Hold(ref, c.id)
	if err != nil {
		return fmt.Errorf("image %s: %w", short(ref), err)
	}
	k.img = img
	c.rec.ImageID, c.rec.ImageName, c.rec.ImageRef, c.rec.Layers = img.ID, img.ID, img.ID, img.Layers
	if len(img.RepoTags) > 0 {
		c.rec.ImageName = img.RepoTags[0]
	}
	if len(img.RepoDigests) > 0 {
		c.rec.ImageRef = img.RepoDigests[0]
	}
	return nil
}

// gather collects what the specification depends on: everything impure happens here.
func (k *creation) gather() error {
	c, cfg := k.c, k.img.Config
	k.in = compile.Input{Pod: c.pod.cfg.PodSandboxConfig, Container: c.cfg, Host: c.m.host.Compile,
		Options: compile.Options{PidsLimit: c.m.opt.PidsLimit, AppArmorProfile: c.m.opt.AppArmorProfile,
			EscapeEnv: c.pod.handler.Native, NoHostDevices: c.pod.handler.NoHostDevices},
		Image: compile.ImageConfig{User: cfg.User, Env: cfg.Env, Entrypoint: cfg.Entrypoint, Cmd: cfg.Cmd, WorkingDir: cfg.WorkingDir, StopSignal: cfg.StopSignal}}
	for path := range cfg.Volumes {
		k.in.Image.Volumes = append(k.in.Image.Volumes, path)
	}
	var err error
	if k.in.User, err = k.resolveUser(); err != nil {
		return err
	}
	if k.in.Devices, err = host.Requested(c.cfg.GetDevices()); err != nil {
		return err
	}
	if k.cdi, err = cdiNames(c.cfg); err != nil {
		return err
	}
	if k.in.Seccomp, err = k.seccompProfile(); err != nil {
		return err
	}
	if k.in.Paths, err = k.paths(); err != nil {
		return err
	}
	if err := k.imageVolumes(); err != nil {
		return fmt.Errorf("%w: %w", ErrImageVolume, err)
	}
	if err := k.anonymousVolumes(); err != nil {
		return err
	}
	k.stage()
	return k.mountSources()
}

// anonymousVolumes gives each volume of the image's configuration (OCI image-spec config.md, Volumes) a directory of the
// container's own. What the image has at the path is found inside the image, wherever links there lead; where it has a
// file there is no volume.
func (k *creation) anonymousVolumes() error {
	k.volumes, k.in.Volumes = map[string][]string{}, map[string]string{}
	for n, path := range compile.Volumes(k.c.cfg, k.in.Image) {
		from, file, err := k.img.Sub(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("volume %s of the image: %w", short(path), err)
		}
		if file != "" {
			continue
		}
		dir := filepath.Join(k.c.dir(), "vol", strconv.Itoa(n))
		k.volumes[dir], k.in.Volumes[path] = from, dir
	}
	return nil
}

// fillVolumes makes the anonymous volumes with the image's content. They lie below a directory that only root enters: set-user-ID
// programs of an image are none of the host's users' business.
func (k *creation) fillVolumes(ctx context.Context) error {
	if len(k.volumes) == 0 {
		return nil
	}
	if err := os.Mkdir(filepath.Join(k.c.dir(), "vol"), 0o700); err != nil {
		return err
	}
	for dir, from := range k.volumes {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := overlay.Copy(ctx, from, dir, overlay.CopyLimits{Bytes: maxVolumeBytes, Entries: maxVolumeEntries}); err != nil {
			return fmt.Errorf("fill volume of the image: %w", err)
		}
	}
	return nil
}

// imageVolumes finds the content of the mounts that are images (CRI Mount.image), and holds it like the root's.
func (k *creation) imageVolumes() error {
	c, images := k.c, k.c.m.opt.Images
	for i, m := range c.cfg.GetMounts() {
		ref := m.GetImage().GetImage()
		if ref == "" {
			continue
		}
		owner := fmt.Sprintf("%s/%d", c.id, i)
		img, err := images.Hold(ref, owner)
		if err != nil {
			return fmt.Errorf("volume image %s: %w", short(ref), err)
		}
		c.rec.Layers = append(slices.Clip(c.rec.Layers), img.Layers...)
		images.Keep(c.id, c.rec.Layers)
		if err := images.Release(owner); err != nil {
			return err
		}
		if k.in.Images == nil {
			k.in.Images = make(map[int]compile.ImageVolume)
		}
		v := compile.ImageVolume{Layers: img.Layers}
		if sub := m.GetImageSubPath(); sub != "" {
			if v.Layers, v.File, err = img.Sub(sub); err != nil {
				return fmt.Errorf("image_sub_path %s of volume %s: %w", short(sub), short(ref), err)
			}
		}
		k.in.Images[i] = v
	}
	return nil
}

// resolveUser finds the ids of the container's user in the image's own files.
func (k *creation) resolveUser() (compile.User, error) {
	passwd, err := k.img.ReadFile("/etc/passwd", compile.MaxAccounts)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return compile.User{}, fmt.Errorf("read /etc/passwd of the image: %w", err)
	}
	group, err := k.img.ReadFile("/etc/group", compile.MaxAccounts)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return compile.User{}, fmt.Errorf("read /etc/group of the image: %w", err)
	}
	c := k.c
	k.passwd, k.group = passwd, group
	u, err := compile.ResolveUser(c.cfg, k.in.Image, passwd, group)
	if err != nil {
		return u, err
	}
	c.user = &rt.LinuxContainerUser{Uid: int64(u.UID), Gid: int64(u.GID)}
	for _, g := range u.Groups {
		c.user.SupplementalGroups = append(c.user.SupplementalGroups, int64(g))
	}
	return u, nil
}

// seccompProfile reads the file a Localhost profile names (CRI SecurityProfile.localhost_ref, an absolute host path).
func (k *creation) seccompProfile() ([]byte, error) {
	path, err := compile.SeccompFile(k.c.cfg)
	if err != nil || path == "" {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w: %w", fs.ErrInvalid, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxProfile {
		return nil, fmt.Errorf("seccomp profile %s is not a regular file of at most %d bytes: %w", path, maxProfile, fs.ErrInvalid)
	}
	b := make([]byte, st.Size())
	n, err := f.ReadAt(b, 0)
	if n < len(b) {
		return nil, fmt.Errorf("read seccomp profile: %w", err)
	}
	return b, nil
}

// cdiNames lists the CDI devices that the request's field (CRI ContainerConfig.CDI_devices) and its annotations name.
func cdiNames(cc *rt.ContainerConfig) ([]string, error) {
	var field []string
	for _, d := range cc.GetCDIDevices() {
		field = append(field, d.GetName())
	}
	return cdi.Names(field, cc.GetAnnotations())
}

// paths says where on the host everything of the container is.
func (k *creation) paths() (compile.Paths, error) {
	c, p := k.c, k.c.pod
	cg, err := compile.CgroupsPath(p.rec.Parent, c.id, p.m.opt.SystemdCgroup)
	if err != nil {
		return compile.Paths{}, err
	}
	paths := compile.Paths{
		Net: p.netns(), Resolv: filepath.Join(p.dir(), "resolv.conf"), Hostname: filepath.Join(p.dir(), "hostname"),
		Hosts: filepath.Join(p.dir(), "hosts"), CgroupsPath: cg,
		Lower: k.img.Layers, Upper: filepath.Join(c.dir(), "upper"), Work: filepath.Join(c.dir(), "work"),
	}
	if opt := p.cfg.options(); opt.GetIpc() != rt.NamespaceMode_NODE {
		paths.IPC = filepath.Join(p.nsDir(), "ipc")
		paths.Shm = fmt.Sprintf("/proc/self/fd/%d", firstHeld)
	}
	if !p.cfg.hostNetwork() {
		paths.UTS = filepath.Join(p.nsDir(), "uts")
	}
	if p.cfg.userNS() {
		paths.User = filepath.Join(p.nsDir(), "user")
	}
	switch mode, target := compile.PIDMode(p.cfg.PodSandboxConfig, c.cfg); mode {
	case rt.NamespaceMode_CONTAINER:
		paths.PIDNew = true
	case rt.NamespaceMode_TARGET:
		if paths.PID, err = targetPID(p, target); err != nil {
			return paths, err
		}
	case rt.NamespaceMode_POD:
		paths.PID = filepath.Join(p.nsDir(), "pid")
	}
	return paths, nil
}

// targetPID finds the PID namespace of the container that a TARGET mode names: it must run in the same pod.
func targetPID(p *Pod, id string) (string, error) {
	t, err := p.m.Container(id)
	if err != nil {
		return "", fmt.Errorf("namespace target: %w", err)
	}
	if t.pod != p {
		return "", fmt.Errorf("namespace target %s is of another pod: %w", short(id), fs.ErrInvalid)
	}
	if err := t.running(); err != nil {
		return "", fmt.Errorf("namespace target: %w", err)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", t.view.Load().pid), nil
}

// write puts the record and the bundle on disk, before anything they tell of is taken.
func (k *creation) write(spec *specs.Spec) error {
	c := k.c
	if err := os.MkdirAll(c.dir(), 0o711); err != nil {
		return err
	}
	if logs, path := c.pod.cfg.GetLogDirectory(), c.cfg.GetLogPath(); logs != "" && path != "" {
		c.rec.LogPath = filepath.Join(logs, path)
	}
	c.rec.CgroupsPath = k.in.Paths.CgroupsPath
	c.rec.User = encode(c.user)
	c.rec.StopSignal = int(compile.StopSignal(c.cfg, k.in.Image))
	c.rec.Resources = encode(c.cfg.GetLinux().GetResources())
	if err := c.change(func(*containerRecord) {}); err != nil {
		return err
	}
	c.show(func(v *containerView) { v.resources = c.cfg.GetLinux().GetResources() })
	if err := k.prepareRoot(spec.Process.Env); err != nil {
		return fmt.Errorf("prepare overlay: %w", err)
	}
	if err := k.ownUpper(); err != nil {
		return err
	}
	b, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode specification: %w", err)
	}
	return os.WriteFile(filepath.Join(c.dir(), "config.json"), b, 0o600)
}

// prepareRoot makes the writable layer, with the few things that programs look for and images leave to the runtime: /etc/mtab,
// the mark of a container that podman has made known, and an account for a user whose id the image does not have.
func (k *creation) prepareRoot(env []string) error {
	if err := overlay.Prepare(k.c.dir(), k.img.Layers[0]); err != nil {
		return err
	}
	items := []overlay.Item{{Name: "etc/mtab", Link: "/proc/mounts"}, {Name: "run/.containerenv"}}
	passwd, group := compile.Accounts(k.in.User, env, k.passwd, k.group)
	if passwd != nil {
		items = append(items, overlay.Item{Name: "etc/passwd", Data: passwd, Replace: true})
	}
	if group != nil {
		items = append(items, overlay.Item{Name: "etc/group", Data: group, Replace: true})
	}
	return overlay.Furnish(filepath.Join(k.c.dir(), "upper"), k.img.Layers, k.c.pod.cfg.hostIDs, items...)
}

// spawn is the order for the monitor: run the runtime's create with the container's pipes or terminal.
func (k *creation) spawn(mon *monitor.Monitor) wire.Spawn {
	c, p := k.c, k.c.pod
	s := wire.Spawn{
		ID: c.id, PidFile: footprint{c}.pidFile(), TTY: c.cfg.GetTty(), Log: c.rec.LogPath, LogMax: p.m.opt.LogLineMax,
		Stdin: c.cfg.GetStdin(), StdinOnce: c.cfg.GetStdinOnce(), ExitFile: filepath.Join(c.dir(), "exit.json"),
		Timeout: int64(runtimeTimeout / time.Millisecond), Env: runtimeEnv(),
	}
	if !p.cfg.hostIPC() {
		s.Held = []string{"shm"}
	}
	if s.TTY {
		// A name in the monitor's directory, where the runtime works too: the whole path may not fit into a socket's
		// address.
		s.ConsoleSocket = c.id[:12] + ".tty"
	}
	s.Argv = p.handler.CreateArgv(c.id, c.dir(), s.PidFile, p.consoleArg(mon, s.ConsoleSocket))
	s.OOMFile = cgroup.OOMFile(c.rec.CgroupsPath)
	return s
}

func (f footprint) pidFile() string {
	c := f.c
	return filepath.Join(c.pod.state(), c.id+".pid")
}

// mountSources makes the host side of mounts exist: a missing host path is made a directory, as both other runtimes
// do and users of hostPath volumes rely on.
func (k *creation) mountSources() error {
	c := k.c
	for _, m := range c.cfg.GetMounts() {
		if m.GetImage().GetImage() != "" || m.GetHostPath() == "" {
			continue
		}
		if _, err := os.Stat(m.GetHostPath()); errors.Is(err, fs.ErrNotExist) {
			err = os.MkdirAll(m.GetHostPath(), 0o755)
			if err != nil {
				return fmt.Errorf("mount source %s: %w", short(m.GetHostPath()), err)
			}
		}
	}
	return nil
}

// runtimeEnv is the environment of a runtime's program: what it needs to find its own tools, and nothing of ours.
func runtimeEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	for _, kv := range os.Environ() {
		if strings.HasPrefix(kv, "XDG_RUNTIME_DIR=") || strings.HasPrefix(kv, "DBUS_SESSION_BUS_ADDRESS=") {
			env = append(env, kv)
		}
	}
	return env
}
