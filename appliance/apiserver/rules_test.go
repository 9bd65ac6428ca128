package apiserver_test

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// inNamespace makes a namespace with an account, for a test that counts what is in it.
func inNamespace(t *testing.T) (*kubernetes.Clientset, string) {
	t.Helper()
	client := admin(t)
	ns, err := client.CoreV1().Namespaces().Create(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "rules-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := addAccount(ns.Name); err != nil {
		t.Fatal(err)
	}
	return client, ns.Name
}

func service(name string) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
		Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}},
	}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "web"}}, Spec: corev1.PodSpec{
		Containers: []corev1.Container{{Name: "main", Image: "web:1"}},
	}}
}

func TestServicesGetAddressesThatStay(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	services := client.CoreV1().Services(ns)
	svc, err := services.Create(ctx, service("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ip, err := netip.ParseAddr(svc.Spec.ClusterIP)
	if err != nil || !netip.MustParsePrefix("10.43.0.0/16").Contains(ip) {
		t.Fatalf("clusterIP = %q, want one of 10.43.0.0/16", svc.Spec.ClusterIP)
	}
	if got := fmt.Sprintf("%v %v %s", svc.Spec.ClusterIPs, svc.Spec.IPFamilies, *svc.Spec.IPFamilyPolicy); got != fmt.Sprintf("[%s] [IPv4] SingleStack", ip) {
		t.Errorf("addresses and families = %s", got)
	}

	// A client that replaces the service without naming its address keeps it.
	again := service("web")
	again.ResourceVersion = svc.ResourceVersion
	again.Spec.Type = corev1.ServiceTypeNodePort
	updated, err := services.Update(ctx, again, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if updated.Spec.ClusterIP != svc.Spec.ClusterIP {
		t.Errorf("clusterIP changed from %s to %s", svc.Spec.ClusterIP, updated.Spec.ClusterIP)
	}
	if port := updated.Spec.Ports[0].NodePort; port < 30000 || port > 32767 {
		t.Errorf("nodePort = %d, want one of 30000-32767", port)
	}
	updated.Spec.ClusterIP, updated.Spec.ClusterIPs = "10.43.77.77", []string{"10.43.77.77"}
	if _, err := services.Update(ctx, updated, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("changing clusterIP: %v, want Invalid", err)
	}
}

func TestTwoServicesNeverShareAnAddress(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	const count = 300
	var group sync.WaitGroup
	addresses := make([]string, count)
	slots := make(chan struct{}, 20)
	for i := range count {
		group.Add(1)
		go func() {
			defer group.Done()
			slots <- struct{}{}
			defer func() { <-slots }()
			svc, err := client.CoreV1().Services(ns).Create(ctx, service(fmt.Sprintf("s%d", i)), metav1.CreateOptions{})
			if err != nil {
				t.Errorf("create service %d: %v", i, err)
				return
			}
			addresses[i] = svc.Spec.ClusterIP
		}()
	}
	group.Wait()
	seen := map[string]bool{}
	for _, address := range addresses {
		if seen[address] {
			t.Errorf("address %q was given away twice", address)
		}
		seen[address] = true
	}

	// A deleted service's address can be had again, at once and by name.
	wanted := addresses[0]
	taken := service("again")
	taken.Spec.ClusterIP = wanted
	if _, err := client.CoreV1().Services(ns).Create(ctx, taken, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("asking for %s, which is taken: %v, want Invalid", wanted, err)
	}
	if err := client.CoreV1().Services(ns).Delete(ctx, "s0", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Services(ns).Create(ctx, taken, metav1.CreateOptions{}); err != nil {
		t.Errorf("asking for %s, which was given back: %v", wanted, err)
	}
}

func TestNodePortsAreGivenBack(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	services := client.CoreV1().Services(ns)
	first := service("first")
	first.Spec.Type = corev1.ServiceTypeNodePort
	first.Spec.Ports[0].NodePort = 30042
	created, err := services.Create(ctx, first, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := service("second")
	second.Spec.Type = corev1.ServiceTypeNodePort
	second.Spec.Ports[0].NodePort = 30042
	if _, err := services.Create(ctx, second, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Fatalf("a node port that is taken: %v, want Invalid", err)
	}
	created.Spec.Type = corev1.ServiceTypeClusterIP
	if created, err = services.Update(ctx, created, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("back to ClusterIP: %v", err)
	}
	if created.Spec.Ports[0].NodePort != 0 {
		t.Errorf("nodePort = %d on a ClusterIP service", created.Spec.Ports[0].NodePort)
	}
	if _, err := services.Create(ctx, second, metav1.CreateOptions{}); err != nil {
		t.Errorf("the node port was not given back: %v", err)
	}
	headless := service("headless")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	if got, err := services.Create(ctx, headless, metav1.CreateOptions{}); err != nil || got.Spec.ClusterIP != corev1.ClusterIPNone {
		t.Errorf("headless service: %v, clusterIP %q", err, got.Spec.ClusterIP)
	}
}

func TestServicesUseTheRangesThatWereAdded(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	chosen := service("chosen")
	chosen.Spec.ClusterIP = "10.98.0.4"
	if _, err := client.CoreV1().Services(ns).Create(ctx, chosen, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Fatalf("an address of no range: %v, want Invalid", err)
	}
	added := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.98.0.0/28"}}}
	if _, err := client.NetworkingV1().ServiceCIDRs().Create(ctx, added, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second) // allocation reads ranges from a cache
	for {
		_, err := client.CoreV1().Services(ns).Create(ctx, chosen, metav1.CreateOptions{})
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("an address of a range that was added: %v", err)
		}
	}
}

func TestPodsAreCompletedOnTheirWayIn(t *testing.T) {
	t.Parallel()
	client, ns := inNamespace(t)
	got, err := client.CoreV1().Pods(ns).Create(context.Background(), pod("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for what, ok := range map[string]bool{
		"phase is Pending":                     got.Status.Phase == corev1.PodPending,
		"class is BestEffort":                  got.Status.QOSClass == corev1.PodQOSBestEffort,
		"account is default":                   got.Spec.ServiceAccountName == "default",
		"a token is mounted":                   len(got.Spec.Volumes) == 1 && len(got.Spec.Containers[0].VolumeMounts) == 1,
		"priority is 0":                        got.Spec.Priority != nil && *got.Spec.Priority == 0,
		"it may preempt":                       got.Spec.PreemptionPolicy != nil && *got.Spec.PreemptionPolicy == corev1.PreemptLowerPriority,
		"it stays a while on nodes in trouble": len(got.Spec.Tolerations) == 2,
		"its image is pulled if not present":   got.Spec.Containers[0].ImagePullPolicy == corev1.PullIfNotPresent,
		"generation is 1":                      got.Generation == 1,
	} {
		if !ok {
			t.Errorf("not true of the created pod: %s", what)
		}
	}
}

func TestPodsAreBoundOnce(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	pods := client.CoreV1().Pods(ns)
	created, err := pods.Create(ctx, pod("web"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "web", UID: created.UID}, Target: corev1.ObjectReference{Kind: "Node", Name: "one"}}
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	bound, err := pods.Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if bound.Spec.NodeName != "one" || len(bound.Status.Conditions) != 1 || bound.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("bound pod: node %q, conditions %v", bound.Spec.NodeName, bound.Status.Conditions)
	}
	binding.Target.Name = "two"
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("binding it again: %v, want Conflict", err)
	}
	binding.UID = "another"
	if err := pods.Bind(ctx, binding, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("binding a pod of another UID: %v, want Conflict", err)
	}
}

func TestPodsLeaveInTheirOwnTime(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	pods := client.CoreV1().Pods(ns)
	running := pod("running")
	running.Spec.NodeName = "one"
	for _, p := range []*corev1.Pod{pod("waiting"), running} {
		if _, err := pods.Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if err := pods.Delete(ctx, p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := pods.Get(ctx, "waiting", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod without a node is still there after its deletion: %v", err)
	}
	leaving, err := pods.Get(ctx, "running", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if leaving.DeletionTimestamp == nil || leaving.DeletionGracePeriodSeconds == nil || *leaving.DeletionGracePeriodSeconds != 30 {
		t.Errorf("deletion of a running pod: at %v, grace %v; want 30 s", leaving.DeletionTimestamp, leaving.DeletionGracePeriodSeconds)
	}
	if err := pods.Delete(ctx, "running", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "running", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the pod is still there after its node let it go: %v", err)
	}
}

func TestEvictionSpendsTheBudget(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	for _, name := range []string{"a", "b"} {
		p := pod(name)
		p.Spec.NodeName = "one"
		created, err := client.CoreV1().Pods(ns).Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		created.Status.Phase = corev1.PodRunning
		created.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		if _, err := client.CoreV1().Pods(ns).UpdateStatus(ctx, created, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	budgets := client.PolicyV1().PodDisruptionBudgets(ns)
	budget, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	evict := func(name string) error {
		// The usual client would wait and try again ten times, as the answer tells it to.
		return client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name(name).SubResource("eviction").MaxRetries(0).
			Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}}).Do(ctx).Error()
	}
	if err := evict("a"); !apierrors.IsTooManyRequests(err) {
		t.Fatalf("evicting before the budget was counted: %v, want TooManyRequests", err)
	}
	budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 2}
	if _, err := budgets.UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := evict("a"); err != nil {
		t.Fatalf("evicting within the budget: %v", err)
	}
	if err := evict("b"); !apierrors.IsTooManyRequests(err) {
		t.Errorf("evicting beyond the budget: %v, want TooManyRequests", err)
	}
	leaving, err := client.CoreV1().Pods(ns).Get(ctx, "a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if leaving.DeletionTimestamp == nil || leaving.Status.Conditions[len(leaving.Status.Conditions)-1].Type != corev1.DisruptionTarget {
		t.Errorf("the evicted pod does not leave: %v, %v", leaving.DeletionTimestamp, leaving.Status.Conditions)
	}
}

func TestScaleChangesReplicas(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	labels := map[string]string{"app": "web"}
	deployments := client.AppsV1().Deployments(ns)
	if _, err := deployments.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: pod("").Spec,
		}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	scaled, err := deployments.UpdateScale(ctx, "web", &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 3}}, metav1.UpdateOptions{})
	if err != nil || scaled.Spec.Replicas != 3 || scaled.Status.Selector != "app=web" {
		t.Fatalf("scale: %v, %+v", err, scaled)
	}
	got, err := deployments.Get(ctx, "web", metav1.GetOptions{})
	if err != nil || *got.Spec.Replicas != 3 || got.Generation != 2 {
		t.Errorf("deployment after scaling: %v, replicas %v, generation %d", err, got.Spec.Replicas, got.Generation)
	}
	selector := []byte(`{"spec":{"selector":{"matchLabels":{"app":"other"}}}}`)
	if _, err := deployments.Patch(ctx, "web", types.MergePatchType, selector, metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("changing the selector: %v, want Invalid", err)
	}
}

func TestNamespacesEndWhenTheyAreEmpty(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, name := inNamespace(t)
	namespaces := client.CoreV1().Namespaces()
	if err := namespaces.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ending, err := namespaces.Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		t.Fatalf("the namespace is gone before its content: %v", err)
	}
	if ending.Status.Phase != corev1.NamespaceTerminating || ending.DeletionTimestamp == nil {
		t.Errorf("deleted namespace: phase %s, deletion %v", ending.Status.Phase, ending.DeletionTimestamp)
	}
	deadline := time.Now().Add(10 * time.Second) // the plugin that refuses reads from an informer
	for {
		_, err = client.CoreV1().ConfigMaps(name).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "late-"}}, metav1.CreateOptions{})
		if apierrors.IsForbidden(err) || time.Now().After(deadline) {
			break
		}
	}
	if !apierrors.IsForbidden(err) {
		t.Errorf("creating in an ending namespace: %v, want Forbidden", err)
	}
	ending.Spec.Finalizers = nil
	if _, err := namespaces.Finalize(ctx, ending, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := namespaces.Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the finalized namespace is still there: %v", err)
	}
}

func TestPrioritiesComeFromClasses(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	client, ns := inNamespace(t)
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "rules-high"}, Value: 1000, PreemptionPolicy: ptr.To(corev1.PreemptNever)}
	if _, err := client.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	high := pod("high")
	high.Spec.PriorityClassName = "rules-high"
	got, err := client.CoreV1().Pods(ns).Create(ctx, high, metav1.CreateOptions{})
	if err != nil || *got.Spec.Priority != 1000 || *got.Spec.PreemptionPolicy != corev1.PreemptNever {
		t.Fatalf("pod of class rules-high: %v, priority %v", err, got.Spec.Priority)
	}
	lost := pod("lost")
	lost.Spec.PriorityClassName = "rules-none"
	if _, err := client.CoreV1().Pods(ns).Create(ctx, lost, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("pod of no class: %v, want Forbidden", err)
	}
}
