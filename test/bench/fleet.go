package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	fleetLabel = "knarr.dev/bench"
	// fleetWorkers stands for the many nodes that report at the same time.
	fleetWorkers = 32
	// leaseRenewal and leaseSeconds are the kubelet's.
	leaseRenewal = 10 * time.Second
	leaseSeconds = 40
	podsPerNode  = 110
)

// fleet is nodes that only report: that they are ready, and that every pod placed on them runs.
type fleet struct {
	client                *kubernetes.Clientset
	space                 string
	nodes                 []string
	exist, bound, running milestone
	reports               chan *corev1.Pod
}

// newFleet registers nodes and returns when pods can be placed on them.
func newFleet(ctx context.Context, kubeconfig, space string, size int) (*fleet, error) {
	client, err := connectBinary(kubeconfig)
	if err != nil {
		return nil, err
	}
	f := &fleet{client: client, space: space, reports: make(chan *corev1.Pod, fleetWorkers)}
	for _, m := range []*milestone{&f.exist, &f.bound, &f.running} {
		m.passed = map[string]bool{}
	}
	f.exist.name, f.bound.name, f.running.name = "exist", "have a node", "run"
	for i := range size {
		name := fmt.Sprintf("bench-node-%03d", i)
		if err := f.register(ctx, name); err != nil {
			return nil, err
		}
		f.nodes = append(f.nodes, name)
		go f.renew(ctx, name)
	}
	if err := f.awaitUntainted(ctx); err != nil {
		return nil, err
	}
	for range fleetWorkers {
		go f.report(ctx)
	}
	return f, f.follow(ctx)
}

func (f *fleet) register(ctx context.Context, name string) error {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, fleetLabel: "true"}}}
	if _, err := f.client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); ignoreExists(err) != nil {
		return fmt.Errorf("register node %s: %w", name, err)
	}
	if err := f.claim(ctx, name); err != nil {
		return err
	}
	now := metav1.Now()
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods: *resource.NewQuantity(podsPerNode, resource.DecimalSI),
	}
	status, err := json.Marshal(map[string]any{"status": corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status", LastHeartbeatTime: now, LastTransitionTime: now,
	}}}})
	if err != nil {
		return err
	}
	_, err = f.client.CoreV1().Nodes().Patch(ctx, name, types.StrategicMergePatchType, status, metav1.PatchOptions{}, "status")
	return err
}

// claim makes a node's lease, or finds the one an earlier run left.
func (f *fleet) claim(ctx context.Context, name string) error {
	now, seconds := metav1.NowMicro(), int32(leaseSeconds)
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: corev1.NamespaceNodeLease},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &name, LeaseDurationSeconds: &seconds, RenewTime: &now},
	}
	_, err := f.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Create(ctx, lease, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return f.renewOne(ctx, name)
	}
	if err != nil {
		return fmt.Errorf("lease of node %s: %w", name, err)
	}
	return nil
}

// renewOne says that a node lives.
func (f *fleet) renewOne(ctx context.Context, name string) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"renewTime": metav1.NowMicro()}})
	if err != nil {
		return err
	}
	_, err = f.client.CoordinationV1().Leases(corev1.NamespaceNodeLease).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("renew the lease of node %s: %w", name, err)
	}
	return nil
}

// renew keeps one node alive. Each renews for itself, as nodes do: behind one another a busy API would have them late.
func (f *fleet) renew(ctx context.Context, name string) {
	for wait(ctx, leaseRenewal) == nil {
		if err := f.renewOne(ctx, name); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "bench: the next renewal follows:", err)
		}
	}
}

// awaitUntainted waits until the cluster believes that all nodes are ready.
func (f *fleet) awaitUntainted(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		list, err := f.client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: fleetLabel})
		if err != nil {
			return err
		}
		usable := 0
		for _, node := range list.Items {
			if len(node.Spec.Taints) == 0 {
				usable++
			}
		}
		if usable == len(f.nodes) {
			return nil
		}
		if err := wait(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d nodes usable: %w", usable, len(f.nodes), err)
		}
	}
}

// follow watches the benchmark's pods.
func (f *fleet) follow(ctx context.Context) error {
	source := cache.NewListWatchFromClient(f.client.CoreV1().RESTClient(), "pods", f.space, fields.Everything())
	informer := cache.NewSharedInformer(source, &corev1.Pod{}, 0)
	see := func(o any) {
		pod := o.(*corev1.Pod)
		f.exist.pass(pod.Name)
		if pod.Spec.NodeName == "" {
			return
		}
		first := f.bound.pass(pod.Name)
		if pod.Status.Phase == corev1.PodRunning {
			f.running.pass(pod.Name)
		}
		if first || pod.DeletionTimestamp != nil || doubted(pod) {
			select {
			case f.reports <- pod:
			case <-ctx.Done():
			}
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, o any) { see(o) }}); err != nil {
		return err
	}
	go informer.Run(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return fmt.Errorf("watch pods: %w", ctx.Err())
	}
	return nil
}

// doubted says whether the cluster took a running pod's word back, as it does when it misses the node: a kubelet repeats it.
func doubted(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status != corev1.ConditionTrue
	})
}

// report does for a pod what its node would: says that it runs, or that it is gone.
func (f *fleet) report(ctx context.Context) {
	for {
		var pod *corev1.Pod
		select {
		case pod = <-f.reports:
		case <-ctx.Done():
			return
		}
		if err := f.serve(ctx, pod); ignoreMissing(err) != nil && ctx.Err() == nil {
			fmt.Fprintf(os.Stderr, "bench: pod %s: %v\n", pod.Name, err)
		}
	}
}

func (f *fleet) serve(ctx context.Context, pod *corev1.Pod) error {
	if pod.DeletionTimestamp != nil {
		now := int64(0)
		return f.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &pod.UID}})
	}
	now := metav1.Now()
	is := func(kind corev1.PodConditionType) corev1.PodCondition {
		return corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now}
	}
	status := corev1.PodStatus{
		Phase: corev1.PodRunning, StartTime: &now, PodIP: "192.0.2.1", PodIPs: []corev1.PodIP{{IP: "192.0.2.1"}},
		Conditions: []corev1.PodCondition{is(corev1.PodReady), is(corev1.ContainersReady), is(corev1.PodInitialized), is(corev1.PodReadyToStartContainers)},
		ContainerStatuses: []corev1.ContainerStatus{{
			Name: "c", Image: "bench:1", ImageID: "bench@sha256:0", ContainerID: "bench://" + string(pod.UID), Ready: true, Started: new(true),
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		}},
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	// The answer is read and not decoded: what the played nodes compute, the cluster's processes go without.
	return f.client.CoreV1().RESTClient().Patch(types.StrategicMergePatchType).Namespace(pod.Namespace).Resource("pods").Name(pod.Name).
		SubResource("status").Body(patch).Do(ctx).Error()
}

// remove takes the nodes away; their pods go with the namespace.
func (f *fleet) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	for _, name := range f.nodes {
		_ = f.client.CoreV1().Nodes().Delete(ctx, name, metav1.DeleteOptions{}) // what is left only costs the next run
	}
}
