package netplugin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
)

// collectPatience is how long Collect waits for attachments being made before it leaves GC to the next call.
const collectPatience = 5 * time.Second

// Collect gives back the attachments of pods that keep does not name (nil names none), then has the plugins of all networks in use
// (CNI 1.1) give back whatever else they hold. It does what it can and returns all errors. keep
// is asked for each pod right before: pods may come while plugins are at work.
func (m *Manager) Collect(ctx context.Context, keep func(podID string) bool) error {
	pods, err := recorded(m.opt.CacheDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range pods {
		if keep != nil && keep(id) {
			continue
		}
		netns := ""
		if rec, err := readRecord(m.opt.CacheDir, id); err == nil {
			netns = rec.NetNS
		}
		if err := m.Detach(ctx, id, netns); err != nil {
			errs = append(errs, fmt.Errorf("pod %s: %w", id, err))
		}
	}
	return errors.Join(append(errs, m.collectGarbage(ctx))...)
}

// collectGarbage runs GC while no attachment is being made: one missing from the list would be taken for garbage.
// It does not queue for that, since a plugin that hangs would make all later attachments wait behind it.
func (m *Manager) collectGarbage(ctx context.Context) error {
	for end := time.Now().Add(collectPatience); !m.gc.TryLock(); {
		if time.Now().After(end) {
			return errors.New("network garbage not collected: attachments are being made")
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	defer m.gc.Unlock()
	lists, valid, err := m.attached()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	var errs []error
	for name, list := range lists {
		if err := m.cni.GCNetworkList(ctx, list, &libcni.GCArgs{ValidAttachments: valid[name]}); err != nil {
			errs = append(errs, fmt.Errorf("collect network %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// attached returns the networks in use and those of existing records, by name, with their attachments.
func (m *Manager) attached() (map[string]*libcni.NetworkConfigList, map[string][]types.GCAttachment, error) {
	lists, valid := map[string]*libcni.NetworkConfigList{}, map[string][]types.GCAttachment{}
	if list, err := m.current(); err == nil {
		lists[list.Name], valid[list.Name] = list, []types.GCAttachment{}
	}
	pods, err := recorded(m.opt.CacheDir)
	if err != nil {
		return nil, nil, err
	}
	for _, id := range pods {
		rec, err := readRecord(m.opt.CacheDir, id)
		if errors.Is(err, errDamaged) {
			// Its network is not known, so nothing can be called garbage.
			return nil, nil, err
		}
		if err != nil {
			continue // detached meanwhile
		}
		valid[rec.Network] = append(valid[rec.Network], types.GCAttachment{ContainerID: id, IfName: ifname})
		if lists[rec.Network] != nil {
			continue
		}
		if list, err := libcni.NetworkConfFromBytes(rec.Config); err == nil {
			lists[rec.Network] = list
		}
	}
	return lists, valid, nil
}
