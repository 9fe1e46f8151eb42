package cri

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/stream"
	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/sandbox"
)

func TestCodes(t *testing.T) {
	t.Parallel()
	wrap := func(err error) error { return fmt.Errorf("start container c: %w", err) }
	_, enoent := os.Open("/nonexistent/file")
	for _, c := range []struct {
		err  error
		want codes.Code
	}{
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
		{fs.ErrInvalid, codes.InvalidArgument},
		{fs.ErrNotExist, codes.NotFound},
		{fs.ErrExist, codes.AlreadyExists},
		{errors.ErrUnsupported, codes.Unimplemented},
		{sandbox.ErrNotRunning, codes.FailedPrecondition},
		{sandbox.ErrNotReady, codes.FailedPrecondition},
		{sandbox.ErrNotCreated, codes.FailedPrecondition},
		{stream.ErrBusy, codes.ResourceExhausted},
		{&fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}, codes.ResourceExhausted},
		{syscall.EMFILE, codes.ResourceExhausted},
		{image.ErrRegistryUnavailable, codes.Unknown},
		{errors.New("boom"), codes.Unknown},
		// A file that is missing on the host is no object that does not exist.
		{enoent, codes.Unknown},
		{syscall.EEXIST, codes.Unknown},
		{syscall.ENOTSUP, codes.Unknown},
		// Several at once: the end of the caller's time wins, then what was wrong with the request.
		{errors.Join(fs.ErrNotExist, context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("mount /x: %w: %w", fs.ErrInvalid, syscall.ENOENT), codes.InvalidArgument},
	} {
		if got := status.Code(answer(t.Context(), wrap(c.err))); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	if err := answer(t.Context(), nil); err != nil {
		t.Errorf("nil: %v", err)
	}
	if s := status.Convert(answer(t.Context(), status.Error(codes.Aborted, "x"))); s.Code() != codes.Aborted || s.Message() != "x" {
		t.Errorf("a status is changed: %v", s)
	}
}

func TestAnswerText(t *testing.T) {
	t.Parallel()
	got := status.Convert(answer(t.Context(), fmt.Errorf("pull x: %w: dial tcp: timeout", image.ErrRegistryUnavailable)))
	if got.Code() != codes.Unknown || !strings.HasPrefix(got.Message(), "RegistryUnavailable") {
		t.Errorf("registry: %v", got)
	}
	long := status.Convert(answer(t.Context(), errors.New(strings.Repeat("ä", maxText)+"\xff")))
	if len(long.Message()) > maxText+8 || !strings.HasPrefix(long.Message(), "ää") {
		t.Errorf("long text has %d bytes", len(long.Message()))
	}
	ended, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	if got := status.Code(answer(ended, errors.New("connection closed"))); got != codes.DeadlineExceeded {
		t.Errorf("unclassed error after the deadline: %v", got)
	}
	if got := status.Code(answer(ended, fs.ErrNotExist)); got != codes.NotFound {
		t.Errorf("classed error after the deadline: %v", got)
	}
}

func TestCheckID(t *testing.T) {
	t.Parallel()
	for id, ok := range map[string]bool{
		"abc": true, "ABC-1_2.3": true, strings.Repeat("a", 64): true, "..": true,
		"": false, "a/b": false, "../x": false, "a b": false, "a\x00": false, "a\n": false, "ä": false, strings.Repeat("a", 257): false,
	} {
		err := checkID("container_id", id)
		if (err == nil) != ok || err != nil && (!is(err, fs.ErrInvalid) || !strings.Contains(err.Error(), "container_id")) {
			t.Errorf("%q: %v", id, err)
		}
	}
}

func TestSeconds(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]time.Duration{-1: 0, 0: 0, 30: 30 * time.Second, 1 << 62: 9223372036 * time.Second} {
		if got := seconds(n); got != want {
			t.Errorf("%d: %v", n, got)
		}
	}
}

// TestChunks checks what a streamed list promises: everything once, in order, no message empty or over the limit
// unless a single item is.
func TestChunks(t *testing.T) {
	t.Parallel()
	random := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		limit := 1 + random.IntN(3000)
		items := make([]*rt.Container, random.IntN(60))
		for i := range items {
			items[i] = &rt.Container{Id: fmt.Sprint(i), ImageRef: strings.Repeat("x", random.IntN(1+random.IntN(2*limit)))}
		}
		var got []*rt.Container
		err := chunks(items, limit, func(part []*rt.Container) error {
			if size := proto.Size(&rt.StreamContainersResponse{Containers: part}); len(part) == 0 || len(part) > 1 && size > limit {
				t.Errorf("%d items of %d bytes, limit %d", len(part), size, limit)
			}
			got = append(got, part...)
			return nil
		})
		if err != nil || len(got) != len(items) {
			t.Fatalf("%d of %d items, %v", len(got), len(items), err)
		}
		for i := range got {
			if got[i] != items[i] {
				t.Fatalf("item %d is %s", i, got[i].Id)
			}
		}
	}
	boom := errors.New("boom")
	calls := 0
	err := chunks([]*rt.Container{{Id: "a"}, {Id: "b"}}, 1, func([]*rt.Container) error { calls++; return boom })
	if !errors.Is(err, boom) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
}

func TestUser(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		uid  int64
		name string
	}{
		"": {-1, ""}, "0": {0, ""}, "1002": {1002, ""}, "1003:1004": {1003, ""}, "www-data": {-1, "www-data"},
		"www-data:www": {-1, "www-data"}, ":5": {-1, ""}, "+1": {-1, "+1"}, "-1": {-1, "-1"}, "0x10": {-1, "0x10"},
		"4294967296": {-1, "4294967296"},
	} {
		uid, name := user(in)
		if name != want.name || (uid == nil) != (want.uid < 0) || uid != nil && uid.Value != want.uid {
			t.Errorf("%q: %v, %q", in, uid, name)
		}
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	got := describe(image.Image{ID: "sha256:1", RepoTags: []string{"a:1"}, RepoDigests: []string{"a@sha256:2"}, Pinned: true, Config: image.Config{User: "7:8"}})
	want := &rt.Image{Id: "sha256:1", RepoTags: []string{"a:1"}, RepoDigests: []string{"a@sha256:2"}, Size: 1, Pinned: true, Uid: &rt.Int64Value{Value: 7}}
	if !proto.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// call runs a handler inside the interceptor and returns the log.
func call(req any, handler grpc.UnaryHandler) (string, error) {
	var buf bytes.Buffer
	w := watch{log: slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelDebug})), life: context.Background()}
	method := strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%T", req), "*v1."), "Request")
	_, err := w.unary(context.Background(), req, &grpc.UnaryServerInfo{FullMethod: "/runtime.v1.RuntimeService/" + method}, handler)
	return buf.String(), err
}

func TestLog(t *testing.T) {
	t.Parallel()
	const secret = "s3cret"
	fail := func(context.Context, any) (any, error) { return nil, fmt.Errorf("no: %w", fs.ErrInvalid) }
	for _, c := range []struct {
		req  any
		want []string
	}{
		{&rt.PullImageRequest{Image: &rt.ImageSpec{Image: "reg/x:1"}, Auth: &rt.AuthConfig{Username: secret, Password: secret, RegistryToken: secret}}, []string{"PullImage", "reg/x:1"}},
		{&rt.ExecSyncRequest{ContainerId: "c1", Cmd: []string{secret}}, []string{"ExecSync", "container=c1"}},
		{&rt.CreateContainerRequest{PodSandboxId: "p1", Config: &rt.ContainerConfig{
			Metadata: &rt.ContainerMetadata{Name: "web", Attempt: 3}, Image: &rt.ImageSpec{Image: "i"},
			Envs: []*rt.KeyValue{{Key: "A", Value: []byte(secret)}}, Args: []string{secret}, Command: []string{secret},
		}}, []string{"CreateContainer", "pod=p1", "name=web", "attempt=3"}},
		{&rt.RunPodSandboxRequest{Config: &rt.PodSandboxConfig{Metadata: &rt.PodSandboxMetadata{Name: "n", Namespace: "ns", Uid: "u"}, Annotations: map[string]string{"a": secret}}}, []string{"RunPodSandbox", "namespace=ns", "name=n", "uid=u"}},
		{&rt.RunPodSandboxRequest{}, []string{"RunPodSandbox"}},
	} {
		line, err := call(c.req, fail)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%T: %v", c.req, err)
		}
		if strings.Contains(line, secret) || strings.Count(line, "\n") != 1 || !strings.Contains(line, "level=INFO") {
			t.Errorf("%T: log %q", c.req, line)
		}
		for _, w := range append(c.want, "code=InvalidArgument", "duration=", "err=") {
			if !strings.Contains(line, w) {
				t.Errorf("%T: no %q in %q", c.req, w, line)
			}
		}
	}
	line, _ := call(&rt.ListContainersRequest{}, func(context.Context, any) (any, error) { return &rt.ListContainersResponse{}, nil })
	if !strings.Contains(line, "level=DEBUG") || !strings.Contains(line, "code=OK") {
		t.Errorf("a read: %q", line)
	}
}

func TestPanic(t *testing.T) {
	t.Parallel()
	log, err := call(&rt.VersionRequest{}, func(context.Context, any) (any, error) { panic("oh no") })
	if s := status.Convert(err); s.Code() != codes.Internal || strings.Contains(s.Message(), "oh no") {
		t.Errorf("answer %v", err)
	}
	if !strings.Contains(log, "oh no") || !strings.Contains(log, "unit_test.go") {
		t.Errorf("log %q", log)
	}
}

// TestComplete checks that every RPC is answered by one noun or by the generated server: an RPC that two nouns had
// would be answered by neither, and this would not compile.
func TestComplete(t *testing.T) {
	t.Parallel()
	var _ rt.RuntimeServiceServer = runtimeService{}
	var _ rt.ImageServiceServer = imageService{}
	if n := len(rt.RuntimeService_ServiceDesc.Methods) + len(rt.RuntimeService_ServiceDesc.Streams) +
		len(rt.ImageService_ServiceDesc.Methods) + len(rt.ImageService_ServiceDesc.Streams); n != 43 {
		t.Errorf("the API has %d RPCs: look at the new ones", n)
	}
	_, err := runtimeService{}.CheckpointPod(t.Context(), nil)
	if status.Code(answer(t.Context(), err)) != codes.Unimplemented {
		t.Errorf("what is not built answers %v", err)
	}
}
