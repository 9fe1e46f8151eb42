package kubelet

import (
	"encoding/json"
	"fmt"
)

// summary is what is looked at of kubelet's stats/summary.
type summary struct {
	Pods []struct {
		PodRef     struct{ Namespace, Name string }
		CPU        usage
		Memory     usage
		Network    struct{ RxBytes, TxBytes *uint64 }
		Containers []struct {
			Name   string
			CPU    usage
			Memory usage
			Rootfs struct{ UsedBytes uint64 }
		}
	}
}

type usage struct{ UsageNanoCores, UsageCoreNanoSeconds, WorkingSetBytes uint64 }

// check finds the one pod of the namespace, which burns a processor and has written 5 MB. Without the gate
// PodAndContainerStatsFromCRI kubelet takes a pod's network from cAdvisor, which looks into the pause containers of the
// runtimes it knows (pkg/kubelet/stats/cri_stats_provider.go): there is none then.
func (s *summary) check(raw []byte, namespace string, network bool) error {
	if err := json.Unmarshal(raw, s); err != nil {
		return err
	}
	for _, p := range s.Pods {
		if p.PodRef.Namespace != namespace {
			continue
		}
		if len(p.Containers) != 1 || network && p.Network.RxBytes == nil || p.CPU.UsageCoreNanoSeconds == 0 || p.Memory.WorkingSetBytes == 0 {
			return fmt.Errorf("pod: %+v", p)
		}
		if c := p.Containers[0]; c.CPU.UsageNanoCores < 50e6 || c.Memory.WorkingSetBytes == 0 || c.Rootfs.UsedBytes < 5000000 {
			return fmt.Errorf("container: %+v", c)
		}
		return nil
	}
	return fmt.Errorf("no pod of %s among %d", namespace, len(s.Pods))
}
