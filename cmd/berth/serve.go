package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"

	"github.com/berth-runtime/berth/cri"
	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/oci/apparmor"
	"github.com/berth-runtime/berth/sandbox"
	"github.com/berth-runtime/berth/sandbox/compile"
)

// stopGrace is how long requests in flight may go on after SIGTERM. Pods keep running in any case.
const stopGrace = 10 * time.Second

// serve is the command "serve": it builds the daemon, tells that it is ready, and takes it down again. The socket is
// opened when every pod is known: a list that lacks some makes kubelet start them again.
func serve(io std, args []string) error {
	c, err := load(io.out, "serve", args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("namespaces, mounts and cgroups need root: start it as root")
	}
	if err := c.checkPrograms(); err != nil {
		return err
	}
	log := newLog(io.err, c.LogLevel)
	manager := serviceManager(log)
	locks, err := lockDirs(c)
	if err != nil {
		return err
	}
	defer locks.Close()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	watchSignals(log)
	d, err := build(ctx, c, log)
	if err != nil {
		return err
	}
	ln, err := listen(c.Listen)
	if err != nil {
		d.close(ctx)
		return err
	}
	log.Info("serving", "version", semver(version), "listen", c.Listen, "root", c.Root, "state", c.State, "pid", os.Getpid())
	failed := make(chan error, 1)
	// ends when the server is closed.
	go func() { failed <- d.server.Serve(ln) }()
	manager.tell("READY=1")
	select {
	case err = <-failed:
	case <-ctx.Done():
		stop() // a second signal ends the process at once
		log.Info("stopping, pods keep running")
	}
	manager.tell("STOPPING=1")
	grace, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	return errors.Join(err, d.close(grace))
}

// daemon is what has to be taken down, in this order.
type daemon struct {
	server *cri.Server
	pods   *sandbox.Manager
	images *image.Store
}

// build puts the parts together: image store, network, pods (which are recovered here), server.
func build(ctx context.Context, c *config, log *slog.Logger) (*daemon, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	images, err := image.Open(ctx, image.Options{Root: c.Root, RegistryDir: c.RegistryConfig, Unpack: []string{self, "unpack"}, Pinned: list(c.PinnedImages)})
	if err != nil {
		return nil, fmt.Errorf("open images in %s: %w", c.Root, err)
	}
	for _, w := range images.Warnings() {
		log.Warn("image store", "err", w)
	}
	network, err := netplugin.New(netplugin.Options{
		ConfDir: c.CNIConfDir, BinDirs: filepath.SplitList(c.CNIBinDir), CacheDir: filepath.Join(c.Root, "net"),
		Builtin: c.BuiltinNetwork, BuiltinBin: c.Bin,
	})
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	systemd := c.systemd()
	pods, err := sandbox.Open(ctx, sandbox.Options{
		Root: c.Root, State: c.State, Images: images, Network: network, Handlers: c.handlers(systemd),
		MonitorBin: c.MonitorBin, SystemdCgroup: systemd, PidsLimit: c.PidsLimit, LogLineMax: int(c.LogLineMax), Log: log,
		CDIDirs: filepath.SplitList(c.CDISpecDirs), AppArmorProfile: appArmorProfile(ctx, log),
	})
	if err != nil {
		return nil, err
	}
	server, err := cri.New(cri.Options{
		Pods: pods, Images: images, Network: network, Version: semver(version), SystemdCgroup: systemd,
		Config: c.JSON(), Stream: c.Stream.options(), Log: log,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open streaming server: %w", err), pods.Close(ctx))
	}
	return &daemon{server: server, pods: pods, images: images}, nil
}

func (d *daemon) close(ctx context.Context) error {
	err := errors.Join(d.server.Close(ctx), d.pods.Close(ctx))
	d.images.Close()
	return err
}

// appArmorProfile loads the default profile and returns its name, for containers that ask for none of their own.
func appArmorProfile(ctx context.Context, log *slog.Logger) string {
	if apparmor.Enabled() {
		if err := apparmor.Load(ctx, compile.AppArmorDefault); err != nil {
			log.Warn("containers that ask for no profile of their own are not confined by AppArmor", "err", err)
			return compile.Unconfined
		}
	}
	return compile.AppArmorDefault
}

// systemd reports whether cgroups are made through systemd. With cgroup v1 that brings nothing but trouble.
func (c *config) systemd() bool {
	if c.CgroupDriver != "auto" {
		return c.CgroupDriver == "systemd"
	}
	_, err := os.Stat("/run/systemd/system") // sd_booted(3)
	return err == nil && cgroupMode() == "v2"
}

// newLog makes the log on w; the streaming library's own goes to the same place.
func newLog(w io.Writer, level string) *slog.Logger {
	var l slog.Level
	if l.UnmarshalText([]byte(strings.ToUpper(level))) != nil {
		l = slog.LevelInfo
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l}))
	klog.SetSlogLogger(slog.New(demoted{log.Handler()}))
	return log
}

// demoted logs everything at level debug: what the streaming library calls an unhandled error is one its client has
// been told of, such as a command that does not exist.
type demoted struct{ slog.Handler }

func (d demoted) Enabled(ctx context.Context, _ slog.Level) bool {
	return d.Handler.Enabled(ctx, slog.LevelDebug)
}

func (d demoted) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return d.Handler.Handle(ctx, r)
}

func (d demoted) WithAttrs(a []slog.Attr) slog.Handler { return demoted{d.Handler.WithAttrs(a)} }
func (d demoted) WithGroup(name string) slog.Handler   { return demoted{d.Handler.WithGroup(name)} }

// watchSignals writes all goroutines to the log on SIGUSR1, and keeps a log reader that went away (SIGPIPE) from
// ending the daemon. The signals are caught, not ignored: what is ignored stays so in every program started.
func watchSignals(log *slog.Logger) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGPIPE)
	// ends when the process ends.
	go func() {
		for s := range signals {
			if s == syscall.SIGUSR1 {
				log.Info("goroutines", "count", runtime.NumGoroutine(), "dump", goroutines())
			}
		}
	}()
}

// goroutines returns all stacks, up to 16 MiB of them.
func goroutines() string {
	for size := 64 << 10; ; size *= 4 {
		buf := make([]byte, size)
		if n := runtime.Stack(buf, true); n < size || size >= 16<<20 {
			return string(buf[:n])
		}
	}
}
