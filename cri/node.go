package cri

import (
	"context"
	"encoding/json"
	"runtime"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/sandbox"
)

const (
	kubeletVersion = "0.1.0" // kubelet refuses any other answer
	runtimeName    = "berth" // scheme of container ids in Kubernetes: berth://<id>
	apiVersion     = "v1"
)

// statusWait bounds how long a network plugin may take to say whether it is ready: kubelet asks every 5 s and gives up
// on a runtime that does not answer for 30.
const statusWait = 3 * time.Second

// node answers for the runtime as a whole.
type node struct {
	pods    *sandbox.Manager
	network *netplugin.Manager
	version string
	systemd bool
	config  json.RawMessage
}

// Version answers who we are (runtime.v1 VersionResponse).
func (n node) Version(context.Context, *rt.VersionRequest) (*rt.VersionResponse, error) {
	return &rt.VersionResponse{
		Version: kubeletVersion, RuntimeName: runtimeName, RuntimeVersion: n.version, RuntimeApiVersion: apiVersion,
	}, nil
}

// Status tells kubelet what the node can do. A network that is not ready is a condition, never an error.
func (n node) Status(ctx context.Context, req *rt.StatusRequest) (*rt.StatusResponse, error) {
	wait, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	netErr := n.network.Status(wait)
	resp := &rt.StatusResponse{
		Status: &rt.RuntimeStatus{Conditions: []*rt.RuntimeCondition{
			{Type: rt.RuntimeReady, Status: true},
			networkReady(netErr),
		}},
		Features: &rt.RuntimeFeatures{SupplementalGroupsPolicy: true, MountOptions: true},
	}
	handlers := n.pods.Handlers()
	for _, h := range handlers {
		if h.Name == "" {
			resp.Features.UserNamespacesHostNetwork = h.UserNamespace
		}
		if h.Err != "" {
			resp.Status.Conditions = append(resp.Status.Conditions, handlerBroken(h))
		}
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &rt.RuntimeHandler{
			Name:     h.Name,
			Features: &rt.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: h.RecursiveReadOnly, UserNamespaces: h.UserNamespace},
		})
	}
	if !req.GetVerbose() {
		return resp, nil
	}
	resp.Info = map[string]string{
		"config":            string(n.config),
		"golang":            quote(runtime.Version()),
		"handlers":          encoded(handlers),
		"cniconfig":         quote(n.network.Config()),
		"lastCNILoadStatus": quote("OK"),
	}
	if netErr != nil {
		resp.Info["lastCNILoadStatus"] = quote(netErr.Error())
	}
	return resp, nil
}

func networkReady(err error) *rt.RuntimeCondition {
	c := &rt.RuntimeCondition{Type: rt.NetworkReady, Status: err == nil}
	if err != nil {
		c.Reason = "NetworkPluginNotReady"
		c.Message = "Network plugin returns error: " + err.Error()
	}
	return c
}

// handlerBroken tells of a runtime handler that can't be used. The node is ready for all other pods; kubelet keeps conditions
// it does not know out of the way.
func handlerBroken(h sandbox.HandlerInfo) *rt.RuntimeCondition {
	return &rt.RuntimeCondition{Type: "RuntimeHandlerReady/" + h.Name, Reason: "RuntimeHandlerNotUsable", Message: h.Err}
}

func encoded(v any) string {
	b, _ := json.Marshal(v) // plain structures only
	return string(b)
}

// quote makes a JSON text: the values of verbose info are.
func quote(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

// RuntimeConfig tells kubelet the cgroup driver. The zero value means systemd, so it is always set.
func (n node) RuntimeConfig(context.Context, *rt.RuntimeConfigRequest) (*rt.RuntimeConfigResponse, error) {
	driver := rt.CgroupDriver_CGROUPFS
	if n.systemd {
		driver = rt.CgroupDriver_SYSTEMD
	}
	return &rt.RuntimeConfigResponse{Linux: &rt.LinuxRuntimeConfiguration{CgroupDriver: driver}}, nil
}

// UpdateRuntimeConfig takes note of the node's pod CIDR, which nothing here needs: addresses are the network plugin's.
func (n node) UpdateRuntimeConfig(context.Context, *rt.UpdateRuntimeConfigRequest) (*rt.UpdateRuntimeConfigResponse, error) {
	return &rt.UpdateRuntimeConfigResponse{}, nil
}
