package house

import (
	"go/ast"
	"strings"
	"testing"
)

// docs: a package comment is the chapter a newcomer reads first, so one sentence won't do. Programs may be brief.
func docs(t *testing.T) {
	for _, p := range product(t) {
		if len(p.code()) == 0 {
			continue
		}
		longest := 0
		for _, f := range p.code() {
			if f.ast.Doc != nil {
				longest = max(longest, len(strings.Split(strings.TrimSpace(f.ast.Doc.Text()), "\n")))
			}
		}
		want := 5
		if p.name == "main" {
			want = 1
		}
		if longest < want {
			offend(t, "docs", p.dir, p.dir, "package comment of "+plural(longest, "line")+", want at least "+plural(want, "line"))
		}
		for _, f := range p.code() {
			exportedDocs(t, f)
		}
	}
}

// exportedDocs: exported functions and types say what they are.
func exportedDocs(t *testing.T, f *file) {
	if f.ast.Name.Name == "main" || f.generated() {
		return
	}
	for _, d := range f.ast.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Name.IsExported() && d.Doc == nil && exportedReceiver(d) && !wellKnown(d.Name.Name) {
				offend(t, "docs", f.ast.Name.Name+"."+funcName(d), f.at(d.Pos()), "exported and without a comment")
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if s, ok := s.(*ast.TypeSpec); ok && s.Name.IsExported() && d.Doc == nil && s.Doc == nil {
					offend(t, "docs", f.ast.Name.Name+"."+s.Name.Name, f.at(s.Pos()), "exported and without a comment")
				}
			}
		}
	}
}

// wellKnown methods mean what the standard library says.
func wellKnown(name string) bool {
	switch name {
	case "Error", "Unwrap", "Is", "As", "String", "Read", "Write", "Close", "ServeHTTP", "Len", "Less", "Swap", "MarshalJSON", "UnmarshalJSON":
		return true
	}
	return false
}

func exportedReceiver(d *ast.FuncDecl) bool {
	return d.Recv == nil || ast.IsExported(receiver(d))
}

// goroutines: each go statement has a comment that says what ends it, on the line above.
func goroutines(t *testing.T) {
	for _, p := range product(t) {
		if within(p.dir, "test") || within(p.dir, "hack") {
			continue
		}
		for _, f := range p.code() {
			said := map[int]bool{}
			for _, g := range f.ast.Comments {
				for _, c := range g.List {
					if strings.HasPrefix(strings.TrimSpace(strings.TrimPrefix(c.Text, "//")), "ends ") {
						said[fset.Position(g.End()).Line] = true
					}
				}
			}
			ast.Inspect(f.ast, func(n ast.Node) bool {
				if g, ok := n.(*ast.GoStmt); ok && !said[fset.Position(g.Pos()).Line-1] {
					offend(t, "goroutines", f.path, f.at(g.Pos()), `a go statement without a comment "ends when ..." (or with, at, within) above it`)
				}
				return true
			})
		}
	}
}
