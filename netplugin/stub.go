// Package netplugin is a stub.
package netplugin

import "context"

type Options struct {
	ConfDir    string
	BinDirs    []string
	CacheDir   string
	Builtin    bool
	BuiltinBin string
}
type Manager struct{}

func New(Options) (*Manager, error)             { return &Manager{}, nil }
func (m *Manager) Status(context.Context) error { return nil }
func (m *Manager) Config() string               { return "" }
