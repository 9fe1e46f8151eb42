// Package machine starts a virtual node under QEMU, runs commands in it, and ends it.
//
// A node is a directory: root.ext4, its disk, a copy of an image's; console.log, what its kernel and systemd printed;
// qemu.log; pid; addr, where its agent answers. Who has the directory has the node: Start makes it, Open finds it
// again, Stop ends the process whose id it holds, if that is still this node's QEMU.
//
// The node's network is QEMU's own, restricted: nothing gets out, only the agent's port is forwarded from a port of
// 127.0.0.1. With Options.Tap it is a tap device instead, which the caller has made in a network namespace of theirs and
// has given the gateway's address; then the node, and what it routes, can be reached from that namespace.
package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/berth-runtime/berth/hack/vm/wire"
)

// Options say what to start. Dir, Image, Agent and QEMU are needed.
type Options struct {
	Dir    string // made by Start; must not exist
	Image  string // as made by hack/vm/image.sh
	Agent  string // the agent's static binary
	QEMU   []string
	Accel  string // "tcg" or "kvm"; default tcg
	Disks  []Disk
	CPUs   int    // default 2
	Memory int    // MiB, default 3072
	Words  string // more kernel command line
	Tap    Tap
}

// Disk is an erofs image and where it is mounted.
type Disk struct{ Image, Dir string }

// Tap is a tap device in the namespace that Start is called in.
type Tap struct {
	Name    string
	Address string // the node's, "10.99.0.2/24"
	Gateway string
}

// Machine is a running node.
type Machine struct {
	Dir  string
	Addr string
}

// ErrKVM: this host's KVM can't run the kernel; TCG can.
var ErrKVM = errors.New("KVM cannot run this kernel here")

// Start boots a node and waits until its agent answers, which is when systemd has reached multi-user.target's
// services. The node outlives this process unless ctx ends before that.
func Start(ctx context.Context, o Options) (*Machine, error) {
	if err := os.Mkdir(o.Dir, 0o755); err != nil {
		return nil, err
	}
	m := &Machine{Dir: o.Dir}
	if err := initramfs(m.path("initrd"), o.Agent, o.Image); err != nil {
		return nil, err
	}
	// cp(1) keeps the holes, and shares the blocks where the file system can.
	if out, err := exec.CommandContext(ctx, "cp", "--sparse=always", "--reflink=auto", filepath.Join(o.Image, "root.ext4"), m.path("root.ext4")).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy root file system: %w: %s", err, out)
	}
	args, err := m.arguments(o)
	if err != nil {
		return nil, err
	}
	exited, err := m.launch(append(o.QEMU[1:], args...), o.QEMU[0])
	if err != nil {
		return nil, err
	}
	if err := m.ready(ctx, exited); err != nil {
		return nil, errors.Join(err, m.Stop())
	}
	return m, nil
}

// Open finds a node that Start made.
func Open(dir string) (*Machine, error) {
	m := &Machine{Dir: dir}
	addr, err := os.ReadFile(m.path("addr"))
	if err != nil {
		return nil, err
	}
	m.Addr = string(addr)
	if _, err := m.pid(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Machine) path(name string) string { return filepath.Join(m.Dir, name) }

// arguments is QEMU's command line; it also decides the agent's address.
func (m *Machine) arguments(o Options) ([]string, error) {
	if o.CPUs == 0 {
		o.CPUs = 2
	}
	if o.Memory == 0 {
		o.Memory = 3072
	}
	ip, gateway, netdev := "10.0.2.15/24", "10.0.2.2", ""
	if o.Tap.Name != "" {
		ip, gateway = o.Tap.Address, o.Tap.Gateway
		netdev = "tap,id=n0,ifname=" + o.Tap.Name + ",script=no,downscript=no"
		host, _, _ := strings.Cut(ip, "/")
		m.Addr = net.JoinHostPort(host, strconv.Itoa(wire.Port))
	} else {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		m.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
		netdev = fmt.Sprintf("user,id=n0,restrict=on,hostfwd=tcp:%s-:%d", m.Addr, wire.Port)
	}
	args := []string{"-machine", "q35", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-smp", strconv.Itoa(o.CPUs), "-m", strconv.Itoa(o.Memory), "-serial", "file:" + m.path("console.log"),
		"-kernel", filepath.Join(o.Image, "vmlinuz"), "-initrd", m.path("initrd"),
		"-netdev", netdev, "-device", "virtio-net-pci,netdev=n0,romfile=", "-device", "virtio-rng-pci"}
	if o.Accel == "kvm" {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		// A plain CPU is faster to emulate than "max", which has SMAP and 5-level paging. Linux 6.12 on QEMU 7.2 dies of
		// its emulation of 16-byte compare-and-swap.
		args = append(args, "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt,-cx16")
	}
	dirs := []string{}
	args = append(args, drive(m.path("root.ext4"), 0, "cache=unsafe")...)
	for i, d := range o.Disks {
		args = append(args, drive(d.Image, i+1, "readonly=on")...)
		dirs = append(dirs, d.Dir)
	}
	words := "console=ttyS0 panic=-1 reboot=t cryptomgr.notests mitigations=off net.ifnames=0 quiet rw systemd.show_status=0" +
		" vm.ip=" + ip + " vm.gateway=" + gateway + " vm.disks=" + strings.Join(dirs, ",") + " " + o.Words
	return append(args, "-append", words), nil
}

func drive(file string, n int, option string) []string {
	id := "d" + strconv.Itoa(n)
	// The PCI address gives the order of /dev/vda, vdb, ... whatever the order drivers probe in.
	return []string{"-drive", "file=" + file + ",format=raw,if=none,id=" + id + "," + option,
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,addr=0x%x", id, 0x10+n)}
}

// freePort asks the kernel; QEMU takes it a moment later, and does not start if another has been quicker.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func (m *Machine) launch(args []string, qemu string) (<-chan error, error) {
	log, err := os.Create(m.path("qemu.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(qemu, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	// Ends when QEMU has.
	go func() { exited <- cmd.Wait() }()
	if err := os.WriteFile(m.path("addr"), []byte(m.Addr), 0o644); err != nil {
		return nil, err
	}
	return exited, os.WriteFile(m.path("pid"), strconv.AppendInt(nil, int64(cmd.Process.Pid), 10), 0o644)
}

// ready waits for the agent. QEMU's forwarder accepts before the node does, so only an answer counts.
func (m *Machine) ready(ctx context.Context, exited <-chan error) error {
	for {
		try, cancel := context.WithTimeout(ctx, 5*time.Second)
		code, err := m.Run(try, Command{Args: []string{"true"}})
		cancel()
		if err == nil && code == 0 {
			return nil
		}
		// QEMU waits for ever after the first, and dies of the second: a register that the host's KVM does not have.
		if log, _ := os.ReadFile(m.path("qemu.log")); bytes.Contains(log, []byte("KVM internal error")) || bytes.Contains(log, []byte("kvm_buf_set_msrs")) {
			return ErrKVM
		}
		select {
		case err := <-exited:
			log, _ := os.ReadFile(m.path("qemu.log"))
			if bytes.Contains(log, []byte("kvm_buf_set_msrs")) {
				return ErrKVM
			}
			return fmt.Errorf("QEMU ended: %w: %s%s", err, log, m.tail())
		case <-ctx.Done():
			return fmt.Errorf("boot: %w: last of the console: %s", ctx.Err(), m.tail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (m *Machine) tail() []byte {
	b, _ := os.ReadFile(m.path("console.log"))
	return b[max(0, len(b)-2000):]
}

// pid is QEMU's, if it is still this node's.
func (m *Machine) pid() (int, error) {
	b, err := os.ReadFile(m.path("pid"))
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil {
		return 0, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.Contains(line, []byte(m.path("root.ext4"))) {
		return 0, fmt.Errorf("node %s: %w", m.Dir, os.ErrProcessDone)
	}
	return pid, nil
}

// Stop ends the node at once, as a power cut does, and removes its directory but for the logs. A node that has ended is
// no error.
func (m *Machine) Stop() error {
	pid, err := m.pid()
	switch {
	case err == nil:
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	case !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, os.ErrNotExist):
		return err
	}
	return errors.Join(os.RemoveAll(m.path("root.ext4")), os.RemoveAll(m.path("initrd")), os.RemoveAll(m.path("addr")))
}
