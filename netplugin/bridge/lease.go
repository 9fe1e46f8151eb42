package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// remembered is how many returned addresses are kept in order; further ones come in the order of the range.
	remembered = 256
	turnFile   = "turn"
	lockFile   = "lock"
	newFile    = "new"
)

// lease is what an attachment holds.
type lease struct {
	Index uint32        `json:"-"`
	Key   string        `json:"-"`    // container and interface
	Host  string        `json:"host"` // host end of the veth pair
	Boot  string        `json:"boot"`
	Ports []portMapping `json:"ports,omitempty"`
}

// leases is the directory of leases of one network, locked.
type leases struct {
	dir  string
	lock *os.File
}

// openLeases opens the directory, making it when missing, and waits for the lock.
func openLeases(c *conf) (*leases, error) {
	l := &leases{dir: filepath.Join(c.StateDir, c.Name)}
	f, err := os.OpenFile(filepath.Join(l.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(l.dir, 0o700); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(filepath.Join(l.dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	}
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", l.dir, err)
	}
	l.lock = f
	return l, nil
}

// close lets the lock go.
func (l *leases) close() { l.lock.Close() }

// leaseKey is the part of a lease's file name that names the attachment.
func leaseKey(container, ifname string) string {
	key := container + "@" + ifname
	if len(key) > 200 {
		sum := sha256.Sum256([]byte(key))
		key = hex.EncodeToString(sum[:])
	}
	return key
}

// list reads the names of all leases: indexes by key.
func (l *leases) list() (map[string]uint32, error) {
	d, err := os.Open(l.dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	out := make(map[string]uint32, len(names))
	for _, name := range names {
		if index, key, ok := strings.Cut(name, "@"); ok {
			if n, err := strconv.ParseUint(index, 10, 32); err == nil {
				out[key] = uint32(n)
			}
		}
	}
	return out, nil
}

// take makes the lease of key with the address whose turn it is. There must be none yet.
func (l *leases) take(c *conf, all map[string]uint32, want lease) (lease, error) {
	used := make(map[uint32]bool, len(all))
	for _, index := range all {
		used[index] = true
	}
	t := l.readTurn()
	var err error
	if want.Index, err = t.take(c.lastIndex(), used); err != nil {
		return lease{}, fmt.Errorf("%w in %s", err, c.addrs(0)[0].Masked())
	}
	// The turn first: if we die in between, an address is passed over, not given twice.
	if err := l.writeTurn(t); err != nil {
		return lease{}, err
	}
	b, err := json.Marshal(want)
	if err != nil {
		return lease{}, err
	}
	return want, l.replace(l.name(want), b)
}

// read reads the lease of key with its known index. One that does not parse still has its name.
func (l *leases) read(key string, index uint32) lease {
	out := lease{Index: index, Key: key}
	if b, err := os.ReadFile(filepath.Join(l.dir, l.name(out))); err == nil {
		if json.Unmarshal(b, &out) != nil {
			return lease{Index: index, Key: key}
		}
	}
	return out
}

// release puts the lease's address at the end of the queue and removes the lease.
func (l *leases) release(le lease) error {
	t := l.readTurn()
	t.giveBack(le.Index)
	if err := l.writeTurn(t); err != nil {
		return err
	}
	err := os.Remove(filepath.Join(l.dir, l.name(le)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (l *leases) name(le lease) string {
	return strconv.FormatUint(uint64(le.Index), 10) + "@" + le.Key
}

// replace gives a file its content in one step. There is one writer at a time, hence one name for what is half done.
func (l *leases) replace(name string, b []byte) error {
	tmp := filepath.Join(l.dir, newFile)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(l.dir, name))
}

// turn says which address is next.
type turn struct {
	next  uint32
	freed []uint32 // returned addresses, the longest returned first
}

var errFull = errors.New("no addresses left")

// take returns the next address of the range that is neither used nor lately returned, else the one longest returned.
func (t *turn) take(last uint32, used map[uint32]bool) (uint32, error) {
	lately := make(map[uint32]bool, len(t.freed))
	for _, i := range t.freed {
		lately[i] = true
	}
	index := max(t.next, firstIndex)
	for range last - firstIndex + 1 {
		if index > last {
			index = firstIndex
		}
		if !used[index] && !lately[index] {
			t.next = index + 1
			return index, nil
		}
		index++
	}
	for i, index := range t.freed {
		if !used[index] && index >= firstIndex && index <= last {
			t.freed = slices.Delete(t.freed, i, i+1)
			return index, nil
		}
	}
	return 0, errFull
}

func (t *turn) giveBack(index uint32) {
	t.freed = slices.DeleteFunc(t.freed, func(i uint32) bool { return i == index })
	t.freed = append(t.freed, index)
	if n := len(t.freed) - remembered; n > 0 {
		t.freed = slices.Delete(t.freed, 0, n)
	}
}

// readTurn reads the file of decimal numbers; a missing or damaged one costs the order only.
func (l *leases) readTurn() *turn {
	t := &turn{}
	b, err := os.ReadFile(filepath.Join(l.dir, turnFile))
	if err != nil {
		return t
	}
	for i, f := range strings.Fields(string(b)) {
		n, err := strconv.ParseUint(f, 10, 32)
		if err != nil {
			return &turn{}
		}
		if i == 0 {
			t.next = uint32(n)
		} else {
			t.freed = append(t.freed, uint32(n))
		}
	}
	return t
}

func (l *leases) writeTurn(t *turn) error {
	b := strconv.AppendUint(nil, uint64(t.next), 10)
	for _, i := range t.freed {
		b = append(b, ' ')
		b = strconv.AppendUint(b, uint64(i), 10)
	}
	return l.replace(turnFile, b)
}
