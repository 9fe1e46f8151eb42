package fault

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// logBuffer keeps a log that many write.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// rpcs returns the lines about each RPC, without what varies.
func (l *logBuffer) rpcs() map[string][]string {
	out := map[string][]string{}
	for line := range strings.Lines(l.String()) {
		field := map[string]string{}
		for _, f := range strings.Fields(line) {
			k, v, _ := strings.Cut(f, "=")
			field[k] = v
		}
		if field["code"] != "" && field["duration"] != "" {
			if field["msg"] == "GetContainerEvents" {
				field["code"] = "ended" // by whoever noticed the deadline first
			}
			out[field["msg"]] = append(out[field["msg"]], field["level"]+" "+field["code"])
		}
	}
	return out
}

// At level debug there is one line for each RPC, whatever becomes of it. At level info, the default, reads and ExecSync that
// succeed are left out, which kubelet sends by the thousand in a minute; their failures are not.
func TestLogOfRPCs(t *testing.T) {
	t.Parallel()
	for _, level := range []string{"debug", "info"} {
		t.Run(level, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t)
			d.kill(syscall.SIGTERM)
			d.args = []string{"--log-level", level}
			d.launch()
			id := d.start(d.run(), "main", "sleep")
			d.eventually("the start is in the log", func() bool { return len(d.log.rpcs()["StartContainer"]) == 1 })
			before := d.log.rpcs()
			want := map[string][]string{}
			called := func(method string, quiet bool, err error) {
				code := status.Code(err).String()
				switch {
				case !quiet || err != nil:
					want[method] = append(want[method], "INFO "+code)
				case level == "debug":
					want[method] = append(want[method], "DEBUG "+code)
				}
			}
			for _, service := range []grpc.ServiceDesc{rt.RuntimeService_ServiceDesc, rt.ImageService_ServiceDesc} {
				for _, m := range service.Methods { // empty requests: some can be answered
					called(m.MethodName, reads(m.MethodName), d.conn.Invoke(t.Context(), "/"+service.ServiceName+"/"+m.MethodName, new(emptypb.Empty), new(emptypb.Empty)))
				}
				for _, s := range service.Streams {
					if s.StreamName == "GetContainerEvents" {
						want[s.StreamName] = []string{"INFO ended"}
						d.drain("/" + service.ServiceName + "/" + s.StreamName)
						continue
					}
					called(s.StreamName, true, d.drain("/"+service.ServiceName+"/"+s.StreamName))
				}
			}
			_, err := d.cri.ExecSync(t.Context(), &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"say", "here"}, Timeout: 60})
			d.must(err)
			called("ExecSync", true, nil)
			_, err = d.cri.ContainerStatus(t.Context(), &rt.ContainerStatusRequest{ContainerId: id})
			d.must(err)
			called("ContainerStatus", true, nil)
			if len(want) < 40 && level == "debug" {
				t.Errorf("%d RPCs were called", len(want))
			}
			d.eventually("the lines are there", func() bool {
				for method, lines := range want {
					if len(d.log.rpcs()[method]) < len(before[method])+len(lines) {
						return false
					}
				}
				return true
			})
			for method, lines := range d.log.rpcs() {
				got := lines[len(before[method]):]
				slices.Sort(got) // a stream's line comes when it is over
				slices.Sort(want[method])
				if fmt.Sprint(got) != fmt.Sprint(want[method]) {
					t.Errorf("%s: logged %q, want %q", method, got, want[method])
				}
			}
		})
	}
}

// reads reports whether an RPC changes nothing, by the CRI's way of naming.
func reads(rpc string) bool {
	for _, part := range []string{"List", "Status", "Stats", "Info", "Version"} {
		if strings.Contains(rpc, part) {
			return true
		}
	}
	return rpc == "RuntimeConfig"
}

// drain calls a streaming RPC and reads it to its end; of events, which have none, to its deadline.
func (d *daemon) drain(method string) error {
	patience := time.Minute
	if strings.HasSuffix(method, "Events") {
		patience = time.Second
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	s, err := d.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err == nil {
		err = s.SendMsg(new(emptypb.Empty))
	}
	if err == nil {
		err = s.CloseSend()
	}
	for err == nil {
		err = s.RecvMsg(new(emptypb.Empty))
	}
	if err == io.EOF {
		return nil
	}
	return err
}
