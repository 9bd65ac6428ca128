// Package garbage gives back what the disk holds for nobody: images nothing uses, containers that ended.
//
// In:       the runtime's images and containers, the pods of this node, the disk the images lie on.
// Out:      fewer of them.
// Promise:  nothing that is pinned, that a container or an image volume uses, or that a pod of this node names goes;
//
//	nothing is looked at while the disk has room.
//
// Not here: when pods have to go (workloads/agent/pressure), which dead containers still serve their pod
//
//	(workloads/agent/pod).
//
// Thresholds are upstream's: https://kubernetes.io/docs/concepts/architecture/garbage-collection/#container-image-garbage-collection
package garbage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/distribution/reference"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const lookEvery = 5 * time.Minute

// Runtime has the images; workloads/agent/runtime is one.
type Runtime interface {
	ListImages(context.Context, *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error)
	ListContainers(context.Context, *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error)
	RemoveImage(context.Context, *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error)
	// ImageTimes says when each image came or was pulled again, by name and by id.
	ImageTimes(context.Context) (map[string]time.Time, error)
}

// Config of a collector.
type Config struct {
	NodeName string
	Runtime  Runtime
	Bounds   Bounds
	Room     func() (total, available uint64) // of the images' disk
	Pods     func() []*corev1.Pod
	Sweep    func() // asks for dead containers to go
	Events   record.EventRecorder
	Log      *slog.Logger
}

// Collector is the component.
type Collector struct {
	conf Config
	log  *slog.Logger

	mu   sync.Mutex           // one collection at a time
	used map[string]time.Time // by image id
}

// New makes a collector that Run will start.
func New(conf Config) *Collector {
	return &Collector{conf: conf, log: conf.Log.With("component", "garbage"), used: map[string]time.Time{}}
}

// Name of the component.
func (c *Collector) Name() string { return "garbage" }

// Run looks at the disk every five minutes until ctx ends.
func (c *Collector) Run(ctx context.Context, ready func()) error {
	ready()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		bytes := c.conf.Bounds.need(c.conf.Room())
		if bytes == 0 {
			continue
		}
		found, err := c.collect(ctx, bytes)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			c.tell("ImageGCFailed", err.Error())
		case found < bytes:
			c.tell("FreeDiskSpaceFailed", fmt.Sprintf("Failed to garbage collect required amount of images. Attempted to free %d bytes, but only found %d bytes eligible to free.", bytes, found))
		}
	}
}

func (c *Collector) tell(reason, message string) {
	c.log.Warn("collect images nothing uses", "reason", reason, "why", message)
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: c.conf.NodeName, UID: types.UID(c.conf.NodeName)}
	c.conf.Events.Event(about, corev1.EventTypeWarning, reason, message)
}

// CollectAll removes everything nothing uses: pods are about to go for the room it takes.
func (c *Collector) CollectAll(ctx context.Context) error {
	c.conf.Sweep()
	_, err := c.collect(ctx, math.MaxUint64)
	return err
}

// collect removes images worth so many bytes, and says how many it found.
func (c *Collector) collect(ctx context.Context, bytes uint64) (found uint64, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	images, err := c.images(ctx, now)
	if err != nil {
		return 0, err
	}
	var errs []error
	for _, image := range c.conf.Bounds.choose(images, bytes, now) {
		if _, err := c.conf.Runtime.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: image.ID}}); err != nil {
			errs = append(errs, fmt.Errorf("remove image %s: %w", image.ID, err))
			continue
		}
		found += image.Bytes
		c.log.Info("image removed, nothing uses it", "image", image.ID, "bytes", image.Bytes)
	}
	return found, errors.Join(errs...)
}

// images are all of the runtime's, with what uses them.
func (c *Collector) images(ctx context.Context, now time.Time) ([]Image, error) {
	list, err := c.conf.Runtime.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	since, err := c.conf.Runtime.ImageTimes(ctx)
	if err != nil {
		return nil, err
	}
	containers, err := c.conf.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	wanted := map[string]bool{}
	for _, container := range containers.GetContainers() {
		wanted[container.GetImageRef()], wanted[container.GetImageId()], wanted[container.GetImage().GetImage()] = true, true, true
	}
	for _, pod := range c.conf.Pods() {
		for _, name := range named(pod) {
			wanted[name] = true
		}
	}
	out := make([]Image, 0, len(list.GetImages()))
	last := map[string]time.Time{}
	for _, image := range list.GetImages() {
		one := judge(image, wanted, since)
		if one.Used = c.used[one.ID]; one.InUse {
			one.Used = now
		}
		if !one.Used.IsZero() {
			last[one.ID] = one.Used
		}
		out = append(out, one)
	}
	c.used = last
	return out, nil
}

// judge sums up an image's names and ids.
func judge(image *runtimeapi.Image, wanted map[string]bool, since map[string]time.Time) Image {
	out := Image{ID: image.GetId(), Bytes: image.GetSize(), Pinned: image.GetPinned()}
	for _, list := range [][]string{{image.GetId()}, image.GetRepoTags(), image.GetRepoDigests()} {
		for _, name := range list {
			out.InUse = out.InUse || wanted[name]
			if since[name].After(out.Since) {
				out.Since = since[name]
			}
		}
	}
	return out
}

// named are the images a pod names, in full: those of its containers and of its image volumes.
func named(pod *corev1.Pod) []string {
	var out []string
	add := func(name string) {
		if ref, err := reference.ParseDockerRef(name); err == nil {
			out = append(out, ref.String())
		}
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			add(list[i].Image)
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		add(pod.Spec.EphemeralContainers[i].Image)
	}
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Image; v != nil {
			add(v.Reference)
		}
	}
	return out
}
