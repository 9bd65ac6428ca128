// Package configfile keeps to a file of the operator while it changes.
//
// In:       a path, and what to make of a content.
// Out:      calls with each new content.
// Promise:  a content that cannot be used changes nothing: what was made of the last one stays in force.
// Not here: what the files mean (authn/provider, authz/configured).
package configfile

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
)

// every is how often the file is looked at; a mount of a ConfigMap changes in ways no watch on the file would see.
const every = 10 * time.Second

// Follow calls use with the content whenever it differs from the last one that use took, until ctx ends.
func Follow(ctx context.Context, path string, last []byte, use func(ctx context.Context, content []byte) error) {
	log := slog.With("component", "configuration", "file", path)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var refused []byte
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		content, err := os.ReadFile(path)
		if err == nil {
			if bytes.Equal(content, last) {
				continue
			}
			err = use(ctx, content)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			log.Info("changed configuration in use")
			last, refused = content, nil
		case refused == nil || !bytes.Equal(content, refused): // once for each mistake, not every time it is seen
			log.Error("changed configuration not used; the last good one stays in force", "err", err)
			refused = append([]byte{}, content...)
		}
	}
}

// codecs know the configuration kinds of apiserver.config.k8s.io in all their versions; fields nobody knows are errors.
var codecs = func() serializer.CodecFactory {
	scheme := runtime.NewScheme()
	install.Install(scheme)
	return serializer.NewCodecFactory(scheme, serializer.EnableStrict)
}()

// Decode reads a configuration of one kind.
func Decode[T runtime.Object](content []byte) (T, error) {
	var none T
	obj, err := runtime.Decode(codecs.UniversalDecoder(), content)
	if err != nil {
		return none, err
	}
	config, ok := obj.(T)
	if !ok {
		return none, fmt.Errorf("it is a %T, not a %T", obj, none)
	}
	return config, nil
}
