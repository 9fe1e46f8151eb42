package launch_test

import (
	"encoding/json"
	"errors"
	"fmt"
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

// What becomes of a field. None is just passed over: what is of another system or has lost its meaning is a warning, or
// nothing to be done at all, and the row says so.
const (
	honoured = "yes"
	refused  = "refused"   // an error that names the field
	moot     = "no effect" // nothing is left that it could do; a warning where somebody might expect it
)

// page has the table of what becomes of each field of config.json (runtime specification 1.3, Linux). Lists of objects
// count by the objects' fields.
const page = "../../docs/berth-oci.md"

// row is one of its rows.
type row struct {
	names   string // as in config.json; names after the first are siblings of it: "process.user.uid, gid"
	support string
	tests   string // those that show it
}

// paths are the full names of the fields of a row.
func (r *row) paths() []string {
	names := strings.Split(r.names, ", ")
	prefix := names[0][:strings.LastIndexByte(names[0], '.')+1]
	for i := range names[1:] {
		names[i+1] = prefix + names[i+1]
	}
	return names
}

// table reads the page: its rows, and the line of totals above them.
func table(t *testing.T) (rows []row, totals string) {
	t.Helper()
	b, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, begins := strings.Cut(string(b), "<!-- fields: begin -->\n")
	text, _, ends := strings.Cut(rest, "<!-- fields: end -->")
	totals, text, headed := strings.Cut(text, "\n\n| field | supported | notes | tests |\n|---|---|---|---|\n")
	if !begins || !ends || !headed {
		t.Fatalf("%s has no table between its marks", page)
	}
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 4 || !strings.HasPrefix(cells[0], "| `") || !strings.HasSuffix(cells[0], "`") || !strings.HasSuffix(cells[3], " |") {
			t.Fatalf("%s: no row: %s", page, line)
		}
		r := row{strings.Trim(cells[0], "| `"), cells[1], strings.TrimSuffix(cells[3], " |")}
		if !slices.Contains([]string{honoured, refused, moot}, r.support) {
			t.Errorf("%s: %q is none of the ways", r.names, r.support)
		}
		rows = append(rows, r)
	}
	return rows, totals
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
	fieldRows, said := table(t)
	rows, total := map[string]int{}, map[string]int{}
	for _, f := range fieldRows {
		for _, name := range f.paths() {
			rows[name]++
		}
		total[f.support] += len(f.paths())
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
	if want := fmt.Sprintf("%d fields honoured, %d refused, %d without effect.", total[honoured], total[refused], total[moot]); said != want {
		t.Errorf("%s says %q, its rows %q", page, said, want)
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
	rows, _ := table(t)
	for _, f := range rows {
		if f.tests == "" {
			t.Errorf("%s: no test", f.names)
		}
		for _, name := range strings.Split(f.tests, ", ") {
			if !tests[name] || !strings.HasPrefix(name, "Test") {
				t.Errorf("%s: %q is no test", f.names, name)
			}
		}
	}
}

// Rows that say "refused" are refused, with an error that names the field.
func TestRefusedRows(t *testing.T) {
	t.Parallel()
	examples := map[string]string{
		"process.commandLine": `"process":{"args":["x"],"cwd":"/","commandLine":"x"}`, "solaris": `"solaris":{}`, "windows": `"windows":{"layerFolders":[]}`,
		"vm": `"vm":{"kernel":{"path":"/x"}}`, "zos": `"zos":{}`, "freebsd": `"freebsd":{}`,
		"linux.personality.flags": `"linux":{"personality":{"domain":"LINUX","flags":["X"]}}`,
	}
	rows, _ := table(t)
	for _, f := range rows {
		if f.support != refused {
			continue
		}
		for _, name := range f.paths() {
			text, ok := examples[name]
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
