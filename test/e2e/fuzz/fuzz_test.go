// Package fuzz sends every request of both services with everything in it that a request should not have, to a real
// daemon: it must neither panic nor hang, and afterwards nothing may be left.
package fuzz

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

var (
	during  = flag.Duration("for", 20*time.Second, "how long to send requests; hack/fuzzcri.sh does it for long")
	seed    = flag.Uint64("seed", 1, "of the requests")
	workers = flag.Int("workers", 2, "requests at a time")
)

// patience is how long a request may take; a client's deadline is that far away, too.
const patience = 10 * time.Second

func TestMain(m *testing.M) { os.Exit(harness.MainJailed(m)) }

// fuzzer is one run.
type fuzzer struct {
	t     *testing.T
	n     *harness.Node
	conn  *grpc.ClientConn
	mu    sync.Mutex
	ids   map[string][]string // by field name
	sent  atomic.Int64
	codes sync.Map // code, and method that succeeded -> *atomic.Int64
	pods  sync.Mutex
}

func TestRequests(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	for _, ref := range []string{harness.Busybox, harness.Configured} {
		n.Pull(t, ref)
	}
	if err := os.MkdirAll(n.Dir+"/victims", 0o755); err != nil {
		t.Fatal(err)
	}
	goroutines, fds, rss := n.Goroutines(t), descriptors(t, n.Pid()), resident(t, n.Pid())
	f := &fuzzer{t: t, n: n, conn: n.Conn(), ids: map[string][]string{}}
	t.Cleanup(func() { f.check(goroutines, fds, rss) })
	var all sync.WaitGroup
	end := time.Now().Add(*during)
	for w := range *workers {
		all.Go(func() {
			s := &source{Rand: rand.New(rand.NewPCG(*seed, uint64(w))), known: f.known, dir: n.Dir + "/victims"}
			for time.Now().Before(end) && !t.Failed() {
				f.one(s)
			}
		})
	}
	all.Wait()
}

// check looks at what is left when all pods are gone.
func (f *fuzzer) check(goroutines, fds, rss int) {
	f.prune(0)
	var counts []string
	f.codes.Range(func(k, v any) bool {
		counts = append(counts, fmt.Sprintf("%v %d", k, v.(*atomic.Int64).Load()))
		return true
	})
	slices.Sort(counts)
	f.t.Logf("%d requests: %s", f.sent.Load(), strings.Join(counts, ", "))
	log, err := os.ReadFile(filepath.Join(f.n.Dir, "daemon.log"))
	if err != nil || strings.Contains(string(log), "panic") {
		at := strings.Index(string(log), "panic")
		f.t.Errorf("the daemon panicked: %v, %.4000s", err, log[max(0, at-200):])
	}
	if err := syscall.Kill(f.n.Pid(), 0); err != nil {
		f.t.Fatalf("the daemon is gone: %v", err)
	}
	if left, _ := filepath.Glob(f.n.Dir + "/escaped*"); len(left) > 0 {
		f.t.Errorf("a path led out: %q", left)
	}
	os.RemoveAll(f.n.Dir + "/victims")
	var g, d int
	for end := time.Now().Add(harness.Patience); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if g, d = f.n.Goroutines(f.t), descriptors(f.t, f.n.Pid()); g <= goroutines+2 && d <= fds {
			break
		}
	}
	now := resident(f.t, f.n.Pid())
	f.t.Logf("goroutines %d, then %d; descriptors %d, then %d; resident %d KiB, then %d", goroutines, g, fds, d, rss, now)
	if g > goroutines+2 || d > fds {
		f.t.Errorf("goroutines %d, then %d; descriptors %d, then %d", goroutines, g, fds, d)
	}
	if now > 256<<10 {
		f.t.Errorf("the daemon has %d KiB", now)
	}
}

// services are the descriptors of what the daemon serves.
func services() (out []protoreflect.MethodDescriptor) {
	for _, name := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			panic(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			out = append(out, methods.Get(i))
		}
	}
	return out
}

// raw sends bytes that are encoded already, and decodes answers.
type raw struct{}

func (raw) Name() string                       { return "proto" }
func (raw) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (raw) Unmarshal(data []byte, v any) error { return proto.Unmarshal(data, v.(proto.Message)) }

// one sends one request.
func (f *fuzzer) one(s *source) {
	methods := services()
	method := methods[s.IntN(len(methods))]
	if s.IntN(3) == 0 { // what makes something is worth more tries
		name := []protoreflect.Name{"RunPodSandbox", "CreateContainer"}[s.IntN(2)]
		method = methods[slices.IndexFunc(methods, func(m protoreflect.MethodDescriptor) bool { return m.Name() == name })]
	}
	req := f.request(s, method)
	b, err := s.encode(req)
	if err != nil {
		f.t.Errorf("encode: %v", err)
		return
	}
	name := fmt.Sprintf("/%s/%s", method.Parent().FullName(), method.Name())
	out, err := protoregistry.GlobalTypes.FindMessageByName(method.Output().FullName())
	if err != nil {
		f.t.Error(err)
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	answer := out.New().Interface()
	begin := time.Now()
	if method.IsStreamingServer() {
		err = f.stream(ctx, cancel, name, b, answer)
	} else {
		err = f.conn.Invoke(ctx, name, b, answer, grpc.ForceCodec(raw{}))
	}
	f.judge(method.Name(), req, err, time.Since(begin))
	if err == nil {
		f.learn(answer)
	}
	if r, ok := answer.(*rt.CreateContainerResponse); ok && err == nil && s.IntN(3) > 0 {
		begin := time.Now()
		_, err := f.n.Raw.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: r.ContainerId})
		f.judge("StartContainer", req, err, time.Since(begin))
	}
}

// stream takes a few answers.
func (f *fuzzer) stream(ctx context.Context, cancel func(), name string, b []byte, answer proto.Message) error {
	st, err := f.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	if err := st.SendMsg(b); err != nil {
		return err
	}
	st.CloseSend()
	if strings.HasSuffix(name, "GetContainerEvents") {
		time.AfterFunc(50*time.Millisecond, cancel)
	}
	for range 3 {
		if err := st.RecvMsg(answer); err != nil {
			if err.Error() == "EOF" {
				return nil
			}
			return err
		}
	}
	return nil
}

// judge fails the test if the answer is not one.
func (f *fuzzer) judge(method protoreflect.Name, req proto.Message, err error, took time.Duration) {
	f.sent.Add(1)
	code := status.Code(err)
	f.count(code.String())
	if err == nil {
		f.count("OK " + string(method))
	}
	// These may wait rightly: for a grace, for a command, for a registry that does not answer.
	waits := method == "StopContainer" || method == "ExecSync" || method == "PullImage" || method == "CheckpointContainer"
	switch {
	case code == codes.Unavailable:
		f.t.Errorf("%s: the daemon is gone: %v\n%.4000s", method, err, prototext.Format(req))
	case took > patience+5*time.Second, took >= patience && !waits:
		f.t.Errorf("%s took %v: %v\n%.4000s", method, took, err, prototext.Format(req))
	case strings.Contains(fmt.Sprint(err), "panic"):
		f.t.Errorf("%s: %v\n%.4000s", method, err, prototext.Format(req))
	}
}

func (f *fuzzer) count(what string) {
	n, _ := f.codes.LoadOrStore(what, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
}

// request is a good request that was spoiled, or a random one.
func (f *fuzzer) request(s *source, method protoreflect.MethodDescriptor) proto.Message {
	in, err := protoregistry.GlobalTypes.FindMessageByName(method.Input().FullName())
	if err != nil {
		panic(err)
	}
	m := in.New()
	if s.IntN(4) == 0 {
		s.fill(m, 6)
	} else {
		proto.Merge(m.Interface(), f.good(s, m.Descriptor()))
		for range s.IntN(4) {
			s.spoil(m)
		}
	}
	confine(m.Interface())
	return m.Interface()
}

// confine keeps a request from asking rightly for what the test can't give or take back.
func confine(m proto.Message) {
	switch r := m.(type) {
	case *rt.StopContainerRequest:
		r.Timeout = min(r.Timeout, 1)
	case *rt.ExecSyncRequest:
		if r.Timeout == 0 || r.Timeout > 2 {
			r.Timeout = 2
		}
	case *rt.RemoveImageRequest:
		if strings.Contains(r.GetImage().GetImage(), "busybox") || len(r.GetImage().GetImage()) > 8 && len(r.GetImage().GetImage()) < 100 {
			r.Image = &rt.ImageSpec{Image: "x"} // needed further on
		}
	}
}

// good is a request that would succeed, as far as there is one.
func (f *fuzzer) good(s *source, d protoreflect.MessageDescriptor) proto.Message {
	pick := func(field string) string {
		if k := f.known(field); len(k) > 0 {
			return k[s.IntN(len(k))]
		}
		return ""
	}
	pod := harness.PodConfig("fuzz", f.n.Dir)
	switch d.Name() {
	case "RunPodSandboxRequest":
		f.prune(6)
		return &rt.RunPodSandboxRequest{Config: pod}
	case "CreateContainerRequest":
		cfg := harness.Command(fmt.Sprintf("c%d", s.IntN(1e6)), "sleep 1000")
		cfg.Envs = []*rt.KeyValue{{Key: "A", Value: []byte("b")}}
		cfg.Mounts = []*rt.Mount{{HostPath: f.n.Dir + "/victims", ContainerPath: "/mnt"}}
		cfg.Linux.Resources = &rt.LinuxContainerResources{CpuShares: 100, MemoryLimitInBytes: 64 << 20}
		return &rt.CreateContainerRequest{PodSandboxId: pick("pod_sandbox_id"), Config: cfg, SandboxConfig: pod}
	}
	m, _ := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	out := m.New()
	if r, ok := out.Interface().(*rt.UpdateContainerResourcesRequest); ok {
		r.Linux = &rt.LinuxContainerResources{CpuShares: 50, CpuPeriod: 100_000, CpuQuota: 20_000, MemoryLimitInBytes: 80 << 20}
	}
	for i := range d.Fields().Len() {
		field := d.Fields().Get(i)
		switch {
		case field.Kind() == protoreflect.StringKind && !field.IsList():
			out.Set(field, protoreflect.ValueOfString(pick(string(field.Name()))))
		case field.Name() == "image":
			out.Set(field, protoreflect.ValueOfMessage((&rt.ImageSpec{Image: harness.Busybox}).ProtoReflect()))
		case field.Name() == "cmd":
			l := out.Mutable(field).List()
			l.Append(protoreflect.ValueOfString("true"))
		case field.Name() == "stdout":
			out.Set(field, protoreflect.ValueOfBool(true))
		}
	}
	return out.Interface()
}

// known are values for string fields: ids of what there is, names of images.
func (f *fuzzer) known(field string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch field {
	case "id":
		return slices.Concat(f.ids["pod_sandbox_id"], f.ids["container_id"])
	case "host_path", "log_directory", "location":
		return []string{f.n.Dir + "/victims", f.n.Dir + "/victims/x"}
	case "container_path":
		return []string{"/mnt", "/etc/x", "/proc/sys", "/dev/shm", "/"}
	case "cgroup_parent":
		return []string{harness.PodConfig("x", f.n.Dir).Linux.CgroupParent}
	case "image", "user_specified_image":
		return []string{harness.Busybox, harness.Configured}
	}
	return slices.Clone(f.ids[field])
}

// learn keeps ids of answers.
func (f *fuzzer) learn(m proto.Message) {
	field, id := "", ""
	switch r := m.(type) {
	case *rt.RunPodSandboxResponse:
		field, id = "pod_sandbox_id", r.PodSandboxId
	case *rt.CreateContainerResponse:
		field, id = "container_id", r.ContainerId
	default:
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ids[field] = append(f.ids[field], id)
}

// prune removes pods until at most so many are left.
func (f *fuzzer) prune(keep int) {
	f.pods.Lock()
	defer f.pods.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 6*patience)
	defer cancel()
	list, err := f.n.Raw.ListPodSandbox(ctx, &rt.ListPodSandboxRequest{})
	if err != nil {
		f.t.Errorf("list: %v", err)
		return
	}
	slices.SortFunc(list.Items, func(a, b *rt.PodSandbox) int { return int(b.CreatedAt - a.CreatedAt) })
	f.mu.Lock()
	f.ids["pod_sandbox_id"] = nil
	for _, p := range list.Items[:min(keep, len(list.Items))] {
		f.ids["pod_sandbox_id"] = append(f.ids["pod_sandbox_id"], p.Id)
	}
	f.mu.Unlock()
	for i, p := range list.Items {
		if i < keep {
			continue
		}
		begin := time.Now()
		if _, err := f.n.Raw.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil || time.Since(begin) > 3*patience {
			f.t.Errorf("remove pod %.12s after %v: %v", p.Id, time.Since(begin), err)
		}
	}
	if ctrs, err := f.n.Raw.ListContainers(ctx, &rt.ListContainersRequest{}); err == nil {
		f.mu.Lock()
		f.ids["container_id"] = nil
		for _, c := range ctrs.Containers {
			f.ids["container_id"] = append(f.ids["container_id"], c.Id)
		}
		f.mu.Unlock()
	}
}

func descriptors(t *testing.T, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// resident is VmRSS of proc_pid_status(5), in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	n := 0
	fmt.Sscan(after, &n)
	return n
}
