package house

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/berth-runtime/berth"

// file is one parsed Go file; pkg one directory of them.
type file struct {
	path  string // from the top, slash-separated
	src   []byte
	ast   *ast.File
	test  bool
	lines int
}

type pkg struct {
	dir   string // "" is the top
	name  string
	files []*file
}

// nested modules: their files are subject to the rules about text, not to those about the house's structure.
func nested(p string) bool {
	for _, m := range []string{"test/tools", "test/images", "test/e2e", "test/kubelet", "test/ocitest"} {
		if p == m || strings.HasPrefix(p, m+"/") {
			return true
		}
	}
	return false
}

var top = sync.OnceValue(func() string {
	dir, err := filepath.Abs("../..")
	if err != nil {
		panic(err)
	}
	return dir
})

var fset = token.NewFileSet()

// tracked lists every file that is or would be committed.
var tracked = sync.OnceValue(func() []string {
	cmd := exec.Command("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	cmd.Dir = top()
	if out, err := cmd.Output(); err == nil {
		names := strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
		return slices.DeleteFunc(names, func(n string) bool {
			st, err := os.Lstat(filepath.Join(top(), n))
			return err != nil || !st.Mode().IsRegular()
		})
	}
	return walked()
})

// walked is for a tree without git, such as an unpacked archive.
func walked() []string {
	var out []string
	filepath.WalkDir(top(), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(top(), p)
		if d.IsDir() && (name == ".git" || name == ".cache" || name == "bin") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() {
			out = append(out, filepath.ToSlash(name))
		}
		return nil
	})
	return out
}

// all parses every Go file once.
var all = sync.OnceValues(func() ([]*pkg, error) {
	dirs := map[string]*pkg{}
	for _, name := range tracked() {
		if !strings.HasSuffix(name, ".go") || strings.Contains(name, "testdata/") {
			continue
		}
		src, err := os.ReadFile(filepath.Join(top(), name))
		if err != nil {
			return nil, err
		}
		// Objects are resolved within a file: enough to tell a local from a package variable.
		f, err := parser.ParseFile(fset, name, src, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		dir := strings.TrimPrefix(path.Dir(name), ".")
		p := dirs[dir]
		if p == nil {
			p = &pkg{dir: dir}
			dirs[dir] = p
		}
		test := strings.HasSuffix(name, "_test.go")
		if !test || p.name == "" {
			p.name = strings.TrimSuffix(f.Name.Name, "_test")
		}
		p.files = append(p.files, &file{path: name, src: src, ast: f, test: test, lines: bytes.Count(src, []byte("\n"))})
	}
	var out []*pkg
	for _, p := range dirs {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b *pkg) int { return strings.Compare(a.dir, b.dir) })
	return out, nil
})

// product are the packages of the main module; code their files that are not tests.
func product(t *testing.T) []*pkg {
	t.Helper()
	ps, err := all()
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(slices.Clone(ps), func(p *pkg) bool { return nested(p.dir) })
}

func (p *pkg) code() []*file {
	return slices.DeleteFunc(slices.Clone(p.files), func(f *file) bool { return f.test })
}

// generated files are tables: z*.go, or marked by the usual comment.
func (f *file) generated() bool {
	return strings.HasPrefix(path.Base(f.path), "z") || ast.IsGenerated(f.ast)
}

func (f *file) at(p token.Pos) string {
	pos := fset.Position(p)
	return pos.String()
}
