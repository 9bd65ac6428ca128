package node

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// observe looks at the machine and its runtime. What cannot be read becomes a fact too: the status says so.
func (n *Node) observe(ctx context.Context, node *corev1.Node, now time.Time) facts {
	f := facts{
		now:       now,
		name:      n.config.Name,
		port:      n.config.Port,
		version:   n.config.Version,
		machine:   n.machine,
		addresses: n.config.Addresses(),
		external:  n.config.External,
		storage:   readDisk(n.config.DataDir),
		settings:  n.config.Settings,
		pressure:  n.config.Pressure(),
		stopping:  n.config.Stopping(),
		podRange:  node != nil && node.Spec.PodCIDR != "",
	}
	f.inUse = n.config.InUse()
	f.devices, f.working = n.config.Devices()
	n.askRuntime(ctx, &f)
	if node != nil && isReady(node.Status) { // before, every millisecond counts
		n.askImages(ctx, &f)
	}
	return f
}

// askRuntime fills in what the runtime says about itself.
func (n *Node) askRuntime(ctx context.Context, f *facts) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	status, err := n.config.Runtime.Status(ctx, &runtimeapi.StatusRequest{})
	if err != nil {
		f.runtimeProblem = err.Error()
		return
	}
	f.runtimeProblem, f.networkProblem = runtimeProblems(status.GetStatus().GetConditions())
	f.handlers, f.features = abilities(status)
	if version, err := n.config.Runtime.Version(ctx, &runtimeapi.VersionRequest{}); err == nil {
		f.runtimeVersion = version.GetRuntimeName() + "://" + trimV(version.GetRuntimeVersion())
	}
}

// askImages refreshes the list of images when it is old.
func (n *Node) askImages(ctx context.Context, f *facts) {
	if f.now.Sub(n.imagesAt) >= imagesEvery {
		if list, err := n.config.Runtime.ListImages(ctx, &runtimeapi.ListImagesRequest{}); err == nil {
			n.images, n.imagesAt = imageList(list.GetImages()), f.now
		}
	}
	f.images = n.images
}

// runtimeProblems reads the two conditions every runtime has to report.
func runtimeProblems(conditions []*runtimeapi.RuntimeCondition) (runtime, network string) {
	runtime, network = "it reports no condition RuntimeReady", "it reports no condition NetworkReady"
	for _, c := range conditions {
		problem := ""
		if !c.GetStatus() {
			problem = fmt.Sprintf("%s=false reason:%s message:%s", c.GetType(), c.GetReason(), c.GetMessage())
		}
		switch c.GetType() {
		case runtimeapi.RuntimeReady:
			runtime = problem
		case runtimeapi.NetworkReady:
			network = problem
		}
	}
	return runtime, network
}

func abilities(status *runtimeapi.StatusResponse) ([]corev1.NodeRuntimeHandler, *corev1.NodeFeatures) {
	var handlers []corev1.NodeRuntimeHandler
	for _, handler := range status.GetRuntimeHandlers() {
		recursive, users := handler.GetFeatures().GetRecursiveReadOnlyMounts(), handler.GetFeatures().GetUserNamespaces()
		handlers = append(handlers, corev1.NodeRuntimeHandler{
			Name:     handler.GetName(),
			Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: &recursive, UserNamespaces: &users},
		})
	}
	slices.SortFunc(handlers, func(a, b corev1.NodeRuntimeHandler) int { return cmp.Compare(a.Name, b.Name) })
	if status.GetFeatures() == nil {
		return handlers, nil
	}
	groups := status.GetFeatures().GetSupplementalGroupsPolicy()
	return handlers, &corev1.NodeFeatures{SupplementalGroupsPolicy: &groups}
}

// The API's own limits: more would bloat every copy of the Node object.
const (
	maxImages     = 50
	maxImageNames = 5
)

// imageList is what the scheduler sees: the largest images first.
func imageList(images []*runtimeapi.Image) []corev1.ContainerImage {
	out := make([]corev1.ContainerImage, 0, len(images))
	for _, image := range images {
		names := slices.Concat(image.GetRepoDigests(), image.GetRepoTags())
		out = append(out, corev1.ContainerImage{Names: names[:min(len(names), maxImageNames)], SizeBytes: int64(image.GetSize())})
	}
	slices.SortFunc(out, func(a, b corev1.ContainerImage) int {
		if c := cmp.Compare(b.SizeBytes, a.SizeBytes); c != 0 {
			return c
		}
		return slices.Compare(a.Names, b.Names) // a stable order, or every look would be news
	})
	return out[:min(len(out), maxImages)]
}

func trimV(version string) string {
	if len(version) > 1 && version[0] == 'v' {
		return version[1:]
	}
	return version
}
