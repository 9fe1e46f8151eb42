package launch_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/launch/plan"
)

func marshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func jsonName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
	return name
}

// leaves walks a type of specs-go and calls with the path of each field that holds no others.
func leaves(kind reflect.Type, path string, call func(string)) {
	switch kind.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		leaves(kind.Elem(), path, call)
		return
	case reflect.Struct:
	default:
		call(path)
		return
	}
	for i := range kind.NumField() {
		f := kind.Field(i)
		name := strings.TrimPrefix(path+"."+jsonName(f), ".")
		switch {
		case f.Anonymous && jsonName(f) == "":
			leaves(f.Type, path, call)
		case path == "" && slices.Contains([]string{"solaris", "windows", "vm", "zos", "freebsd"}, name):
			call(name)
		default:
			leaves(f.Type, name, call)
		}
	}
}

// Every field of the specification, as its Go types have them, has exactly one row in the table, and every row is a field.
func TestEveryFieldHasARow(t *testing.T) {
	t.Parallel()
	rows := map[string]int{}
	for _, f := range plan.Fields {
		for _, name := range f.Paths() {
			rows[name]++
		}
	}
	fields := 0
	leaves(reflect.TypeFor[specs.Spec](), "", func(name string) {
		fields++
		if rows[name] != 1 {
			t.Errorf("%s has %d rows", name, rows[name])
		}
		delete(rows, name)
	})
	for name := range rows {
		t.Errorf("%s is no field", name)
	}
	total := map[plan.Support]int{}
	for _, f := range plan.Fields {
		total[f.Support] += len(f.Paths())
	}
	t.Logf("%d fields: %v", fields, total)
}

// Every row names tests that exist.
func TestRowsNameTests(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{}
	err := filepath.WalkDir("..", func(name string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(name, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			return err
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				tests[f.Name.Name] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range plan.Fields {
		if f.Tests == "" {
			t.Errorf("%s: no test", f.Names)
		}
		for _, name := range strings.Split(f.Tests, ", ") {
			if !tests[name] || !strings.HasPrefix(name, "Test") {
				t.Errorf("%s: %q is no test", f.Names, name)
			}
		}
	}
}

// The page for people holds the table as the code has it.
func TestFieldsPage(t *testing.T) {
	t.Parallel()
	const begin, end = "<!-- fields: begin -->\n", "<!-- fields: end -->"
	const name = "../../docs/berth-oci.md"
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(b), begin)
	_, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between its marks", name)
	}
	want := head + begin + plan.Table() + end + tail
	if os.Getenv("UPDATE") != "" {
		os.WriteFile(name, []byte(want), 0o644)
	} else if want != string(b) {
		t.Errorf("%s differs from the table in package plan; run with UPDATE=1", name)
	}
}

// Rows that say "refused" are refused, with an error that names the field.
func TestRefusedRows(t *testing.T) {
	t.Parallel()
	refused := map[string]string{
		"process.commandLine": `"process":{"args":["x"],"cwd":"/","commandLine":"x"}`, "solaris": `"solaris":{}`, "windows": `"windows":{"layerFolders":[]}`,
		"vm": `"vm":{"kernel":{"path":"/x"}}`, "zos": `"zos":{}`, "freebsd": `"freebsd":{}`,
		"linux.personality.flags": `"linux":{"personality":{"domain":"LINUX","flags":["X"]}}`,
	}
	for _, f := range plan.Fields {
		if f.Support != plan.Refused {
			continue
		}
		for _, name := range f.Paths() {
			text, ok := refused[name]
			if !ok {
				t.Errorf("%s: no example", name)
				continue
			}
			process := `"process":{"args":["x"],"cwd":"/"},`
			if strings.HasPrefix(text, `"process"`) {
				process = ""
			}
			c, err := plan.Parse([]byte(`{"ociVersion":"1.3.0","root":{"path":"r"},` + process + text + `}`))
			if err == nil {
				var spaces *plan.Spaces
				if spaces, err = c.Spaces(); err == nil {
					_, err = c.Container(plan.Host{}, spaces)
				}
			}
			if err == nil || !strings.Contains(err.Error(), name) || !errors.Is(err, errors.ErrUnsupported) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
