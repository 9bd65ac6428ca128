package persistence

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
)

// The library answers that the server failed to what a store refuses because of what it was sent. These say whose
// fault it is.

// Get refuses versions that are none.
func (p *paced) Get(ctx context.Context, key string, options storage.GetOptions, out runtime.Object) error {
	if version := options.ResourceVersion; version != "" {
		if _, err := strconv.ParseUint(version, 10, 64); err != nil {
			return apierrors.NewBadRequest(fmt.Sprintf("resourceVersion %.100q is not a version of an object", version))
		}
	}
	return p.CacheDelegator.Get(ctx, key, options, out)
}

// Create refuses objects of a version, and what is too large.
func (p *paced) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	return refusal(p.CacheDelegator.Create(ctx, key, obj, out, ttl))
}

// GuaranteedUpdate refuses what is too large.
func (p *paced) GuaranteedUpdate(ctx context.Context, key string, destination runtime.Object, ignoreNotFound bool, preconditions *storage.Preconditions, tryUpdate storage.UpdateFunc, cached runtime.Object) error {
	return refusal(p.CacheDelegator.GuaranteedUpdate(ctx, key, destination, ignoreNotFound, preconditions, tryUpdate, cached))
}

// refusal knows those of the library, of the datastore, and of the datastore's client, which does not even send some.
func refusal(err error) error {
	if err == nil {
		return nil
	}
	unsent := status.Code(err) == codes.ResourceExhausted && strings.Contains(err.Error(), "message larger than max")
	switch {
	case unsent || errors.Is(err, rpctypes.ErrRequestTooLarge):
		return apierrors.NewRequestEntityTooLargeError("the object is larger than the datastore takes, which is 1.5 MiB")
	case errors.Is(err, storage.ErrResourceVersionSetOnCreate):
		return apierrors.NewBadRequest(err.Error())
	}
	return err
}
