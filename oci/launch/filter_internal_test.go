package launch

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
)

func profile(name string) []byte {
	return []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["` + name + `"],"action":"SCMP_ACT_ERRNO"}]}`)
}

// The cache is by content: one file a profile, shared by whoever asks, and made again when it is not what was written.
func TestFilterCache(t *testing.T) {
	t.Parallel()
	r := &Runtime{Root: t.TempDir()}
	get := func(name string) filter {
		t.Helper()
		f, err := r.filter(profile(name))
		if err != nil || f.code == nil || f.cache == "" {
			t.Fatalf("%+v %v", f, err)
		}
		return f
	}
	first, other := get("mount"), get("umount2")
	if first.cache == other.cache || bytes.Equal(first.code, other.code) {
		t.Error("two profiles, one filter")
	}
	whole, err := os.ReadFile(first.cache)
	if err != nil {
		t.Fatal(err)
	}
	if again := get("mount"); again.cache != first.cache || !bytes.Equal(again.code, first.code) {
		t.Error("one profile, two filters")
	}
	for i := range whole { // every byte counts, and every length
		bad := bytes.Clone(whole)
		bad[i] ^= 0x40
		os.WriteFile(first.cache, bad, 0o600)
		if code := readCode(first.cache); code != nil {
			t.Fatalf("byte %d of %d changed: taken", i, len(whole))
		}
		os.WriteFile(first.cache, whole[:i], 0o600)
		if readCode(first.cache) != nil || readCache(first.cache, profile("mount")) != nil {
			t.Fatalf("%d of %d bytes: taken", i, len(whole))
		}
	}
	if again := get("mount"); !bytes.Equal(again.code, first.code) {
		t.Error("not made again")
	}
	// what another profile has noted is not overwritten
	if writeCache(first.cache, profile("chroot"), other.code) || !bytes.Equal(readCode(first.cache), first.code) {
		t.Error("a file changed its profile")
	}
	os.Chmod(first.cache, 0o666)
	if readCode(first.cache) != nil {
		t.Error("a file that others may write was taken")
	}
}

// However many profiles there are and creates at once, the cache stays small and right.
func TestFilterCacheBound(t *testing.T) {
	t.Parallel()
	r := &Runtime{Root: t.TempDir()}
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Add(1)
		// ends after its share
		go func() {
			defer wg.Done()
			for n := range 100 {
				raw := []byte(strings.Replace(string(profile("mount")), "}]}", fmt.Sprintf(`,"errnoRet":%d}]}`, n+i*50), 1))
				f, err := r.filter(raw)
				if err != nil || len(f.code) == 0 {
					t.Errorf("%d: %v", n, err)
				}
				if have, code := cached(r.cacheName(raw)); code != nil && (!bytes.Equal(have, raw) || !bytes.Equal(code, f.code)) {
					t.Errorf("%d: another's filter", n)
				}
			}
		}()
	}
	wg.Wait()
	entries, err := os.ReadDir(r.Root + "/.seccomp")
	if err != nil || len(entries) > maxFilters+4 {
		t.Errorf("%d files, %v", len(entries), err)
	}
}
