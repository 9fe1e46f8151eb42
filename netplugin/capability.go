package netplugin

import "encoding/json"

// burst is the largest burst the bandwidth plugin accepts, in bits: a limit on the rate only.
const burst = (1<<32-1)*8 - 1

type portMapping struct {
	HostPort      uint16 `json:"hostPort"`
	ContainerPort uint16 `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP"`
}

type bandwidth struct {
	IngressRate  int64 `json:"ingressRate,omitempty"`
	IngressBurst int64 `json:"ingressBurst,omitempty"`
	EgressRate   int64 `json:"egressRate,omitempty"`
	EgressBurst  int64 `json:"egressBurst,omitempty"`
}

type dns struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

// capabilities are the capability arguments of a pod (CNI CONVENTIONS.md). libcni hands a plugin those it declares.
func capabilities(pod Pod) (map[string]json.RawMessage, error) {
	caps := map[string]any{}
	var ports []portMapping
	for _, p := range pod.Ports {
		if p.HostPort != 0 {
			ports = append(ports, portMapping(p))
		}
	}
	if len(ports) > 0 {
		caps["portMappings"] = ports
	}
	if pod.IngressBW > 0 || pod.EgressBW > 0 {
		bw := bandwidth{IngressRate: pod.IngressBW, EgressRate: pod.EgressBW}
		if bw.IngressRate > 0 {
			bw.IngressBurst = burst
		}
		if bw.EgressRate > 0 {
			bw.EgressBurst = burst
		}
		caps["bandwidth"] = bw
	}
	if len(pod.DNSServers)+len(pod.DNSSearches)+len(pod.DNSOptions) > 0 {
		caps["dns"] = dns{pod.DNSServers, pod.DNSSearches, pod.DNSOptions}
	}
	if pod.CgroupPath != "" {
		caps["cgroupPath"] = pod.CgroupPath
	}
	if len(pod.Annotations) > 0 {
		caps["io.kubernetes.cri.pod-annotations"] = pod.Annotations
	}
	out := make(map[string]json.RawMessage, len(caps))
	for k, v := range caps {
		b, err := json.Marshal(v)
		if err != nil {
			return nil, err
		}
		out[k] = b
	}
	return out, nil
}
