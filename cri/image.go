package cri

import (
	"context"
	"encoding/json"
	"io/fs"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/image"
)

// images answers for images.
type images struct{ store *image.Store }

// PullImage fetches an image, always asking the registry: a pod must not get an image its credentials do not open
// only because another pod has pulled it.
func (i images) PullImage(ctx context.Context, req *rt.PullImageRequest) (*rt.PullImageResponse, error) {
	if req.GetImage().GetImage() == "" {
		return nil, missing("image.image")
	}
	a := req.GetAuth()
	img, err := i.store.Pull(ctx, image.PullRequest{Ref: req.GetImage().GetImage(), Auth: image.Auth{
		Username: a.GetUsername(), Password: a.GetPassword(), Auth: a.GetAuth(), ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}})
	if err != nil {
		return nil, err
	}
	return &rt.PullImageResponse{ImageRef: img.ID}, nil
}

// ImageStatus answers without an image when there is none: that is how kubelet learns that it has to pull.
func (i images) ImageStatus(_ context.Context, req *rt.ImageStatusRequest) (*rt.ImageStatusResponse, error) {
	if req.GetImage().GetImage() == "" {
		return nil, missing("image.image")
	}
	img, err := i.store.Resolve(req.GetImage().GetImage())
	if is(err, fs.ErrNotExist) {
		return &rt.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &rt.ImageStatusResponse{Image: describe(img)}
	if req.GetVerbose() {
		info, err := json.Marshal(struct {
			ImageSpec json.RawMessage `json:"imageSpec"`
			Layers    []string        `json:"layers"`
		}{img.ConfigJSON, img.Layers})
		if err != nil {
			return nil, err
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// ListImages lists all images, or the one the filter names.
func (i images) ListImages(_ context.Context, req *rt.ListImagesRequest) (*rt.ListImagesResponse, error) {
	list, err := i.list(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &rt.ListImagesResponse{Images: list}, nil
}

// StreamImages is ListImages in pieces.
func (i images) StreamImages(req *rt.StreamImagesRequest, to grpc.ServerStreamingServer[rt.StreamImagesResponse]) error {
	list, err := i.list(req.GetFilter())
	if err != nil {
		return err
	}
	return chunks(list, chunkSize, func(items []*rt.Image) error {
		return to.Send(&rt.StreamImagesResponse{Images: items})
	})
}

func (i images) list(f *rt.ImageFilter) ([]*rt.Image, error) {
	if ref := f.GetImage().GetImage(); ref != "" {
		img, err := i.store.Resolve(ref)
		if is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []*rt.Image{describe(img)}, nil
	}
	all := i.store.List()
	out := make([]*rt.Image, 0, len(all))
	for _, img := range all {
		out = append(out, describe(img))
	}
	return out, nil
}

// RemoveImage removes the image with all its names. One that does not exist is removed.
func (i images) RemoveImage(ctx context.Context, req *rt.RemoveImageRequest) (*rt.RemoveImageResponse, error) {
	if req.GetImage().GetImage() == "" {
		return nil, missing("image.image")
	}
	if err := i.store.Remove(ctx, req.GetImage().GetImage()); err != nil && !is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &rt.RemoveImageResponse{}, nil
}

// ImageFsInfo tells what images use. The list of container file systems stays empty, which says that writable layers
// lie on the same file system.
func (i images) ImageFsInfo(context.Context, *rt.ImageFsInfoRequest) (*rt.ImageFsInfoResponse, error) {
	u, err := i.store.Usage()
	if err != nil {
		return nil, err
	}
	return &rt.ImageFsInfoResponse{ImageFilesystems: []*rt.FilesystemUsage{{
		Timestamp:  u.Timestamp.UnixNano(),
		FsId:       &rt.FilesystemIdentifier{Mountpoint: u.Mountpoint},
		UsedBytes:  &rt.UInt64Value{Value: u.Bytes},
		InodesUsed: &rt.UInt64Value{Value: u.Inodes},
	}}}, nil
}

// describe translates an image. A size of 0 is refused by the client library, so an empty image has 1 byte.
func describe(img image.Image) *rt.Image {
	out := &rt.Image{
		Id: img.ID, RepoTags: img.RepoTags, RepoDigests: img.RepoDigests,
		Size: max(img.Size, 1), Pinned: img.Pinned,
	}
	out.Uid, out.Username = user(img.Config.User)
	return out
}

// user takes the user out of an image's "user[:group]": a number is a uid, anything else a name, nothing is neither.
func user(s string) (*rt.Int64Value, string) {
	name, _, _ := strings.Cut(s, ":")
	if name == "" {
		return nil, ""
	}
	// ParseUint takes no sign, and 32 bits are what a uid has.
	if uid, err := strconv.ParseUint(name, 10, 32); err == nil {
		return &rt.Int64Value{Value: int64(uid)}, ""
	}
	return nil, name
}
