package cri

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/berth-runtime/berth/cri/stream"
	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/sandbox"
)

// maxText bounds an error's text: it travels in an HTTP/2 header.
const maxText = 4 << 10

// registryUnavailable begins the message that kubelet turns into the reason of the same name; it looks at the message
// only when the code is Unknown (k8s.io/kubernetes pkg/kubelet/images).
const registryUnavailable = "RegistryUnavailable"

// imageVolume begins the message of a CreateContainer that failed for an image volume; kubelet counts those.
const imageVolume = "ImageVolumeMountFailed"

// answer turns an error into the status the client gets. The context is the request's: an error of no class that
// comes after its end is counted as caused by it.
func answer(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if s, ok := status.FromError(err); ok {
		return s.Err()
	}
	code := codeOf(err)
	if code == codes.Unknown && ctx.Err() != nil {
		code = codeOf(ctx.Err())
	}
	text := err.Error()
	if is(err, image.ErrRegistryUnavailable) && code == codes.Unknown && !strings.HasPrefix(text, registryUnavailable) {
		text = registryUnavailable + ": " + text
	}
	if is(err, sandbox.ErrImageVolume) {
		text = imageVolume + ": " + text
	}
	if len(text) > maxText {
		text = text[:maxText] + "…"
	}
	return status.Error(code, strings.ToValidUTF8(text, "\uFFFD"))
}

// codeOf is the one place where errors get their gRPC code.
func codeOf(err error) codes.Code {
	switch {
	case is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	case is(err, context.Canceled):
		return codes.Canceled
	case is(err, fs.ErrInvalid):
		return codes.InvalidArgument
	case is(err, sandbox.ErrNotRunning), is(err, sandbox.ErrNotReady), is(err, sandbox.ErrNotCreated), is(err, netplugin.ErrNotReady):
		return codes.FailedPrecondition
	case is(err, fs.ErrNotExist):
		return codes.NotFound
	case is(err, fs.ErrExist):
		return codes.AlreadyExists
	case is(err, errors.ErrUnsupported):
		return codes.Unimplemented
	case is(err, stream.ErrBusy), exhausted(err):
		return codes.ResourceExhausted
	}
	return codes.Unknown
}

// is reports whether class itself is among the errors err wraps. errors.Is would also take a system call's ENOENT for
// fs.ErrNotExist, and kubelet takes NotFound for "this container is gone", not for "a file was missing".
func is(err, class error) bool {
	if err == class {
		return true
	}
	switch x := err.(type) {
	case interface{ Unwrap() error }:
		return is(x.Unwrap(), class)
	case interface{ Unwrap() []error }:
		for _, e := range x.Unwrap() {
			if is(e, class) {
				return true
			}
		}
	}
	return false
}

// exhausted reports whether the host has run out of something.
func exhausted(err error) bool {
	var errno syscall.Errno
	if !errors.As(err, &errno) {
		return false
	}
	switch errno {
	case syscall.ENOSPC, syscall.EDQUOT, syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.EAGAIN:
		return true
	}
	return false
}
