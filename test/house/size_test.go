package house

import (
	"fmt"
	"go/ast"
	"go/token"
	"path"
	"strings"
	"testing"
)

// The limits. hack/STYLE.md says where they come from.
const (
	maxFunctionLines = 60
	maxComplexity    = 15
	maxParameters    = 5
	maxFileLines     = 500
	maxFiles         = 15
	maxMethods       = 25
	maxFields        = 20
	maxInterface     = 5
)

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func receiver(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return ""
	}
	e := d.Recv.List[0].Type
	for {
		switch x := e.(type) {
		case *ast.StarExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		case *ast.Ident:
			return x.Name
		default:
			return ""
		}
	}
}

func funcName(d *ast.FuncDecl) string {
	if r := receiver(d); r != "" {
		return r + "." + d.Name.Name
	}
	return d.Name.Name
}

func functions(t *testing.T) {
	for _, p := range product(t) {
		for _, f := range p.code() {
			for _, d := range f.ast.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Body != nil && !f.generated() {
					function(t, p, f, d)
				}
			}
		}
	}
}

func function(t *testing.T, p *pkg, f *file, d *ast.FuncDecl) {
	subject := p.dir + "." + funcName(d)
	lines := fset.Position(d.Body.Rbrace).Line - fset.Position(d.Pos()).Line + 1
	if lines > maxFunctionLines {
		offend(t, "length", subject, f.at(d.Pos()), fmt.Sprintf("%d lines, limit %d", lines, maxFunctionLines))
	}
	if c := complexity(d); c > maxComplexity {
		offend(t, "complexity", subject, f.at(d.Pos()), fmt.Sprintf("cyclomatic complexity %d, limit %d", c, maxComplexity))
	}
	if n := count(d.Type.Params); n > maxParameters {
		offend(t, "parameters", subject, f.at(d.Pos()), fmt.Sprintf("%d parameters, limit %d", n, maxParameters))
	}
}

// complexity counts branches as gocyclo does. Function literals count towards the function they stand in.
func complexity(d *ast.FuncDecl) int {
	n := 1
	ast.Inspect(d.Body, func(x ast.Node) bool {
		switch x := x.(type) {
		case *ast.IfStmt, *ast.ForStmt, *ast.RangeStmt:
			n++
		case *ast.CaseClause:
			if x.List != nil {
				n++
			}
		case *ast.CommClause:
			if x.Comm != nil {
				n++
			}
		case *ast.BinaryExpr:
			if x.Op == token.LAND || x.Op == token.LOR {
				n++
			}
		}
		return true
	})
	return n
}

// count counts names: "a, b int" is two.
func count(l *ast.FieldList) int {
	n := 0
	if l != nil {
		for _, f := range l.List {
			n += max(1, len(f.Names))
		}
	}
	return n
}

func files(t *testing.T) {
	ps, err := all()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		if n := len(p.code()); n > maxFiles {
			offend(t, "files", p.dir, p.dir, fmt.Sprintf("%d files, limit %d", n, maxFiles))
		}
		for _, f := range p.files {
			if f.lines > maxFileLines && !f.generated() {
				offend(t, "lines", f.path, f.path, fmt.Sprintf("%d lines, limit %d", f.lines, maxFileLines))
			}
		}
	}
}

func types(t *testing.T) {
	for _, p := range product(t) {
		methods := map[string]int{}
		for _, f := range p.code() {
			for _, d := range f.ast.Decls {
				if d, ok := d.(*ast.FuncDecl); ok && d.Recv != nil {
					methods[receiver(d)]++
				}
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				if s, ok := n.(*ast.TypeSpec); ok {
					typeSize(t, p, f, s)
				}
				return true
			})
		}
		for name, n := range methods {
			// The server of a gRPC service has as many methods as the service has calls.
			if n > maxMethods && !(p.dir == "cri" && rpcServer(p, name)) {
				offend(t, "methods", p.dir+"."+name, p.dir, fmt.Sprintf("type %s has %d methods, limit %d", name, n, maxMethods))
			}
		}
	}
}

// rpcServer tells whether the struct embeds a generated Unimplemented...Server.
func rpcServer(p *pkg, name string) (found bool) {
	for _, f := range p.code() {
		ast.Inspect(f.ast, func(n ast.Node) bool {
			s, ok := n.(*ast.TypeSpec)
			if !ok || s.Name.Name != name {
				return true
			}
			if st, ok := s.Type.(*ast.StructType); ok {
				for _, fl := range st.Fields.List {
					sel, ok := fl.Type.(*ast.SelectorExpr)
					found = found || len(fl.Names) == 0 && ok && strings.HasPrefix(sel.Sel.Name, "Unimplemented")
				}
			}
			return true
		})
	}
	return found
}

func typeSize(t *testing.T, p *pkg, f *file, s *ast.TypeSpec) {
	subject := p.dir + "." + s.Name.Name
	switch x := s.Type.(type) {
	case *ast.StructType:
		if n := count(x.Fields); n > maxFields {
			offend(t, "fields", subject, f.at(s.Pos()), fmt.Sprintf("%d fields, limit %d", n, maxFields))
		}
	case *ast.InterfaceType:
		if n := count(x.Methods); n > maxInterface {
			offend(t, "interface", subject, f.at(s.Pos()), fmt.Sprintf("%d methods, limit %d", n, maxInterface))
		}
	}
}

// unsafeFiles: unsafe and linkname live where they are looked for.
func unsafeFiles(t *testing.T) {
	for _, p := range product(t) {
		for _, f := range p.files {
			base := path.Base(f.path)
			if strings.HasSuffix(base, "_unsafe_linux.go") || base == "spawn_linux.go" || strings.HasSuffix(base, "_spawn_linux.go") {
				continue
			}
			for _, im := range f.ast.Imports {
				if im.Path.Value == `"unsafe"` {
					offend(t, "unsafe", f.path, f.at(im.Pos()), "unsafe only in *_unsafe_linux.go and spawn_linux.go")
				}
			}
			for _, g := range f.ast.Comments {
				for _, c := range g.List {
					if strings.HasPrefix(c.Text, "//go:linkname") {
						offend(t, "unsafe", f.path, f.at(c.Pos()), "linkname only in *_unsafe_linux.go and spawn_linux.go")
					}
				}
			}
		}
	}
}
