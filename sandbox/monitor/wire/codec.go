package wire

import "syscall"

// Encode gives v, one of *Request, *Reply and *Exit, as JSON, or an Error with EMSGSIZE when it exceeds MaxPacket.
//
// The codec is written out because encoding/json would be a fifth of the monitor's memory, for every pod of a node. What it
// writes, encoding/json reads, and the other way round, with one difference: strings are bytes. Those that are no UTF-8, as
// paths may be, go through unchanged.
func Encode(v any) ([]byte, error) { return Append(nil, v) }

// Append is Encode into the room behind b, which it returns longer.
func Append(b []byte, v any) ([]byte, error) {
	w := writer{b: b}
	switch v := v.(type) {
	case *Request:
		w.request(v)
	case *Reply:
		w.reply(v)
	case *Exit:
		w.exit(v)
	default:
		return nil, &Error{Text: "encode: not a message", Errno: syscall.EINVAL}
	}
	if len(w.b)-len(b) > MaxPacket {
		return nil, &Error{Text: "packet larger than 256 KiB", Errno: syscall.EMSGSIZE}
	}
	return w.b, nil
}

// Decode reads a packet into v, one of *Request, *Reply and *Exit. Fields that are not known are passed over. The result
// shares nothing with b.
func Decode(b []byte, v any) error {
	if len(b) > MaxPacket {
		return &Error{Text: "packet larger than 256 KiB", Errno: syscall.EMSGSIZE}
	}
	r := &reader{b: b}
	switch v := v.(type) {
	case *Request:
		*v = Request{}
		readRequest(r, v)
	case *Reply:
		*v = Reply{}
		readReply(r, v)
	case *Exit:
		*v = Exit{}
		readExit(r, v)
	default:
		return &Error{Text: "decode: not a message", Errno: syscall.EINVAL}
	}
	r.space()
	if r.bad || r.i != len(r.b) {
		return &Error{Text: "malformed packet", Errno: syscall.EBADMSG}
	}
	return nil
}

func (w *writer) request(q *Request) {
	w.open("", '{')
	w.mustInt("v", int64(q.V))
	w.mustUint("seq", q.Seq)
	w.str("op", string(q.Op))
	w.str("id", q.ID)
	w.str("name", q.Name)
	w.int("signal", int64(q.Signal))
	w.int("cols", int64(q.Cols))
	w.int("rows", int64(q.Rows))
	w.flag("stdin", q.Stdin)
	w.flag("stdout", q.Stdout)
	w.flag("stderr", q.Stderr)
	w.int("skip", int64(q.Skip))
	if q.Spawn != nil {
		w.spawn(q.Spawn)
	}
	w.close('}')
}

func readRequest(r *reader, q *Request) {
	r.object(func(key []byte) {
		switch string(key) {
		case "v":
			q.V = r.int()
		case "seq":
			q.Seq = r.uint(1<<64 - 1)
		case "op":
			q.Op = Op(r.str())
		case "id":
			q.ID = r.str()
		case "name":
			q.Name = r.str()
		case "signal":
			q.Signal = r.int()
		case "cols":
			q.Cols = uint16(r.uint(1<<16 - 1))
		case "rows":
			q.Rows = uint16(r.uint(1<<16 - 1))
		case "skip":
			q.Skip = r.int()
		case "spawn":
			q.Spawn = new(Spawn)
			readSpawn(r, q.Spawn)
		default:
			if p := q.flagOf(key); p != nil {
				*p = r.flag()
			} else {
				r.skip()
			}
		}
	})
}

func (q *Request) flagOf(key []byte) *bool {
	switch string(key) {
	case "stdin":
		return &q.Stdin
	case "stdout":
		return &q.Stdout
	case "stderr":
		return &q.Stderr
	}
	return nil
}

func (w *writer) spawn(s *Spawn) {
	w.open("spawn", '{')
	w.str("id", s.ID)
	w.str("path", s.Path)
	w.strs("argv", s.Argv)
	w.strs("env", s.Env)
	w.str("dir", s.Dir)
	w.str("pidFile", s.PidFile)
	w.flag("tty", s.TTY)
	w.str("consoleSocket", s.ConsoleSocket)
	w.str("log", s.Log)
	w.int("logMax", int64(s.LogMax))
	w.flag("stdin", s.Stdin)
	w.flag("stdinOnce", s.StdinOnce)
	w.flag("passIO", s.PassIO)
	w.str("exitFile", s.ExitFile)
	w.str("oomFile", s.OOMFile)
	w.strs("held", s.Held)
	w.uint("clone", uint64(s.Clone))
	w.idMaps("uidMap", s.UIDMap)
	w.idMaps("gidMap", s.GIDMap)
	w.int("timeout", s.Timeout)
	w.close('}')
}

func readSpawn(r *reader, s *Spawn) {
	r.object(func(key []byte) {
		if p := s.textOf(key); p != nil {
			*p = r.str()
			return
		}
		switch string(key) {
		case "argv":
			s.Argv = r.strs()
		case "env":
			s.Env = r.strs()
		case "held":
			s.Held = r.strs()
		case "tty":
			s.TTY = r.flag()
		case "stdin":
			s.Stdin = r.flag()
		case "stdinOnce":
			s.StdinOnce = r.flag()
		case "passIO":
			s.PassIO = r.flag()
		case "logMax":
			s.LogMax = r.int()
		case "timeout":
			s.Timeout = int64(r.int())
		case "clone":
			s.Clone = uintptr(r.uint(1<<63 - 1))
		case "uidMap":
			s.UIDMap = readIDMaps(r)
		case "gidMap":
			s.GIDMap = readIDMaps(r)
		default:
			r.skip()
		}
	})
}

func (s *Spawn) textOf(key []byte) *string {
	switch string(key) {
	case "id":
		return &s.ID
	case "path":
		return &s.Path
	case "dir":
		return &s.Dir
	case "pidFile":
		return &s.PidFile
	case "consoleSocket":
		return &s.ConsoleSocket
	case "log":
		return &s.Log
	case "exitFile":
		return &s.ExitFile
	case "oomFile":
		return &s.OOMFile
	}
	return nil
}

func (w *writer) idMaps(key string, maps []IDMap) {
	if len(maps) == 0 {
		return
	}
	w.open(key, '[')
	for _, m := range maps {
		w.open("", '{')
		w.mustInt("containerID", int64(m.ContainerID))
		w.mustInt("hostID", int64(m.HostID))
		w.mustInt("size", int64(m.Size))
		w.close('}')
	}
	w.close(']')
}

func readIDMaps(r *reader) []IDMap {
	var maps []IDMap
	r.array(func() {
		var m IDMap
		r.object(func(key []byte) {
			switch string(key) {
			case "containerID":
				m.ContainerID = uint32(r.uint(1<<32 - 1))
			case "hostID":
				m.HostID = uint32(r.uint(1<<32 - 1))
			case "size":
				m.Size = uint32(r.uint(1<<32 - 1))
			default:
				r.skip()
			}
		})
		maps = append(maps, m)
	})
	return maps
}

func (w *writer) reply(p *Reply) {
	w.open("", '{')
	w.mustInt("v", int64(p.V))
	w.uint("seq", p.Seq)
	if p.Err != nil {
		w.open("err", '{')
		w.mustStr("text", p.Err.Text)
		w.uint("errno", uint64(p.Err.Errno))
		w.close('}')
	}
	w.int("pid", int64(p.Pid))
	if p.Spawned != nil {
		w.open("spawned", '{')
		w.int("pid", int64(p.Spawned.Pid))
		w.str("stderr", p.Spawned.Stderr)
		w.close('}')
	}
	if len(p.List) > 0 {
		w.open("list", '[')
		for i := range p.List {
			w.process(&p.List[i])
		}
		w.close(']')
	}
	w.flag("more", p.More)
	if p.Exit != nil {
		w.key("exit")
		w.exit(p.Exit)
	}
	w.close('}')
}

func readReply(r *reader, p *Reply) {
	r.object(func(key []byte) {
		switch string(key) {
		case "v":
			p.V = r.int()
		case "seq":
			p.Seq = r.uint(1<<64 - 1)
		case "err":
			p.Err = new(Error)
			readError(r, p.Err)
		case "pid":
			p.Pid = r.int()
		case "spawned":
			p.Spawned = new(Spawned)
			readSpawned(r, p.Spawned)
		case "list":
			r.array(func() {
				p.List = append(p.List, Process{})
				readProcess(r, &p.List[len(p.List)-1])
			})
		case "more":
			p.More = r.flag()
		case "exit":
			p.Exit = new(Exit)
			readExit(r, p.Exit)
		default:
			r.skip()
		}
	})
}

func readError(r *reader, e *Error) {
	r.object(func(key []byte) {
		switch string(key) {
		case "text":
			e.Text = r.str()
		case "errno":
			e.Errno = syscall.Errno(r.uint(1<<16 - 1))
		default:
			r.skip()
		}
	})
}

func readSpawned(r *reader, s *Spawned) {
	r.object(func(key []byte) {
		switch string(key) {
		case "pid":
			s.Pid = r.int()
		case "stderr":
			s.Stderr = r.str()
		default:
			r.skip()
		}
	})
}

func (w *writer) process(p *Process) {
	w.open("", '{')
	w.mustStr("id", p.ID)
	w.int("pid", int64(p.Pid))
	if p.Exit != nil {
		w.key("exit")
		w.exit(p.Exit)
	}
	w.close('}')
}

func readProcess(r *reader, p *Process) {
	r.object(func(key []byte) {
		switch string(key) {
		case "id":
			p.ID = r.str()
		case "pid":
			p.Pid = r.int()
		case "exit":
			p.Exit = new(Exit)
			readExit(r, p.Exit)
		default:
			r.skip()
		}
	})
}

func (w *writer) exit(x *Exit) {
	w.open("", '{')
	w.mustStr("id", x.ID)
	w.mustInt("pid", int64(x.Pid))
	w.mustInt("code", int64(x.Code))
	w.int("signal", int64(x.Signal))
	w.flag("oomKilled", x.OOMKilled)
	w.mustInt("finishedAt", x.FinishedAt)
	w.close('}')
}

func readExit(r *reader, x *Exit) {
	r.object(func(key []byte) {
		switch string(key) {
		case "id":
			x.ID = r.str()
		case "pid":
			x.Pid = r.int()
		case "code":
			x.Code = r.int()
		case "signal":
			x.Signal = r.int()
		case "oomKilled":
			x.OOMKilled = r.flag()
		case "finishedAt":
			x.FinishedAt = int64(r.int())
		default:
			r.skip()
		}
	})
}
