package contract

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// hostPod is a pod that needs no network plugin.
func hostPod(name, dir string) *rt.PodSandboxConfig {
	cfg := harness.PodConfig(name, dir)
	cfg.Hostname = ""
	cfg.Linux.SecurityContext.NamespaceOptions.Network = rt.NamespaceMode_NODE
	return cfg
}

// Requests and lists of many MiB: what fits into a message of 16 MiB is answered in one, what does not is refused there and
// streamed in pieces, each thing once.
func TestLongLists(t *testing.T) {
	n := harness.Own(t, harness.Setup{})
	ctx := t.Context()
	const pods, each = 5, 3500 << 10
	var podIDs, ctrIDs []string
	for i := range pods {
		cfg := hostPod(fmt.Sprintf("long-%d", i), n.Dir)
		cfg.Annotations["long"] = strings.Repeat("x", each)
		p := n.Run(t, cfg)
		c := harness.Command("c", "sleep 1000")
		c.Annotations = map[string]string{"long": strings.Repeat("y", each)}
		podIDs, ctrIDs = append(podIDs, p.ID), append(ctrIDs, p.Start(c))
	}
	if l, err := n.Runtime.ListPodSandbox(ctx, &rt.PodSandboxFilter{Id: podIDs[0]}); err != nil || len(l) != 1 || len(l[0].Annotations["long"]) != each {
		t.Errorf("a list of one: %d, %v", len(l), err)
	}
	if _, err := n.Raw.ListPodSandbox(ctx, &rt.ListPodSandboxRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a list of more than 16 MiB in one message: %v", err)
	}
	for what, open := range streams(n) {
		next, err := open(ctx)
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		want := podIDs
		if strings.Contains(what, "Container") {
			want = ctrIDs
		}
		seen, messages := map[string]int{}, 0
		for {
			list, m, err := next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Errorf("%s: %v", what, err)
				break
			}
			messages++
			if size := proto.Size(m); len(list) == 0 || size > 16<<20 {
				t.Errorf("%s: a message of %d things, %d bytes", what, len(list), size)
			}
			for _, id := range list {
				seen[id]++
			}
		}
		for _, id := range want {
			if seen[id] != 1 {
				t.Errorf("%s: %s was there %d times", what, id[:12], seen[id])
			}
		}
		if len(seen) != len(want) || messages < 2 && what != "StreamPodSandboxMetrics" {
			t.Errorf("%s: %d things in %d messages", what, len(seen), messages)
		}
	}
}

// streams are the streamed lists, each as a function that opens it and one that returns the ids of the next message.
func streams(n *harness.Node) map[string]func(context.Context) (func() ([]string, proto.Message, error), error) {
	type next = func() ([]string, proto.Message, error)
	return map[string]func(context.Context) (next, error){
		"StreamPodSandboxes": func(ctx context.Context) (next, error) {
			s, err := n.Raw.StreamPodSandboxes(ctx, &rt.StreamPodSandboxesRequest{})
			return func() ([]string, proto.Message, error) {
				m, err := s.Recv()
				return ids(m.GetPodSandboxes(), (*rt.PodSandbox).GetId), m, err
			}, err
		},
		"StreamContainers": func(ctx context.Context) (next, error) {
			s, err := n.Raw.StreamContainers(ctx, &rt.StreamContainersRequest{})
			return func() ([]string, proto.Message, error) {
				m, err := s.Recv()
				return ids(m.GetContainers(), (*rt.Container).GetId), m, err
			}, err
		},
		"StreamContainerStats": func(ctx context.Context) (next, error) {
			s, err := n.Raw.StreamContainerStats(ctx, &rt.StreamContainerStatsRequest{})
			return func() ([]string, proto.Message, error) {
				m, err := s.Recv()
				return ids(m.GetContainerStats(), func(s *rt.ContainerStats) string { return s.GetAttributes().GetId() }), m, err
			}, err
		},
		"StreamPodSandboxStats": func(ctx context.Context) (next, error) {
			s, err := n.Raw.StreamPodSandboxStats(ctx, &rt.StreamPodSandboxStatsRequest{})
			return func() ([]string, proto.Message, error) {
				m, err := s.Recv()
				return ids(m.GetPodSandboxStats(), func(s *rt.PodSandboxStats) string { return s.GetAttributes().GetId() }), m, err
			}, err
		},
		"StreamPodSandboxMetrics": func(ctx context.Context) (next, error) {
			s, err := n.Raw.StreamPodSandboxMetrics(ctx, &rt.StreamPodSandboxMetricsRequest{})
			return func() ([]string, proto.Message, error) {
				m, err := s.Recv()
				return ids(m.GetPodSandboxMetrics(), (*rt.PodSandboxMetrics).GetPodSandboxId), m, err
			}, err
		},
	}
}

// A node that has nothing: lists end at once, streams without a message, and the file system is told all the same.
func TestEmptyNode(t *testing.T) {
	n := harness.Own(t, harness.Setup{})
	ctx := t.Context()
	fs, err := n.Images.ImageFsInfo(ctx)
	if err != nil || len(fs.ImageFilesystems) == 0 {
		t.Fatalf("%v, %v", fs, err)
	}
	if f := fs.ImageFilesystems[0]; f.Timestamp == 0 || f.UsedBytes == nil || f.InodesUsed == nil || !strings.HasPrefix(n.Root, f.FsId.GetMountpoint()) && !strings.HasPrefix(f.FsId.GetMountpoint(), n.Root) {
		t.Errorf("first file system %v", f)
	}
	for what, open := range streams(n) {
		next, err := open(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if list, _, err := next(); !errors.Is(err, io.EOF) {
			t.Errorf("%s of nothing: %v, %v", what, list, err)
		}
	}
	if l, err := n.Images.ListImages(ctx, nil); err != nil || len(l) != 0 {
		t.Errorf("images %v, %v", l, err)
	}
	for what, err := range map[string]error{
		"CheckpointPod": func() error { _, err := n.Raw.CheckpointPod(ctx, &rt.CheckpointPodRequest{}); return err }(),
		"RestorePod":    func() error { _, err := n.Raw.RestorePod(ctx, &rt.RestorePodRequest{}); return err }(),
	} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// Labels and annotations are the same bytes in every answer, also after a restart; so are times, ids, names and attempts.
func TestLabelsEverywhere(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	pod := harness.PodConfig("labels", n.Dir)
	labels := map[string]string{"io.kubernetes.pod.uid": pod.Metadata.Uid, "empty": "", "ünï": "çødé", "io.kubernetes.container.name": "c"}
	annotations := map[string]string{"json": `{"a":"<&> "}`, "lines": "a\nb\r\n\t", "long": strings.Repeat("ä", 100<<10), "io.kubernetes.container.restartCount": "3"}
	pod.Labels, pod.Annotations = labels, annotations
	p := n.Run(t, pod)
	cfg := harness.Command("c", "sleep 1000")
	cfg.Metadata.Attempt = 3
	cfg.Labels, cfg.Annotations = labels, annotations
	id := p.Start(cfg)
	type object interface {
		GetLabels() map[string]string
		GetAnnotations() map[string]string
	}
	type dated interface {
		GetId() string
		GetCreatedAt() int64
	}
	created := map[string]int64{}
	check := func(when string) {
		t.Helper()
		ctx := t.Context()
		ctrs, err1 := n.Runtime.ListContainers(ctx, &rt.ContainerFilter{Id: id})
		pods, err2 := n.Runtime.ListPodSandbox(ctx, &rt.PodSandboxFilter{Id: p.ID})
		ps, err3 := n.Runtime.PodSandboxStatus(ctx, p.ID, false)
		cs, err4 := n.Runtime.ContainerStats(ctx, id)
		st, err5 := n.Runtime.PodSandboxStats(ctx, p.ID)
		if err := errors.Join(err1, err2, err3, err4, err5); err != nil || len(ctrs) != 1 || len(pods) != 1 {
			t.Fatal(err, len(ctrs), len(pods))
		}
		s := n.Status(t, id)
		for what, o := range map[string]object{"ListContainers": ctrs[0], "ContainerStatus": s, "ListPodSandbox": pods[0], "PodSandboxStatus": ps.Status,
			"ContainerStats": cs.Attributes, "PodSandboxStats": st.Attributes} {
			if !maps.Equal(o.GetLabels(), labels) || !maps.Equal(o.GetAnnotations(), annotations) {
				t.Errorf("%s, %s: labels %q, %d annotations", when, what, o.GetLabels(), len(o.GetAnnotations()))
			}
			if d, ok := o.(dated); ok {
				if at, known := created[d.GetId()]; d.GetCreatedAt() == 0 || known && at != d.GetCreatedAt() {
					t.Errorf("%s, %s: created at %d, was %d", when, what, d.GetCreatedAt(), at)
				}
				created[d.GetId()] = d.GetCreatedAt()
			}
		}
		if s.Metadata.Attempt != 3 || ctrs[0].Metadata.Attempt != 3 || ctrs[0].PodSandboxId != p.ID {
			t.Errorf("%s: %v, %v", when, s.Metadata, ctrs[0])
		}
	}
	check("at first")
	if err := n.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	check("after a restart")
}
