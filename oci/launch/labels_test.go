package launch

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestProfileLoaded(t *testing.T) {
	list := filepath.Join(t.TempDir(), "profiles")
	text := "berth-default (enforce)\n/usr/bin/man (complain)\ntwo words (kill)\nberth (old (enforce)\n"
	if err := os.WriteFile(list, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "unconfined", "berth-default", "/usr/bin/man", "two words", "berth (old"} {
		if err := profileLoaded(list, name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"berth", "berth-default (enforce)", "default", "two", "man"} {
		if err := profileLoaded(list, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if err := profileLoaded(list+".missing", "x"); err != nil {
		t.Errorf("without a list: %v", err)
	}
}
