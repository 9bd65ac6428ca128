package persistence

import (
	"context"
	"errors"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// Create and GuaranteedUpdate say what is too large for the datastore; the library would say that the server failed.
func (p *paced) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return tooLarge(p.CacheDelegator.Create(ctx, key, obj, out, ttl))
}

// GuaranteedUpdate is Create's other half.
func (p *paced) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object) error {
	return tooLarge(p.CacheDelegator.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, tryUpdate, cached))
}

// tooLarge knows the refusal of the datastore, and of the client that does not even send it.
func tooLarge(err error) error {
	if err == nil {
		return nil
	}
	unsent := status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "message larger than max")
	if unsent || errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return apierrors.NewRequestEntityTooLargeError("the object is larger than the datastore takes, which is 1.5 MiB")
	}
	return err
}
