package resource

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Blame makes what is wrong with a client's patch or object the client's fault. The library merges patches with
// functions that return plain errors, or panic, for what nobody should send; it would answer that the server failed.
func Blame(info rest.UpdatedObjectInfo) rest.UpdatedObjectInfo { return blamed{info} }

type blamed struct{ rest.UpdatedObjectInfo }

func (b blamed) UpdatedObject(ctx context.Context, old apiruntime.Object) (obj apiruntime.Object, err error) {
	defer func() {
		thrown := recover()
		if thrown == nil {
			return
		}
		where := thrower()
		if strings.HasPrefix(where, "knarr.dev/") {
			panic(thrown) // not the client's
		}
		slog.Warn("a request's patch could not be merged", "component", "apiserver", "where", where, "err", thrown)
		obj, err = nil, apierrors.NewBadRequest("the patch cannot be applied to this kind of object: it has a value of a wrong type")
	}()
	obj, err = b.UpdatedObjectInfo.UpdatedObject(ctx, old)
	if err != nil {
		if status := apierrors.APIStatus(nil); errors.As(err, &status) || ctx.Err() != nil {
			return nil, err
		}
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if obj == nil {
		return nil, apierrors.NewBadRequest("nothing is left of the object")
	}
	m, err := meta.Accessor(obj)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return obj, checkVersion(m.GetResourceVersion())
}

// checkVersion refuses what no server ever gave as a version.
func checkVersion(version string) error {
	if version == "" {
		return nil
	}
	if _, err := strconv.ParseUint(version, 10, 64); err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("resourceVersion %.100q is not a version of an object", version))
	}
	return nil
}

// thrower is the function that panicked: the first one below the runtime's own, seen from a deferred function.
func thrower() string {
	callers := make([]uintptr, 32)
	frames := runtime.CallersFrames(callers[:runtime.Callers(3, callers)])
	for {
		frame, more := frames.Next()
		if !strings.HasPrefix(frame.Function, "runtime.") && !strings.HasPrefix(frame.Function, "reflect.") {
			return frame.Function
		}
		if !more {
			return ""
		}
	}
}
