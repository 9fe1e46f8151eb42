// Command fakeoci has the command line of an OCI runtime and contains nothing: what it starts are processes of the host,
// in the container's cgroup and with its streams. They are this program again, doing what the container's command says.
// At each step it does what its script says (package script), whose directory is the global option --script:
//
//	create   before anything is made;  created  when all is made, before it returns;  start, started, delete, exec, execed likewise
//	unnamed  when an exec'ed process is there whose pid nobody knows yet
//	fail TEXT, die (by SIGKILL), junk (a pid file that holds no number)
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/test/fault/script"
)

// invocation is a command line taken apart.
type invocation struct {
	root, verb, id string
	script         script.Dir
	opt            map[string]string
}

func main() {
	if len(os.Args) > 1 && (os.Args[1] == "init" || os.Args[1] == "payload") {
		admitted()
	}
	if len(os.Args) > 2 && os.Args[1] == "init" {
		wait(os.Args[2])
		payload(os.Args[3:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "payload" {
		payload(os.Args[2:])
		return
	}
	v := parse(os.Args[1:])
	if err := v.run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func parse(args []string) invocation {
	v := invocation{opt: map[string]string{}}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case a == "--force" || a == "--detach" || a == "-f" || a == "-d" || a == "--all":
		case strings.HasPrefix(a, "--"):
			name, value, ok := strings.Cut(a[2:], "=")
			if !ok && i+1 < len(args) {
				i++
				value = args[i]
			}
			v.opt[name] = value
		case v.verb == "":
			v.verb = a
		case v.id == "":
			v.id = a
		}
	}
	v.root, v.script = v.opt["root"], script.Dir(v.opt["script"])
	return v
}

func (v invocation) dir() string { return filepath.Join(v.root, v.id) }

func (v invocation) read(name string) string {
	b, _ := os.ReadFile(filepath.Join(v.dir(), name))
	return string(b)
}

// step does what the script says that ends the program in some way.
func (v invocation) step(name string) error {
	switch action, text := v.script.Step(name, v.id); action {
	case "fail":
		return fmt.Errorf("%s", text)
	case "die":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
	case "junk":
		os.WriteFile(v.opt["pid-file"], []byte("junk"), 0o600)
		os.Exit(0)
	}
	return nil
}

func (v invocation) run() error {
	if err := v.step(v.verb); err != nil {
		return err
	}
	switch v.verb {
	case "create":
		return v.create()
	case "start":
		return v.start()
	case "state":
		return v.state()
	case "kill", "delete":
		if pid, err := strconv.Atoi(v.read("pid")); err == nil && pid > 1 && v.status() != "stopped" {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if v.verb == "delete" {
			return os.RemoveAll(v.dir())
		}
	case "exec":
		return v.exec()
	case "update":
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	case "features":
		fmt.Println(`{"ociVersionMin":"1.0.0","ociVersionMax":"1.2.0"}`)
	}
	return nil
}

// config is what of an OCI configuration matters here.
type config struct {
	Process struct{ Args []string }
	Linux   struct{ CgroupsPath string }
	Mounts  []struct{ Destination, Source, Type string }
}

// share leaves a file named like the container in the pod's shared memory, and a list of all that are there in the container's
// log.
func (c config) share(id string) error {
	for _, m := range c.Mounts {
		if m.Destination != "/dev/shm" || m.Source == "/dev/shm" {
			continue
		}
		var st syscall.Statfs_t
		const tmpfs = 0x01021994 // statfs(2)
		if err := syscall.Statfs(m.Source, &st); err != nil || st.Type != tmpfs {
			return fmt.Errorf("%s is no tmpfs: type %x, %v", m.Source, st.Type, err)
		}
		if err := os.WriteFile(filepath.Join(m.Source, id), nil, 0o600); err != nil {
			return err
		}
		names, err := filepath.Glob(m.Source + "/*")
		if err != nil {
			return err
		}
		for _, name := range names {
			fmt.Println("shares", filepath.Base(name))
		}
	}
	return nil
}

func load(name string) (c config, err error) {
	b, err := os.ReadFile(name)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	return c, err
}

func (v invocation) create() error {
	bundle := v.opt["bundle"]
	c, err := load(filepath.Join(bundle, "config.json"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(v.root, 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(v.dir(), 0o700); err != nil {
		return err
	}
	if err := syscall.Mkfifo(filepath.Join(v.dir(), "start"), 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(v.dir(), "bundle"), []byte(bundle), 0o600); err != nil {
		return err
	}
	if len(c.Process.Args) > 0 && c.Process.Args[0] == "share" {
		if err := c.share(v.id); err != nil {
			return err
		}
	}
	g, err := cgroup.Create(c.Linux.CgroupsPath, "cgroupfs")
	if err != nil {
		return err
	}
	pid, err := launch(g, append([]string{"init", filepath.Join(v.dir(), "start")}, c.Process.Args...))
	if err != nil {
		return err
	}
	for _, name := range []string{filepath.Join(v.dir(), "pid"), v.opt["pid-file"]} {
		if err := os.WriteFile(name, []byte(strconv.Itoa(pid)), 0o600); err != nil {
			return err
		}
	}
	return v.step("created")
}

// start lets the first process go. Of several at once one does; the others fail as with any runtime.
func (v invocation) start() error {
	mark, err := os.OpenFile(filepath.Join(v.dir(), "running"), os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return errors.New("cannot start a container in the running state")
	}
	if err != nil {
		return err
	}
	mark.Close()
	f, err := os.OpenFile(filepath.Join(v.dir(), "start"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.Write([]byte{0}); err != nil {
		return err
	}
	return v.step("started")
}

// launch starts this program again and puts it into a cgroup. The process goes on once it is there: one whose runtime is
// killed before would run outside, where nobody looks for it.
func launch(g *cgroup.Group, args []string) (int, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer w.Close()
	c := exec.Command("/proc/self/exe", args...)
	c.Args[0] = "fakeoci-container"
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.ExtraFiles = []*os.File{r}
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = c.Start()
	r.Close()
	if err != nil {
		return 0, err
	}
	if err := g.Add(c.Process.Pid); err != nil {
		c.Process.Kill()
		c.Wait()
		return 0, err
	}
	_, err = w.Write([]byte{0})
	return c.Process.Pid, err
}

// admitted waits for launch to have put this process into its cgroup.
func admitted() {
	f := os.NewFile(3, "admission")
	if n, _ := f.Read(make([]byte, 1)); n != 1 {
		os.Exit(1)
	}
	f.Close()
}

func (v invocation) exec() error {
	c, err := load(filepath.Join(v.read("bundle"), "config.json"))
	if err != nil {
		return err
	}
	var p struct{ Args []string }
	b, err := os.ReadFile(v.opt["process"])
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &p); err != nil {
		return err
	}
	g, err := cgroup.Open(c.Linux.CgroupsPath)
	if err != nil {
		return err
	}
	if _, sub, ok := strings.Cut(v.opt["cgroup"], ":"); ok {
		g, err = g.OpenSub(sub)
	} else if v.opt["cgroup"] != "" {
		g, err = g.OpenSub(v.opt["cgroup"])
	}
	if err != nil {
		return err
	}
	pid, err := launch(g, append([]string{"payload"}, p.Args...))
	if err != nil {
		return err
	}
	if err := v.step("unnamed"); err != nil {
		return err
	}
	if err := os.WriteFile(v.opt["pid-file"], []byte(strconv.Itoa(pid)), 0o600); err != nil {
		return err
	}
	return v.step("execed")
}

// status tells by the process's start whether it is the container's: a zombie is over.
func (v invocation) status() string {
	stat, err := os.ReadFile("/proc/" + v.read("pid") + "/stat")
	_, after, ok := strings.Cut(string(stat), ") ")
	_, rerr := os.Stat(filepath.Join(v.dir(), "running"))
	switch {
	case err != nil || !ok || strings.HasPrefix(after, "Z"):
		return "stopped"
	case rerr == nil:
		return "running"
	}
	return "created"
}

func (v invocation) state() error {
	if _, err := os.Stat(v.dir()); err != nil {
		return fmt.Errorf("container %s does not exist", v.id)
	}
	pid, _ := strconv.Atoi(v.read("pid"))
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"ociVersion": "1.2.0", "id": v.id, "status": v.status(), "pid": pid, "bundle": v.read("bundle"),
	})
}
