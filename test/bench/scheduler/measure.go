package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"golang.org/x/sync/errgroup"
)

// importantClass is the priority class of pods others make room for.
const importantClass = "important"

// clients is how many requests of the load are on their way at once.
const clients = 16

// prepare fills a datastore with a case's nodes and pods, unless that was done before.
func prepare(ctx context.Context, w workload, dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	fresh := dir + ".part"
	if err := errors.Join(os.RemoveAll(fresh), os.MkdirAll(fresh, 0o700)); err != nil {
		return err
	}
	p, err := startProcess(ctx, fresh, "")
	if err != nil {
		return err
	}
	err = fill(ctx, w, p)
	if err := errors.Join(err, p.stop()); err != nil {
		return err
	}
	return os.Rename(fresh, dir)
}

func fill(ctx context.Context, w workload, p *process) error {
	api, err := connect(p)
	if err != nil {
		return err
	}
	for _, o := range []client.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}},
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "default"}},
		&schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: importantClass}, Value: 1000},
	} {
		if err := api.Create(ctx, o); err != nil {
			return err
		}
	}
	if err := many(ctx, w.nodes, func(ctx context.Context, i int) error {
		n := w.nodeAt(i)
		if w.around != nil {
			if err := create(ctx, api, w.around(i, n)...); err != nil {
				return err
			}
		}
		return createNode(ctx, api, n)
	}); err != nil {
		return err
	}
	if err := many(ctx, w.placed, func(ctx context.Context, i int) error { return api.Create(ctx, w.placedAt(i)) }); err != nil {
		return err
	}
	return many(ctx, w.waiting, func(ctx context.Context, i int) error { return w.submit(ctx, api, i) })
}

// createNode creates a node that pods may go to at once: the API server holds new ones to be not ready.
func createNode(ctx context.Context, api client.Client, n *corev1.Node) error {
	taints, status := n.Spec.Taints, n.Status
	if err := api.Create(ctx, n); err != nil {
		return err
	}
	n.Spec.Taints = taints
	if err := api.Update(ctx, n); err != nil {
		return err
	}
	n.Status = status
	return api.Status().Update(ctx, n)
}

// submit creates the i-th waiting pod.
func (w workload) submit(ctx context.Context, api client.Client, i int) error {
	p := w.waitingAt(i)
	if w.beside != nil {
		if err := create(ctx, api, w.beside(i, p)...); err != nil {
			return err
		}
	}
	return api.Create(ctx, p)
}

func create(ctx context.Context, api client.Client, objects ...client.Object) error {
	for _, o := range objects {
		if err := api.Create(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// many calls act for 0..n-1, some at a time.
func many(ctx context.Context, n int, act func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for i := range n {
		group.Go(func() error { return act(ctx, i) })
	}
	return group.Wait()
}

func connect(p *process) (client.WithWatch, error) {
	config, err := clientcmd.BuildConfigFromFlags("", p.kubeconfig)
	if err != nil {
		return nil, err
	}
	config.QPS = -1
	config.ContentType = runtime.ContentTypeProtobuf // the load's own share of the machine
	return client.NewWithWatch(rest.CopyConfig(config), client.Options{Scheme: scheme.Scheme})
}

// measure lets one scheduler place a case's backlog, then pods that arrive one by one.
func measure(ctx context.Context, o options, w workload, c contender, prepared string) (r row, err error) {
	dir, err := os.MkdirTemp(o.work, "run-")
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := os.CopyFS(dir, os.DirFS(prepared)); err != nil {
		return r, err
	}
	profile := ""
	if o.profile != "" {
		profile = fmt.Sprintf("%s/%s-%s.pprof", o.profile, w.name, c.name)
	}
	p, err := startProcess(ctx, dir, profile)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	api, err := connect(p)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, o.limit)
	defer cancel()
	seen, err := follow(ctx, api)
	if err != nil {
		return r, err
	}
	before, err := processorTime(p.command.Process.Pid)
	if err != nil {
		return r, err
	}
	pids, stop, err := c.start(ctx, p)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if w.meanwhile != nil {
		var others sync.WaitGroup
		defer others.Wait()
		meanwhile, end := context.WithCancel(ctx)
		defer end()
		others.Go(func() { w.meanwhile(meanwhile, api) })
	}
	first, last, err := seen.backlog(ctx, w.waiting)
	if err != nil {
		return r, err
	}
	after, err := processorTime(pids...)
	if err != nil {
		return r, err
	}
	r.Backlog, r.Took, r.CPU = w.waiting, last.Sub(first), after-before
	if r.Latency, err = arrive(ctx, o, w, api, seen); err != nil {
		return r, err
	}
	return r, audit(ctx, api)
}

// arrive creates pods at a steady rate and takes the time from the request to the binding of each.
func arrive(ctx context.Context, o options, w workload, api client.Client, seen *bindings) ([]time.Duration, error) {
	var group errgroup.Group
	began := make([]time.Time, o.arrivals)
	tick := time.NewTicker(time.Duration(float64(time.Second) / o.rate))
	defer tick.Stop()
	for i := range o.arrivals {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		began[i] = time.Now()
		group.Go(func() error { return w.submit(ctx, api, w.waiting+i) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	latencies := make([]time.Duration, o.arrivals)
	for i := range latencies {
		at, err := seen.await(ctx, w.waitingAt(w.waiting+i).Name)
		if err != nil {
			return nil, err
		}
		latencies[i] = at.Sub(began[i])
	}
	slices.Sort(latencies)
	return latencies, nil
}

// churn makes and removes what schedulers have to look at in vain, as upstream's case of that name.
func churn(ctx context.Context, api client.Client) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		node := workload{}.nodeAt(99999)
		node.Name, node.Labels[corev1.LabelHostname] = "churning", "churning"
		node.Spec.Taints = []corev1.Taint{{Key: "bench.example/churning", Effect: corev1.TaintEffectNoSchedule}}
		pod := basicPod("churning")
		ask(pod, "9", "500Mi")
		pod.Spec.PriorityClassName = importantClass
		service := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "churning"},
			Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "churning"}, Ports: []corev1.ServicePort{{Port: 80}}},
		}
		if err := createNode(ctx, api, node); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "bench: churn:", err)
		}
		objects := []client.Object{pod, service, node}
		for _, o := range objects[:2] {
			if err := api.Create(ctx, o); err != nil && ctx.Err() == nil {
				fmt.Fprintln(os.Stderr, "bench: churn:", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
		for _, o := range objects {
			if err := api.Delete(context.WithoutCancel(ctx), o); err != nil && !apierrors.IsNotFound(err) {
				fmt.Fprintln(os.Stderr, "bench: churn:", err)
			}
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// importune creates five pods a second for which others have to go, as upstream's case PreemptionAsync.
func importune(ctx context.Context, api client.Client) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		p := basicPod(fmt.Sprintf("important-%05d", i))
		important(i, p)
		if err := api.Create(ctx, p); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "bench: importune:", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// audit looks whether any node holds more than it has.
func audit(ctx context.Context, api client.Client) error {
	var nodes corev1.NodeList
	var pods corev1.PodList
	if err := errors.Join(api.List(ctx, &nodes), api.List(ctx, &pods)); err != nil {
		return err
	}
	free := map[string]*resource.Quantity{}
	for i := range nodes.Items {
		free[nodes.Items[i].Name] = nodes.Items[i].Status.Allocatable.Cpu()
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		left := free[p.Spec.NodeName]
		if left == nil {
			continue
		}
		if left.Sub(*p.Spec.Containers[0].Resources.Requests.Cpu()); left.Sign() < 0 {
			return fmt.Errorf("node %s holds more than it has", p.Spec.NodeName)
		}
	}
	return nil
}
