// Package image is a stub.
package image

import (
	"context"
	"errors"
	"time"
)

var ErrRegistryUnavailable = errors.New("registry unavailable")

type Options struct {
	Root        string
	RegistryDir string
	Unpack      []string
}
type Store struct{}
type Auth struct{ Username, Password, Auth, ServerAddress, IdentityToken, RegistryToken string }
type PullRequest struct {
	Ref  string
	Auth Auth
}
type Config struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	StopSignal string
	Volumes    []string
	Labels     map[string]string
}
type Image struct {
	ID                    string
	RepoTags, RepoDigests []string
	Size                  uint64
	Pinned                bool
	Layers                []string
	Config                Config
	ConfigJSON            []byte
}
type Usage struct {
	Bytes, Inodes uint64
	Mountpoint    string
	Timestamp     time.Time
}

func Open(context.Context, Options) (*Store, error)               { return &Store{}, nil }
func (s *Store) Pull(context.Context, PullRequest) (Image, error) { return Image{}, nil }
func (s *Store) Resolve(string) (Image, error)                    { return Image{}, nil }
func (s *Store) List() []Image                                    { return nil }
func (s *Store) Remove(context.Context, string) error             { return nil }
func (s *Store) Usage() (Usage, error)                            { return Usage{}, nil }
