package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
)

// scale is how many Deployments of how many pods the controllers bring up on how many nodes.
type scale struct {
	deployments, replicas, nodes int
	rest                         time.Duration // before and after, so that memory is what stays
}

func (s scale) pods() int { return s.deployments * s.replicas }

// cheapGarbage has the played nodes, which keep little, collect seldom: the cluster's processes share the machine.
const cheapGarbage = 800

// cluster is something to measure controllers with.
type cluster interface {
	start() error
	kubeconfigFile() string
	processes() []int
	remove() error
}

// controllersMain is the command `bench controllers`.
func controllersMain(ctx context.Context, args []string) (err error) {
	var s scale
	var knarr, upstreamDir, kubeconfig, pids string
	var lift bool
	flags := flag.NewFlagSet("controllers", flag.ExitOnError)
	flags.StringVar(&knarr, "knarr", "bin/knarr", "binary to start and measure")
	flags.StringVar(&upstreamDir, "upstream", "", "measure etcd, kube-apiserver, kube-controller-manager and kube-scheduler of this folder instead")
	flags.BoolVar(&lift, "lift", false, "start upstream's components without their limit on requests a second")
	flags.StringVar(&kubeconfig, "kubeconfig", "", "measure this running cluster instead")
	flags.StringVar(&pids, "pids", "", "the running cluster's processes, with commas")
	flags.IntVar(&s.deployments, "deployments", 1000, "Deployments")
	flags.IntVar(&s.replicas, "replicas", 10, "pods of each")
	flags.IntVar(&s.nodes, "nodes", 100, "nodes, which only say that they are ready and their pods run")
	flags.DurationVar(&s.rest, "rest", 30*time.Second, "how long the cluster rests before its memory is read")
	if err := flags.Parse(args); err != nil {
		return err
	}
	debug.SetGCPercent(cheapGarbage)
	t := &table{}
	defer func() { err = errors.Join(err, t.print(os.Stdout)) }()
	if kubeconfig != "" {
		running, err := parsePIDs(pids)
		if err != nil {
			return err
		}
		return measureControllers(ctx, t, s, kubeconfig, running)
	}
	dir, err := os.MkdirTemp("", "knarr-bench-")
	if err != nil {
		return err
	}
	var c cluster = &controlPlane{machine: machine{binary: knarr, dir: dir, extra: []string{"--disable-node", "--https-port=16443"}}}
	if upstreamDir != "" {
		c = &upstream{bin: upstreamDir, dir: dir, lift: lift}
	}
	defer func() { err = errors.Join(err, c.remove(), os.RemoveAll(dir)) }()
	if err := c.start(); err != nil {
		return err
	}
	if err := awaitReady(ctx, c.kubeconfigFile()); err != nil {
		return err
	}
	return measureControllers(ctx, t, s, c.kubeconfigFile(), c.processes())
}

// controlPlane is a knarr without a node of its own.
type controlPlane struct{ machine }

func (c *controlPlane) start() error {
	binary, err := filepath.Abs(c.binary)
	if err != nil {
		return err
	}
	c.binary = binary
	return c.machine.start()
}
func (c *controlPlane) kubeconfigFile() string { return c.kubeconfig() }
func (c *controlPlane) processes() []int       { return []int{c.pid()} }
func (c *controlPlane) remove() error          { return c.clear() }

// measureControllers times how Deployments become running pods.
func measureControllers(ctx context.Context, t *table, s scale, kubeconfig string, pids []int) error {
	space, err := newNamespace(ctx, kubeconfig)
	if err != nil {
		return err
	}
	defer func() { _ = space.remove(context.WithoutCancel(ctx)) }() // a leftover namespace only costs the next run a conflict
	ctx, stop := context.WithCancel(ctx)
	f, err := newFleet(ctx, kubeconfig, space.name, s.nodes)
	if err != nil {
		stop()
		return err
	}
	defer f.remove()
	defer stop()
	if err := wait(ctx, s.rest); err != nil {
		return err
	}
	all := family(pids)
	before, err := usageOf(all)
	if err != nil {
		return err
	}
	ownBefore, err := usageOf([]int{os.Getpid()})
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := createDeployments(ctx, kubeconfig, space.name, s); err != nil {
		return err
	}
	t.add(fmt.Sprintf("%d Deployments created", s.deployments), fmt.Sprintf("%.1f s", time.Since(begin).Seconds()))
	for _, stage := range []*milestone{&f.exist, &f.bound, &f.running} {
		took, err := stage.reach(ctx, s.pods(), begin)
		if err != nil {
			return err
		}
		t.add(fmt.Sprintf("%d pods %s", s.pods(), stage.name), fmt.Sprintf("%.1f s, %.0f pods/s", took.Seconds(), float64(s.pods())/took.Seconds()))
	}
	if err := awaitAvailable(ctx, f.client, space.name, s); err != nil {
		return err
	}
	took := time.Since(begin)
	t.add("all Deployments say so", fmt.Sprintf("%.1f s, %.0f pods/s", took.Seconds(), float64(s.pods())/took.Seconds()))
	if len(all) == 0 {
		return nil
	}
	busy, err := usageOf(all)
	if err != nil {
		return err
	}
	own, err := usageOf([]int{os.Getpid()})
	if err != nil {
		return err
	}
	if err := wait(ctx, s.rest); err != nil {
		return err
	}
	after, err := usageOf(all)
	if err != nil {
		return err
	}
	cpu := float64(busy.ticks-before.ticks) / ticksPerSecond
	t.add("CPU of the cluster", fmt.Sprintf("%.1f s, %.2f ms a pod", cpu, cpu*1000/float64(s.pods())))
	t.add("CPU of the played nodes", fmt.Sprintf("%.1f s", float64(own.ticks-ownBefore.ticks)/ticksPerSecond))
	t.add("memory before, after", fmt.Sprintf("PSS %.0f MiB, %.0f MiB", float64(before.pss)/1024, float64(after.pss)/1024))
	t.add("memory of 1000 pods", fmt.Sprintf("%.1f MiB", float64(after.pss-before.pss)/1024*1000/float64(s.pods())))
	return nil
}

// createDeployments sends them over a few connections, as fast as they are taken.
func createDeployments(ctx context.Context, kubeconfig, namespace string, s scale) error {
	client, err := connectBinary(kubeconfig)
	if err != nil {
		return err
	}
	var next atomic.Int32
	var group sync.WaitGroup
	errs := make([]error, 8)
	for w := range errs {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= s.deployments || errs[w] != nil {
					return
				}
				errs[w] = client.AppsV1().RESTClient().Post().Namespace(namespace).Resource("deployments").Body(newDeployment(i, s.replicas)).Do(ctx).Error()
			}
		})
	}
	group.Wait()
	return errors.Join(errs...)
}

func newDeployment(i, replicas int) *appsv1.Deployment {
	name := fmt.Sprintf("bench-%04d", i)
	labels := map[string]string{"app": name}
	size := int32(replicas)
	template := pod("", "bench:1").Spec
	template.NodeSelector = map[string]string{fleetLabel: "true"}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &size, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: template},
		},
	}
}

// awaitAvailable looks twice a second: what the last of a thousand objects says matters to a half second only.
func awaitAvailable(ctx context.Context, client kubernetes.Interface, namespace string, s scale) error {
	ctx, cancel := context.WithTimeout(ctx, podTimeout)
	defer cancel()
	for {
		list, err := client.AppsV1().Deployments(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
		if err != nil {
			return err
		}
		done := 0
		for _, d := range list.Items {
			if d.Status.AvailableReplicas == int32(s.replicas) && d.Status.ObservedGeneration == d.Generation {
				done++
			}
		}
		if done == s.deployments {
			return nil
		}
		if err := wait(ctx, 500*time.Millisecond); err != nil {
			return fmt.Errorf("%d of %d Deployments are available: %w", done, s.deployments, err)
		}
	}
}

// awaitReady asks every 50 ms: nothing tells when a port that does not exist yet will.
func awaitReady(ctx context.Context, kubeconfig string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		client, err := connect(kubeconfig)
		if err == nil {
			if err = client.RESTClient().Get().AbsPath("/readyz").Do(ctx).Error(); err == nil {
				return nil
			}
		}
		if wait(ctx, 50*time.Millisecond) != nil {
			return fmt.Errorf("API not ready: %w", err)
		}
	}
}

// connectBinary makes a client that speaks protobuf, as upstream's nodes do.
func connectBinary(kubeconfig string) (*kubernetes.Clientset, error) {
	cfg, err := clientConfig(kubeconfig)
	if err != nil {
		return nil, err
	}
	cfg.ContentType, cfg.AcceptContentTypes = runtime.ContentTypeProtobuf, runtime.ContentTypeProtobuf+","+runtime.ContentTypeJSON
	return kubernetes.NewForConfig(cfg)
}

// milestone counts pods on their way past a point.
type milestone struct {
	name string

	mu      sync.Mutex
	passed  map[string]bool
	goal    int
	reached chan struct{}
	at      time.Time
}

// pass notes a pod; it says whether it is the first time.
func (m *milestone) pass(pod string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.passed[pod] {
		return false
	}
	m.passed[pod] = true
	m.at = time.Now()
	if len(m.passed) == m.goal {
		close(m.reached)
	}
	return true
}

// reach waits until so many pods have passed and returns when the last of them did.
func (m *milestone) reach(ctx context.Context, goal int, begin time.Time) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*podTimeout)
	defer cancel()
	m.mu.Lock()
	there := len(m.passed) >= goal
	m.goal, m.reached = goal, make(chan struct{})
	reached := m.reached
	m.mu.Unlock()
	if !there {
		select {
		case <-reached:
		case <-ctx.Done():
			m.mu.Lock()
			defer m.mu.Unlock()
			return 0, fmt.Errorf("%d of %d pods %s: %w", len(m.passed), goal, m.name, ctx.Err())
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at.Sub(begin), nil
}

func ignoreMissing(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
