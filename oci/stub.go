// Package oci is a stub.
package oci

type Handler struct {
	Name, Path, Root      string
	Native, SystemdCgroup bool
	Args                  []string
}
