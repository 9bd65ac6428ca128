// Package persistence connects the API server's resources to the datastore.
//
// In:       etcd endpoints, a codec and a key prefix for each resource.
// Out:      a watch cache over etcd for each, all of them on one connection.
// Promise:  the keys are laid out as in every Kubernetes cluster, so its tools can read them.
// Not here: etcd itself (appliance/datastore).
//
// The library opens a connection for every resource, each with buffers on both ends; for some sixty resources in
// the same process as etcd that is memory for nothing.
package persistence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	cacherstorage "k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/tools/cache"
)

// Prefix is above all keys.
const Prefix = "/registry"

// Endpoints say where etcd is and how it knows us. Without files the connection is plain, as on a unix socket.
type Endpoints struct {
	URLs                      []string
	CAFile, CertFile, KeyFile string

	// Local is the member of this process, once it serves; nil: none of the URLs leads to this process.
	Local func() pb.KVServer
}

// Connection is the one all resources share.
type Connection struct {
	client    *kubernetes.Client
	compactor interface {
		etcd3.Compactor
		Stop()
	}
}

// Connect does not wait for etcd; requests do.
func Connect(e Endpoints) (*Connection, error) {
	config := clientv3.Config{
		Endpoints:            e.URLs,
		DialTimeout:          20 * time.Second,
		DialKeepAliveTime:    30 * time.Second, // a member that died without closing is left for another within a minute
		DialKeepAliveTimeout: 10 * time.Second,
		Logger:               zap.NewNop(), // every failure comes back as an error of the request it failed
	}
	if e.CAFile != "" {
		info := transport.TLSInfo{TrustedCAFile: e.CAFile, CertFile: e.CertFile, KeyFile: e.KeyFile}
		tls, err := info.ClientConfig()
		if err != nil {
			return nil, fmt.Errorf("read the datastore's client certificate: %w", err)
		}
		config.TLS = tls
	}
	client, err := kubernetes.New(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the datastore at %v: %w", e.URLs, err)
	}
	client.KV = etcd3.NewETCDLatencyTracker(e.keys(client.Client))
	c := &Connection{client: client}
	c.compactor = etcd3.StartCompactorPerEndpoint(client.Client, storagebackend.DefaultCompactInterval)
	return c, nil
}

// Check asks the datastore for a key, which takes a majority of its members.
func (c *Connection) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storagebackend.DefaultHealthcheckTimeout)
	defer cancel()
	if _, err := c.client.Client.Get(ctx, Prefix+"/health"); err != nil {
		return fmt.Errorf("read from the datastore: %w", err)
	}
	return nil
}

// Close ends the connection; the storages made on it must be destroyed before.
func (c *Connection) Close() error {
	c.compactor.Stop()
	if err := c.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the connection to the datastore: %w", err)
	}
	return nil
}

// Options makes a resource's storage. One for each way of encoding: built-in kinds, custom ones, APIServices.
type Options struct {
	Connection   *Connection
	Factory      serverstorage.StorageFactory // codec and key prefix of a resource
	Transformers value.ResourceTransformers   // encryption at rest
	Counts       flowcontrolrequest.StorageObjectCountTracker
}

var _ generic.RESTOptionsGetter = &Options{}

// GetRESTOptions is what the library's stores ask.
func (o *Options) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	config, err := o.Factory.NewConfig(resource, example)
	if err != nil {
		return generic.RESTOptions{}, fmt.Errorf("find how to store %s: %w", resource, err)
	}
	config.Transformer = o.Transformers.TransformerForResource(resource)
	return generic.RESTOptions{
		StorageConfig:             config,
		Decorator:                 o.cached,
		DeleteCollectionWorkers:   4, // the datastore syncs several deletions to disk at once
		EnableGarbageCollection:   true,
		ResourcePrefix:            o.Factory.ResourcePrefix(resource),
		StorageObjectCountTracker: o.Counts,
	}, nil
}

// cached puts a watch cache before the datastore.
func (o *Options) cached(
	config *storagebackend.ConfigForResource,
	prefix string,
	key func(obj runtime.Object) (string, error),
	newObject, newList func() runtime.Object,
	attributes storage.AttrFunc,
	triggers storage.IndexerFuncs,
	indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	versioner := storage.APIObjectVersioner{}
	store, err := etcd3.New(o.Connection.client, o.Connection.compactor, config.Codec, newObject, newList, config.Prefix, prefix,
		config.GroupResource, config.Transformer, config.LeaseManagerConfig, etcd3.NewDefaultDecoder(config.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, fmt.Errorf("store %s: %w", config.GroupResource, err)
	}
	clock := &pace{}
	cacher, err := cacherstorage.NewCacherFromConfig(cacherstorage.Config{
		Clock:               clock,
		Storage:             store,
		Versioner:           versioner,
		GroupResource:       config.GroupResource,
		EventsHistoryWindow: config.EventsHistoryWindow,
		ResourcePrefix:      prefix,
		KeyFunc:             key,
		NewFunc:             newObject,
		NewListFunc:         newList,
		GetAttrsFunc:        attributes,
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               config.Codec,
	})
	if err != nil {
		store.Close()
		return nil, nil, fmt.Errorf("cache %s: %w", config.GroupResource, err)
	}
	delegator := cacherstorage.NewCacheDelegator(cacher, store)
	destroy := sync.OnceFunc(func() {
		delegator.Stop()
		cacher.Stop()
		store.Close()
	})
	return &paced{CacheDelegator: delegator, pace: clock}, destroy, nil
}

// BackendConfig is what storage factories start from. The connection in it is never used.
func BackendConfig(codec runtime.Codec, counts flowcontrolrequest.StorageObjectCountTracker) storagebackend.Config {
	config := storagebackend.NewDefaultConfig(Prefix, codec)
	config.StorageObjectCountTracker = counts
	return *config
}
