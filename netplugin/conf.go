package netplugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/version"
)

// current is the network in use: the first valid file of the directory, else the built-in one.
// Its error, when there is neither, wraps ErrNotReady.
func (m *Manager) current() (*libcni.NetworkConfigList, error) {
	list, err := loadDir(m.opt.ConfDir)
	if err == nil || m.builtin == nil {
		return list, err
	}
	return m.builtin, nil
}

// Config returns the name of the network in use, "" if there is none.
func (m *Manager) Config() string {
	list, err := m.current()
	if err != nil {
		return ""
	}
	return list.Name
}

// Status tells whether pods can be connected: nil, or why not, in words for the node's NetworkReady condition.
// Plugins of CNI 1.1 are asked by the STATUS verb; of others the programs must be there.
func (m *Manager) Status(ctx context.Context) error {
	list, err := m.current()
	if err != nil {
		return err
	}
	if err := m.findPlugins(list); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	if err := m.cni.GetStatusNetworkList(ctx, list); err != nil {
		return fmt.Errorf("network %s: %w", list.Name, err)
	}
	return nil
}

// findPlugins checks that the programs of all plugins are there.
func (m *Manager) findPlugins(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		if _, err := m.exec.FindInPath(p.Network.Type, m.path); err != nil {
			return fmt.Errorf("plugin %s: not in %s: %w: %w", p.Network.Type, strings.Join(m.path, ":"), ErrNotReady, fs.ErrNotExist)
		}
	}
	return nil
}

// loadDir returns the first valid conflist of dir, by file name.
func loadDir(dir string) (*libcni.NetworkConfigList, error) {
	none := fmt.Errorf("no network configuration in %s: %w", dir, ErrNotReady)
	if dir == "" {
		return nil, none
	}
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, fmt.Errorf("network configuration: %w", err)
	}
	slices.Sort(files)
	errs := []error{none}
	for _, f := range files {
		list, err := loadFile(f)
		if err == nil {
			return list, nil
		}
		if !errors.Is(err, fs.ErrNotExist) { // else it went between listing and reading
			errs = append(errs, fmt.Errorf("%s: %w", filepath.Base(f), err))
		}
	}
	return nil, errors.Join(errs...)
}

// loadFile reads a list of plugins or, whatever its name says, the configuration of a single one.
func loadFile(path string) (*libcni.NetworkConfigList, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var list *libcni.NetworkConfigList
	if filepath.Ext(path) == ".conflist" {
		list, err = libcni.NetworkConfFromFile(path)
	} else {
		var conf *libcni.PluginConfig
		if conf, err = libcni.NetworkPluginConfFromBytes(b); err == nil {
			//lint:ignore SA1019 Nodes still have single-plugin files (.conf), and both other runtimes take them.
			list, err = libcni.ConfListFromConf(conf)
		}
	}
	if err != nil {
		return nil, err
	}
	if v := list.CNIVersion; v != "" {
		if newer, err := version.GreaterThan(v, version.Current()); err != nil || newer {
			return nil, fmt.Errorf("cniVersion %s: %w", v, errors.ErrUnsupported)
		}
	}
	return list, nil
}
