// Package why explains to an operator why a pod does not run or a Service is not reached, and what would change that.
//
// In:       a cluster, asked once through any kubeconfig: the pod, its events and logs, and while it has no node whatever
// decides about one; the Service, who stands behind it, and while it has no address whatever decides about that.
// Out:      a Report: the cause first, then what leads to it, then what to do.
// Promise:  explaining is a pure function of what was found; what one may not read is named, not guessed. Nothing is changed.
// Not here: the rules of the scheduler and of load balancers' addresses, which are asked as they are (workloads/scheduler/plugins,
// workloads/nodebalancer, workloads/loadbalancer).
package why

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Facts are what is known about a pod and, while it has no node, about what decides where it may go.
type Facts struct {
	Now             time.Time
	Namespace, Name string
	Pod             *corev1.Pod       // nil when there is none
	Events          []corev1.Event    // about the pod, the latest last
	Owners          []Owner           // without a pod: who would have made it
	LastLines       map[string]string // the last line each stopped container wrote

	Nodes      []corev1.Node
	Pods       []corev1.Pod // of all nodes
	Expected   []corev1.Pod // that have no node but are meant for one
	Namespaces []corev1.Namespace
	Claims     []corev1.PersistentVolumeClaim
	ClaimNews  map[string]corev1.Event // the latest about each claim of the pod's namespace, by its name
	Volumes    []corev1.PersistentVolume
	Classes    []storagev1.StorageClass
	CSINodes   []storagev1.CSINode
	Drivers    []storagev1.CSIDriver
	Capacities []storagev1.CSIStorageCapacity

	ResourceClaims []resourcev1.ResourceClaim
	ResourceSlices []resourcev1.ResourceSlice
	DeviceClasses  []resourcev1.DeviceClass
	DeviceTaints   []resourcev1.DeviceTaintRule

	Unknown []string // what could not be read, and why
}

// Owner is something that makes pods, with what it said last.
type Owner struct {
	Kind, Name string
	Said       []corev1.Event
}

// Gather asks a cluster for the facts about a pod. Only when the cluster does not answer at all it fails.
func Gather(ctx context.Context, client kubernetes.Interface, namespace, name string, now time.Time) (*Facts, error) {
	f := &Facts{Now: now, Namespace: namespace, Name: name, LastLines: map[string]string{}, ClaimNews: map[string]corev1.Event{}}
	pod, err := client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		f.owners(ctx, client)
		return f, nil
	case err != nil:
		return nil, fmt.Errorf("ask for pod %s in namespace %s: %w", name, namespace, err)
	}
	f.Pod = pod
	f.Events = f.events(ctx, client, "involvedObject.uid="+string(pod.UID))
	if pod.Spec.NodeName == "" {
		f.surroundings(ctx, client)
	} else {
		f.node(ctx, client)
		f.lastLines(ctx, client)
	}
	return f, nil
}

// owners finds what has a name the pod's could be made from, and what it says.
func (f *Facts) owners(ctx context.Context, client kubernetes.Interface) {
	said := map[string][]corev1.Event{}
	for _, e := range f.events(ctx, client, "type=Warning") {
		of := e.InvolvedObject
		if e.Reason == "FailedCreate" && (f.Name == of.Name || strings.HasPrefix(f.Name, of.Name+"-") || strings.HasPrefix(of.Name, f.Name+"-")) {
			key := of.Kind + "/" + of.Name
			said[key] = append(said[key], e)
		}
	}
	for key, events := range said {
		kind, name, _ := strings.Cut(key, "/")
		f.Owners = append(f.Owners, Owner{Kind: kind, Name: name, Said: events})
	}
	slices.SortFunc(f.Owners, func(a, b Owner) int { return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name)) })
}

// surroundings reads what decides about the node of a pod that has none.
func (f *Facts) surroundings(ctx context.Context, client kubernetes.Interface) {
	core := client.CoreV1()
	take(f, "nodes", &f.Nodes, func() ([]corev1.Node, error) {
		l, err := core.Nodes().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, corev1.NodeList{}).Items, err
	})
	take(f, "the pods of all namespaces", &f.Pods, func() ([]corev1.Pod, error) {
		l, err := core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"})
		return ptr.Deref(l, corev1.PodList{}).Items, err
	})
	take(f, "the pods that are to go to a node", &f.Expected, func() ([]corev1.Pod, error) {
		l, err := core.Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=,status.nominatedNodeName!=,status.phase!=Succeeded,status.phase!=Failed"})
		return ptr.Deref(l, corev1.PodList{}).Items, err
	})
	take(f, "namespaces", &f.Namespaces, func() ([]corev1.Namespace, error) {
		l, err := core.Namespaces().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, corev1.NamespaceList{}).Items, err
	})
	if len(f.Pod.Spec.ResourceClaims) > 0 || len(snapshot.NewPod(f.Pod).Requests.Scalar) > 0 {
		f.devices(ctx, client)
	}
	if !slices.ContainsFunc(f.Pod.Spec.Volumes, func(v corev1.Volume) bool { return v.PersistentVolumeClaim != nil || v.Ephemeral != nil }) {
		return
	}
	take(f, "volume claims", &f.Claims, func() ([]corev1.PersistentVolumeClaim, error) {
		l, err := core.PersistentVolumeClaims("").List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, corev1.PersistentVolumeClaimList{}).Items, err
	})
	take(f, "volumes", &f.Volumes, func() ([]corev1.PersistentVolume, error) {
		l, err := core.PersistentVolumes().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, corev1.PersistentVolumeList{}).Items, err
	})
	take(f, "storage classes", &f.Classes, func() ([]storagev1.StorageClass, error) {
		l, err := client.StorageV1().StorageClasses().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, storagev1.StorageClassList{}).Items, err
	})
	take(f, "CSI nodes", &f.CSINodes, func() ([]storagev1.CSINode, error) {
		l, err := client.StorageV1().CSINodes().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, storagev1.CSINodeList{}).Items, err
	})
	take(f, "CSI drivers", &f.Drivers, func() ([]storagev1.CSIDriver, error) {
		l, err := client.StorageV1().CSIDrivers().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, storagev1.CSIDriverList{}).Items, err
	})
	take(f, "storage capacities", &f.Capacities, func() ([]storagev1.CSIStorageCapacity, error) {
		l, err := client.StorageV1().CSIStorageCapacities("").List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, storagev1.CSIStorageCapacityList{}).Items, err
	})
	for _, e := range f.events(ctx, client, "involvedObject.kind=PersistentVolumeClaim") {
		f.ClaimNews[e.InvolvedObject.Name] = e
	}
}

// devices reads what claims for devices are decided by.
func (f *Facts) devices(ctx context.Context, client kubernetes.Interface) {
	api := client.ResourceV1()
	take(f, "resource claims", &f.ResourceClaims, func() ([]resourcev1.ResourceClaim, error) {
		l, err := api.ResourceClaims("").List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, resourcev1.ResourceClaimList{}).Items, err
	})
	take(f, "resource slices", &f.ResourceSlices, func() ([]resourcev1.ResourceSlice, error) {
		l, err := api.ResourceSlices().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, resourcev1.ResourceSliceList{}).Items, err
	})
	take(f, "device classes", &f.DeviceClasses, func() ([]resourcev1.DeviceClass, error) {
		l, err := api.DeviceClasses().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, resourcev1.DeviceClassList{}).Items, err
	})
	take(f, "device taint rules", &f.DeviceTaints, func() ([]resourcev1.DeviceTaintRule, error) {
		l, err := api.DeviceTaintRules().List(ctx, metav1.ListOptions{})
		return ptr.Deref(l, resourcev1.DeviceTaintRuleList{}).Items, err
	})
}

// node reads the node a pod is on.
func (f *Facts) node(ctx context.Context, client kubernetes.Interface) {
	take(f, "node "+f.Pod.Spec.NodeName, &f.Nodes, func() ([]corev1.Node, error) {
		n, err := client.CoreV1().Nodes().Get(ctx, f.Pod.Spec.NodeName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return []corev1.Node{*n}, err
	})
}

// lastLines reads the last words of containers that stopped.
func (f *Facts) lastLines(ctx context.Context, client kubernetes.Interface) {
	for _, s := range allStatuses(f.Pod) {
		stopped := s.State.Terminated != nil && s.State.Terminated.ExitCode != 0
		if !stopped && s.LastTerminationState.Terminated == nil {
			continue
		}
		options := &corev1.PodLogOptions{Container: s.Name, Previous: !stopped, TailLines: ptr.To[int64](5), LimitBytes: ptr.To[int64](8 << 10)}
		text, err := readAll(client.CoreV1().Pods(f.Namespace).GetLogs(f.Name, options).Stream(ctx))
		if err != nil {
			f.unknown("the log of container "+s.Name, err)
			continue
		}
		lines := slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
		if len(lines) > 0 {
			f.LastLines[s.Name] = lines[len(lines)-1]
		}
	}
}

func readAll(stream io.ReadCloser, err error) (string, error) {
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(stream)
	return string(text), errors.Join(err, stream.Close())
}

// events of the pod's namespace, the latest last.
func (f *Facts) events(ctx context.Context, client kubernetes.Interface, selector string) []corev1.Event {
	var found []corev1.Event
	take(f, "events", &found, func() ([]corev1.Event, error) {
		l, err := client.CoreV1().Events(f.Namespace).List(ctx, metav1.ListOptions{FieldSelector: selector})
		return ptr.Deref(l, corev1.EventList{}).Items, err
	})
	slices.SortStableFunc(found, func(a, b corev1.Event) int { return lastSeen(&a).Compare(lastSeen(&b)) })
	return found
}

// lastSeen is when an event happened last; programs fill in different fields.
func lastSeen(e *corev1.Event) time.Time {
	switch {
	case e.Series != nil:
		return e.Series.LastObservedTime.Time
	case !e.LastTimestamp.IsZero():
		return e.LastTimestamp.Time
	case !e.EventTime.IsZero():
		return e.EventTime.Time
	}
	return e.CreationTimestamp.Time
}

// take reads a part of the facts; one that cannot be read is noted.
func take[T any](f *Facts, what string, into *[]T, read func() ([]T, error)) {
	items, err := read()
	if err != nil {
		f.unknown(what, err)
		return
	}
	*into = items
}

func (f *Facts) unknown(what string, err error) {
	f.Unknown = append(f.Unknown, fmt.Sprintf("%s could not be read: %v", what, err))
}

// allStatuses are the containers of a pod in the order they start.
func allStatuses(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses)
}
