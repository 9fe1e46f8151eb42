//go:build amd64

package quick

import "unsafe"

// reply is what an init said.
type reply struct {
	size int
	text [4096]byte
}

// say is for errors that the ordinary program can't find again.
func (r *reply) say(text string) { r.size = copy(r.text[:], text) }

// Said is what the container's init answered to `start`, or what went wrong when an exec had been begun; "" when there was no
// error, or nothing has been done yet.
func Said() string {
	r := answer()
	return string(r.text[:r.size])
}

// Called by the assembly only.
var _, _ = early, vectors

//go:noescape
func syscall6(nr, a, b, c, d, e, f uintptr) uintptr

func answer() *reply

func variables() (maxprocs, gogc uintptr)

// early does what the arguments ask for and ends the process, or returns how many words argc, argv, envp and the
// auxiliary vector take.
//
//go:norace
//go:nocheckptr
func early(sp *uintptr) int {
	argc := int(*sp)
	if argc == 3 && arg(sp, 1) == "become" {
		p := scan{s: arg(sp, 2)}
		initiate(p.number())
	}
	var a args
	if a.parse(sp, argc) {
		switch {
		case a.command == "start" && a.start(), a.command == "delete" && a.delete(), a.command == "exec" && a.exec(sp, argc):
			leave(0)
		}
	}
	n := 2 + argc
	for word(sp, n) != 0 {
		n++
	}
	for n++; word(sp, n) != 0; n += 2 { // AT_NULL
	}
	return n + 2
}

// vectors copies the vectors from old to new with two more variables: one processor is enough for a program that is
// mostly in the kernel, and saves threads; none of its heaps is worth a collection.
//
//go:norace
//go:nocheckptr
func vectors(old, new *uintptr) {
	n, to := 2+int(*old), 0
	for i := range n {
		set(new, to, word(old, i))
		to++
	}
	one, two := variables()
	set(new, to, one)
	set(new, to+1, two)
	to += 2
	for ; word(old, n) != 0; n++ {
		set(new, to, word(old, n))
		to++
	}
	set(new, to, 0)
	to++
	for n++; ; n += 2 {
		set(new, to, word(old, n))
		set(new, to+1, word(old, n+1))
		to += 2
		if word(old, n) == 0 {
			return
		}
	}
}

func word(p *uintptr, i int) uintptr {
	return *(*uintptr)(unsafe.Add(unsafe.Pointer(p), 8*i))
}

func set(p *uintptr, i int, v uintptr) {
	*(*uintptr)(unsafe.Add(unsafe.Pointer(p), 8*i)) = v
}

// arg is the i-th argument, where the kernel put it.
//
//go:nocheckptr
func arg(sp *uintptr, i int) string {
	p := *(**byte)(unsafe.Add(unsafe.Pointer(sp), 8*(1+i)))
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return unsafe.String(p, n)
}

// variable is true when the environment has one that begins so.
func variable(sp *uintptr, argc int, prefix string) bool {
	for i := 2 + argc; word(sp, i) != 0; i++ {
		if s := arg(sp, i-1); len(s) >= len(prefix) && s[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

// call is a system call; a negative result is an error number.
func call(nr, a, b, c uintptr) int { return int(syscall6(nr, a, b, c, 0, 0, 0)) }

// name is a path under construction.
type name struct {
	size int
	text [1024]byte
}

// add appends s; false when there is no room for it and a final NUL.
func (n *name) add(s string) bool {
	if len(s) >= len(n.text)-n.size {
		return false
	}
	copy(n.text[n.size:], s)
	n.size += len(s)
	n.text[n.size] = 0
	return true
}

func (n *name) number(v int) bool {
	var digits [20]byte
	i := len(digits)
	for {
		i--
		digits[i] = byte('0' + v%10)
		if v /= 10; v == 0 {
			break
		}
	}
	return n.add(unsafe.String(&digits[i], len(digits)-i))
}

func (n *name) cut(size int) {
	n.size = size
	n.text[size] = 0
}

func (n *name) ptr() uintptr { return uintptr(unsafe.Pointer(&n.text[0])) }

// open opens the name relative to the directory at.
func (n *name) open(at int, flags uintptr) int {
	return int(syscall6(sysOpenat, uintptr(at), n.ptr(), flags|oCloexec, 0, 0, 0))
}

// file is the content of a small file.
type file struct {
	size int
	text [16384]byte
}

// read reads a whole file; false when it can't be read or is too large.
func (f *file) read(at int, n *name) bool {
	fd := n.open(at, 0)
	if fd < 0 {
		return false
	}
	f.size = 0
	for {
		got := call(sysRead, uintptr(fd), uintptr(unsafe.Pointer(&f.text))+uintptr(f.size), uintptr(len(f.text)-f.size))
		if got == -eintr {
			continue
		}
		if got > 0 {
			f.size += got
		}
		if got <= 0 || f.size == len(f.text) {
			call(sysClose, uintptr(fd), 0, 0)
			return got == 0 && f.size < len(f.text)
		}
	}
}

func (f *file) string() string { return unsafe.String(&f.text[0], f.size) }
