package netplugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

const (
	// ifname is the name of a pod's interface; kubelet and most plugins expect no other.
	ifname = "eth0"
	// cleanTimeout bounds giving back an attachment that could not be completed.
	cleanTimeout = 30 * time.Second
	// statusTimeout bounds the STATUS verb, so that a plugin that hangs is reported rather than waited for.
	statusTimeout = 5 * time.Second
)

// ErrNotReady is wrapped by errors of a network that has no configuration or whose plugins are missing.
var ErrNotReady = errors.New("the network is not ready")

// Options of a Manager.
type Options struct {
	ConfDir     string      // directory of conflists (.conflist, .conf, .json); need not exist
	BinDirs     []string    // where plugins are looked for, in this order
	CacheDir    string      // records and libcni's cache; created, owned by the Manager
	Builtin     bool        // use berth-bridge when ConfDir has no usable file
	BuiltinBin  string      // path of berth-bridge
	BuiltinConf BuiltinConf // zero: everything is chosen
}

// Pod is what plugins are told of a pod.
type Pod struct {
	ID, Name, Namespace, UID string
	NetNS                    string // path of the pod's network namespace
	Ports                    []Port
	IngressBW, EgressBW      int64 // bit/s, 0: not limited

	DNSServers, DNSSearches, DNSOptions []string

	CgroupPath  string
	Annotations map[string]string
}

// Port is a port of the node that leads to one of the pod. HostPort 0 is ignored.
type Port struct {
	HostPort, ContainerPort uint16
	Protocol                string // tcp, udp, sctp
	HostIP                  string // empty: every address of the node
}

// Result is what an attachment gave.
type Result struct {
	IPs       []netip.Addr // the pod's addresses, IPv4 first; never empty
	Interface string
	Raw       json.RawMessage // the last plugin's answer
}

// Manager runs plugins and remembers what they gave. Its methods may be called concurrently; those for one pod wait
// for each other.
type Manager struct {
	opt     Options
	cni     *libcni.CNIConfig
	exec    *pluginExec
	path    []string                  // CNI_PATH
	builtin *libcni.NetworkConfigList // nil: not asked for
	boot    string
	pods    keyedLock
	// gc is held shared by attachments being made and exclusively by GC, whose list of what is valid must not age.
	gc sync.RWMutex
}

// New makes a Manager. It creates CacheDir and, if the built-in network is asked for, chooses its configuration.
func New(opt Options) (*Manager, error) {
	if opt.CacheDir == "" {
		return nil, fmt.Errorf("network cache directory: %w", fs.ErrInvalid)
	}
	if err := os.MkdirAll(opt.CacheDir, 0o700); err != nil {
		return nil, err
	}
	m := &Manager{opt: opt, exec: &pluginExec{builtin: opt.BuiltinBin}, boot: bootID()}
	m.path = slices.Clone(opt.BinDirs)
	if opt.Builtin {
		m.path = append(m.path, filepath.Dir(opt.BuiltinBin)) // CNI_PATH must not be empty
	}
	m.cni = libcni.NewCNIConfigWithCacheDir(m.path, opt.CacheDir, m.exec)
	if !opt.Builtin {
		return m, nil
	}
	list, err := builtinList(opt.CacheDir, opt.BuiltinConf)
	if err != nil {
		return nil, fmt.Errorf("built-in network: %w", err)
	}
	m.builtin = list
	return m, nil
}

// Attach connects a pod. What an earlier, unfinished attachment of the same pod took is given back first. If it
// returns an error, everything was given back, or the record is still there for Detach to be called again.
func (m *Manager) Attach(ctx context.Context, pod Pod) (Result, error) {
	unlock, err := m.pods.lock(ctx, pod.ID)
	if err != nil {
		return Result{}, err
	}
	defer unlock()
	if err := m.detach(ctx, pod.ID, pod.NetNS); err != nil {
		return Result{}, fmt.Errorf("detach earlier attachment: %w", err)
	}
	list, err := m.current()
	if err != nil {
		return Result{}, err
	}
	res, err := m.add(ctx, list, pod)
	if err == nil {
		return res, nil
	}
	err = fmt.Errorf("attach network %s: %w", list.Name, err)
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTimeout)
	defer cancel()
	if derr := m.detach(clean, pod.ID, pod.NetNS); derr != nil {
		err = errors.Join(err, derr)
	}
	return Result{}, err
}

// add records the intent, runs ADD and records the result.
func (m *Manager) add(ctx context.Context, list *libcni.NetworkConfigList, pod Pod) (Result, error) {
	// A chain with a missing program would leave behind what its first plugins took, and DEL would stop there too.
	if err := m.findPlugins(list); err != nil {
		return Result{}, err
	}
	rec, err := newRecord(list, pod, m.boot)
	if err != nil {
		return Result{}, err
	}
	m.gc.RLock()
	defer m.gc.RUnlock()
	if err := rec.write(m.opt.CacheDir); err != nil {
		return Result{}, err
	}
	answer, err := m.cni.AddNetworkList(ctx, list, rec.runtimeConf(pod.NetNS))
	if err != nil {
		return Result{}, err
	}
	res, err := parseResult(answer)
	if err != nil {
		return Result{}, err
	}
	rec.Result = res.Raw
	return res, rec.write(m.opt.CacheDir)
}

// Detach gives back all that the pod was given, from its record alone. netns is empty when the namespace is gone.
// No record is success; after an error it may be called again.
func (m *Manager) Detach(ctx context.Context, podID, netns string) error {
	unlock, err := m.pods.lock(ctx, podID)
	if err != nil {
		return err
	}
	defer unlock()
	return m.detach(ctx, podID, netns)
}

// detach does it with the pod's lock held.
func (m *Manager) detach(ctx context.Context, podID, netns string) error {
	rec, err := readRecord(m.opt.CacheDir, podID)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, errDamaged):
		if rec, err = m.standIn(podID); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	list, err := libcni.NetworkConfFromBytes(rec.Config)
	if err != nil {
		return fmt.Errorf("detach network %s: %w", rec.Network, err)
	}
	if rec.Boot != m.boot || !isNamespace(netns) {
		netns = "" // a path that outlived a boot may be a stranger's
	}
	if err := m.cni.DelNetworkList(ctx, list, rec.runtimeConf(netns)); err != nil {
		return fmt.Errorf("detach network %s: %w", rec.Network, err)
	}
	return removeRecord(m.opt.CacheDir, podID)
}

// standIn makes a record for one that a power cut damaged, from the configuration in use now.
func (m *Manager) standIn(podID string) (*record, error) {
	list, err := m.current()
	if err != nil {
		return nil, fmt.Errorf("detach pod with damaged record: %w", err)
	}
	return newRecord(list, Pod{ID: podID}, m.boot)
}

// Result returns the recorded answer of a pod's last plugin, nil if there is none.
func (m *Manager) Result(podID string) json.RawMessage {
	rec, err := readRecord(m.opt.CacheDir, podID)
	if err != nil {
		return nil
	}
	return rec.Result
}

// parseResult reads the addresses of the pod's interface from the last plugin's answer.
func parseResult(answer types.Result) (Result, error) {
	raw, err := json.Marshal(answer)
	if err != nil {
		return Result{}, fmt.Errorf("read result: %w", err)
	}
	r, err := types100.NewResultFromResult(answer)
	if err != nil {
		return Result{}, fmt.Errorf("read result: %w", err)
	}
	res := Result{Interface: ifname, Raw: raw}
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && (*i < 0 || *i >= len(r.Interfaces) || !inPod(r.Interfaces[*i])) {
			continue
		}
		if addr, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			res.IPs = append(res.IPs, addr.Unmap())
		}
	}
	if len(res.IPs) == 0 {
		return Result{}, errors.New("no address in the result")
	}
	slices.SortStableFunc(res.IPs, func(a, b netip.Addr) int { return family(a) - family(b) })
	return res, nil
}

func inPod(i *types100.Interface) bool {
	return i != nil && i.Sandbox != "" && i.Name == ifname
}

func family(a netip.Addr) int {
	if a.Is4() {
		return 4
	}
	return 6
}
