package runtime

import (
	"context"
	"fmt"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/platforms"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"
	bolt "go.etcd.io/bbolt"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// criService is what containerd's CRI plugin is when it is called directly. A call over the socket costs two
// encodings and four context switches, and an idle connection's buffers; inside one process there is no need.
type criService interface {
	runtimeapi.RuntimeServiceServer
	runtimeapi.ImageServiceServer
}

// imageService is CRI's part for images, with what its gRPC calls do not have: a look at one image at once, rather than
// when the event about it arrives, and a login for each host a pull asks.
type imageService interface {
	UpdateImage(ctx context.Context, ref string) error
	PullImage(ctx context.Context, name string, login func(host string) (user, secret string, err error), sandbox *runtimeapi.PodSandboxConfig, handler string) (string, error)
}

// handle is what a plugin of ours, loaded last, brings out of containerd. Another one, loaded between the shims and CRI, calls found.
type handle struct {
	found    func(context.Context, tasks)
	looked   bool // found was called
	cri      criService
	images   imageService
	client   *containerd.Client
	database *metadata.DB
}

type handleKey struct{}

// withHandle passes the handle to fill through the one thing containerd hands to its plugins: the context of New.
func withHandle(ctx context.Context, h *handle) context.Context {
	return context.WithValue(ctx, handleKey{}, h)
}

func init() {
	registry.Register(&plugin.Registration{
		Type: "dev.knarr.runtime",
		ID:   "handle",
		Requires: []plugin.Type{
			plugins.GRPCPlugin, plugins.CRIServicePlugin, plugins.ServicePlugin, plugins.EventPlugin, plugins.LeasePlugin,
			plugins.SandboxStorePlugin, plugins.TransferPlugin, plugins.MountManagerPlugin, plugins.MetadataPlugin,
		},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			h, ok := ic.Context.Value(handleKey{}).(*handle)
			if !ok {
				return nil, plugin.ErrSkipPlugin
			}
			return h, h.fill(ic)
		},
	})
}

func init() {
	registry.Register(&plugin.Registration{
		Type:     plugins.ServicePlugin, // CRI waits for all of this type
		ID:       "knarr-shims-found",
		Requires: []plugin.Type{plugins.RuntimePluginV2},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			h, ok := ic.Context.Value(handleKey{}).(*handle)
			if !ok {
				return nil, plugin.ErrSkipPlugin
			}
			shims, err := ic.GetByID(plugins.RuntimePluginV2, "task")
			if err != nil {
				return nil, err
			}
			found, ok := shims.(tasks)
			if !ok {
				return nil, fmt.Errorf("containerd's tasks are of another type than this build expects: %T", shims)
			}
			h.found(ic.Context, found)
			h.looked = true
			return h, nil
		},
	})
}

func (h *handle) fill(ic *plugin.InitContext) error {
	cri, err := ic.GetByID(plugins.GRPCPlugin, "cri")
	if err != nil {
		return err
	}
	images, err := ic.GetByID(plugins.CRIServicePlugin, "images")
	if err != nil {
		return err
	}
	database, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return err
	}
	var ok [3]bool
	h.cri, ok[0] = cri.(criService)
	h.images, ok[1] = images.(imageService)
	h.database, ok[2] = database.(*metadata.DB)
	if !ok[0] || !ok[1] || !ok[2] {
		return fmt.Errorf("containerd's plugins have other types than this build expects: %T, %T, %T", cri, images, database)
	}
	h.client, err = containerd.New("",
		containerd.WithDefaultNamespace(Namespace),
		containerd.WithDefaultPlatform(platforms.Default()),
		containerd.WithInMemoryServices(ic),
	)
	return err
}

// closeDatabase releases the lock on containerd's metadata, which Stop leaves to the end of the process.
func (h *handle) closeDatabase() error {
	if h.database == nil {
		return nil
	}
	var db *bolt.DB
	if err := h.database.View(func(tx *bolt.Tx) error { db = tx.DB(); return nil }); err != nil {
		return nil // closed already
	}
	return db.Close()
}

// in adds what CRI's own gRPC server adds to each call.
func in(ctx context.Context) context.Context { return namespaces.WithNamespace(ctx, Namespace) }
