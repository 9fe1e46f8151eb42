package house

import (
	"go/ast"
	"go/token"
	"testing"
)

// globals: no init functions, no package variables that change. A variable is taken for a constant when it has a value
// from the start and nothing in its package assigns to it, to a part of it, or takes its address.
func globals(t *testing.T) {
	for _, p := range product(t) {
		if within(p.dir, "test") {
			continue
		}
		written := map[string]bool{}
		for _, f := range p.code() {
			ast.Inspect(f.ast, func(n ast.Node) bool {
				for _, e := range targets(n) {
					if id := root(e); id != nil && packageLevel(id) {
						written[id.Name] = true
					}
				}
				return true
			})
		}
		for _, f := range p.code() {
			for _, d := range f.ast.Decls {
				switch d := d.(type) {
				case *ast.FuncDecl:
					if d.Recv == nil && d.Name.Name == "init" {
						offend(t, "globals", p.dir+".init", f.at(d.Pos()), "an init function: do it where things are wired, in main")
					}
				case *ast.GenDecl:
					if d.Tok == token.VAR {
						variables(t, p, f, d, written)
					}
				}
			}
		}
	}
}

// targets returns the expressions that a node writes to.
func targets(n ast.Node) []ast.Expr {
	switch n := n.(type) {
	case *ast.AssignStmt:
		if n.Tok != token.DEFINE {
			return n.Lhs
		}
	case *ast.IncDecStmt:
		return []ast.Expr{n.X}
	case *ast.UnaryExpr:
		// The address of an element is how a table's row is read without a copy.
		if _, row := n.X.(*ast.IndexExpr); n.Op == token.AND && !row {
			return []ast.Expr{n.X}
		}
	case *ast.CallExpr:
		if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "delete" || id.Name == "clear") && len(n.Args) > 0 {
			return n.Args[:1]
		}
	}
	return nil
}

func root(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.IndexExpr:
			e = x.X
		case *ast.SelectorExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.Ident:
			return x
		default:
			return nil
		}
	}
}

// packageLevel is true unless the name was declared inside a function of the same file.
func packageLevel(id *ast.Ident) bool {
	if id.Obj == nil {
		return true
	}
	spec, ok := id.Obj.Decl.(*ast.ValueSpec)
	return ok && fset.Position(spec.Pos()).Column <= 5 && id.Obj.Kind == ast.Var
}

func variables(t *testing.T, p *pkg, f *file, d *ast.GenDecl, written map[string]bool) {
	for _, s := range d.Specs {
		s := s.(*ast.ValueSpec)
		for i, name := range s.Names {
			subject, where := p.dir+"."+name.Name, f.at(name.Pos())
			switch {
			case name.Name == "_" || embedded(d, s):
			case p.name == "main" && name.Name == "version": // set by the linker
			case len(s.Values) <= i && len(s.Values) != 1:
				offend(t, "globals", subject, where, "a package variable without a value can only be there to change")
			case written[name.Name]:
				offend(t, "globals", subject, where, "a package variable that changes")
			case len(s.Values) > i && stateful(s.Values[i]):
				offend(t, "globals", subject, where, "a package variable that holds state")
			case sentinel(s, i):
			case d.Doc == nil && s.Doc == nil && s.Comment == nil:
				offend(t, "globals", subject, where, "a package variable without a comment that says why it is not a constant")
			}
		}
	}
}

func embedded(d *ast.GenDecl, s *ast.ValueSpec) bool {
	for _, g := range []*ast.CommentGroup{d.Doc, s.Doc} {
		if g != nil {
			for _, c := range g.List {
				if len(c.Text) > 10 && c.Text[:10] == "//go:embed" {
					return true
				}
			}
		}
	}
	return false
}

// sentinel errors are constants that the language has no word for.
func sentinel(s *ast.ValueSpec, i int) bool {
	if len(s.Values) <= i {
		return false
	}
	call, ok := s.Values[i].(*ast.CallExpr)
	if !ok {
		return false
	}
	sel, ok := call.Fun.(*ast.SelectorExpr)
	return ok && (sel.Sel.Name == "New" || sel.Sel.Name == "Errorf")
}

// stateful values change without being assigned to.
func stateful(e ast.Expr) bool {
	switch x := e.(type) {
	case *ast.CompositeLit:
		if sel, ok := x.Type.(*ast.SelectorExpr); ok {
			id, ok := sel.X.(*ast.Ident)
			return ok && (id.Name == "sync" || id.Name == "atomic")
		}
	case *ast.CallExpr:
		id, ok := x.Fun.(*ast.Ident)
		return ok && (id.Name == "make" || id.Name == "new")
	case *ast.UnaryExpr:
		return x.Op == token.AND
	}
	return false
}
