package persistence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// presencePrefix is where the API servers of every Kubernetes cluster say that they are there.
const presencePrefix = Prefix + "/masterleases/"

// presenceTTL is how long a server counts that died without a word.
const presenceTTL = 30 * time.Second

// Presence is one API server among others, under its address. It stays in the datastore while it is renewed, which
// costs no write.
type Presence struct {
	connection *Connection
	address    string

	mu    sync.Mutex
	lease clientv3.LeaseID
}

// Presence of the server at an address; nobody knows of it before Announce.
func (c *Connection) Presence(address string) *Presence {
	return &Presence{connection: c, address: address}
}

// Announce says that the server is there, for another while.
func (p *Presence) Announce(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	client := p.connection.client.Client
	if p.lease != clientv3.NoLease {
		_, err := client.KeepAliveOnce(ctx, p.lease)
		if err == nil {
			return nil
		}
		if !errors.Is(err, rpctypes.ErrLeaseNotFound) {
			return fmt.Errorf("renew the lease of this API server: %w", err)
		}
	}
	var value bytes.Buffer
	if err := protobuf.NewSerializer(nil, nil).Encode(p.endpoints(), &value); err != nil {
		return fmt.Errorf("encode the lease of this API server: %w", err)
	}
	granted, err := client.Grant(ctx, int64(presenceTTL.Seconds()))
	if err != nil {
		return fmt.Errorf("get a lease for this API server: %w", err)
	}
	if _, err := client.Put(ctx, presencePrefix+p.address, value.String(), clientv3.WithLease(granted.ID)); err != nil {
		return fmt.Errorf("announce this API server: %w", err)
	}
	p.lease = granted.ID
	return nil
}

// endpoints is the shape the value has everywhere.
func (p *Presence) endpoints() runtime.Object {
	e := &corev1.Endpoints{Subsets: []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: p.address}}}}}
	e.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Endpoints"))
	return e
}

// Withdraw says that the server is going.
func (p *Presence) Withdraw(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lease == clientv3.NoLease {
		return nil
	}
	if _, err := p.connection.client.Client.Revoke(ctx, p.lease); err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("give back the lease of this API server: %w", err)
	}
	p.lease = clientv3.NoLease
	return nil
}

// Present lists the addresses of all servers that are there, in order.
func (p *Presence) Present(ctx context.Context) ([]string, error) {
	found, err := p.connection.client.Client.Get(ctx, presencePrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, fmt.Errorf("list the API servers that are there: %w", err)
	}
	var addresses []string
	for _, kv := range found.Kvs {
		addresses = append(addresses, path.Base(string(kv.Key)))
	}
	return addresses, nil
}
