package persistence

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"k8s.io/apiserver/pkg/storage/value"
)

const (
	page       = 500
	sideBySide = 8 // the datastore syncs several writes to disk together
)

// Reseal writes everything below a key again that its transformer would encrypt otherwise now, without a look at what
// it says: no admission, no change for clients but a new resource version. It says how many it wrote or lost to another
// writer; when that is none, nothing below the key needs an old way of decrypting any more.
func (c *Connection) Reseal(ctx context.Context, prefix string, t value.Transformer) (int, error) {
	var stale atomic.Int64
	err := pages(ctx, c.client.KV, prefix, func(kvs []*mvccpb.KeyValue) error {
		var group errgroup.Group
		group.SetLimit(sideBySide)
		errs := make([]error, len(kvs))
		for i, kv := range kvs {
			group.Go(func() error {
				written, err := c.reseal(ctx, kv, t)
				if written {
					stale.Add(1)
				}
				errs[i] = err
				return nil // one that nobody can read must not keep the others
			})
		}
		_ = group.Wait()
		return errors.Join(errs...)
	})
	return int(stale.Load()), err
}

func (c *Connection) reseal(ctx context.Context, kv *mvccpb.KeyValue, t value.Transformer) (bool, error) {
	where := value.DefaultContext(kv.Key)
	plain, stale, err := t.TransformFromStorage(ctx, kv.Value, where)
	if err != nil {
		return false, fmt.Errorf("decrypt %s: %w", kv.Key, err)
	}
	if !stale {
		return false, nil
	}
	sealed, err := t.TransformToStorage(ctx, plain, where)
	if err != nil {
		return false, fmt.Errorf("encrypt %s: %w", kv.Key, err)
	}
	// Whoever wrote meanwhile did so with what the transformers say now, or the next pass finds it.
	_, err = c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(string(kv.Key)), "=", kv.ModRevision)).
		Then(clientv3.OpPut(string(kv.Key), string(sealed), clientv3.WithLease(clientv3.LeaseID(kv.Lease)))).
		Commit()
	if err != nil {
		return true, fmt.Errorf("write %s: %w", kv.Key, err)
	}
	return true, nil
}

// Sample reads the first few values below a key, as they are stored.
func (c *Connection) Sample(ctx context.Context, prefix string, n int64) (map[string][]byte, error) {
	response, err := c.client.KV.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithLimit(n))
	if err != nil {
		return nil, fmt.Errorf("read %s from the datastore: %w", prefix, err)
	}
	sample := make(map[string][]byte, len(response.Kvs))
	for _, kv := range response.Kvs {
		sample[string(kv.Key)] = kv.Value
	}
	return sample, nil
}

// pages reads everything below a key in portions. What is added behind the reader's back may be missed.
func pages(ctx context.Context, kv clientv3.KV, prefix string, each func([]*mvccpb.KeyValue) error) error {
	end := clientv3.GetPrefixRangeEnd(prefix)
	var errs []error
	for from := prefix; ; {
		response, err := kv.Get(ctx, from, clientv3.WithRange(end), clientv3.WithLimit(page))
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("read %s from the datastore: %w", prefix, err))...)
		}
		if err := each(response.Kvs); err != nil {
			errs = append(errs, err)
		}
		if !response.More {
			return errors.Join(errs...)
		}
		from = string(response.Kvs[len(response.Kvs)-1].Key) + "\x00"
	}
}

// Survey counts what lies below a key by how it is encrypted: the name of a key, or "" for not at all. It needs no key.
func (c *Connection) Survey(ctx context.Context, prefix string) (map[string]int, error) {
	counts := map[string]int{}
	err := pages(ctx, c.client.KV, prefix, func(kvs []*mvccpb.KeyValue) error {
		for _, kv := range kvs {
			counts[sealedWith(kv.Value)]++
		}
		return nil
	})
	return counts, err
}

// sealedWith is the key's name in what Kubernetes writes before a value: k8s:enc:PROVIDER:VERSION:NAME:
func sealedWith(stored []byte) string {
	rest, sealed := bytes.CutPrefix(stored, []byte("k8s:enc:"))
	if !sealed {
		return ""
	}
	parts := bytes.SplitN(rest, []byte(":"), 4)
	if len(parts) < 4 {
		return "unknown"
	}
	return string(parts[2])
}
