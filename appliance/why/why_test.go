package why

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func list(cpu, memory, pods string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for name, amount := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory, corev1.ResourcePods: pods} {
		if amount != "" {
			l[name] = resource.MustParse(amount)
		}
	}
	return l
}

func node(name, cpu string, changes ...func(*corev1.Node)) corev1.Node {
	n := corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}},
		Status:     corev1.NodeStatus{Allocatable: list(cpu, "8Gi", "110"), Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
	for _, change := range changes {
		change(&n)
	}
	return n
}

func pod(name, cpu string, changes ...func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(now.Add(-12 * time.Minute))},
		Spec: corev1.PodSpec{
			SchedulerName: corev1.DefaultSchedulerName,
			Containers:    []corev1.Container{{Name: "app", Image: "app:1", Resources: corev1.ResourceRequirements{Requests: list(cpu, "", "")}}},
		},
		Status: corev1.PodStatus{Phase: corev1.PodPending},
	}
	for _, change := range changes {
		change(p)
	}
	return p
}

func on(node string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.NodeName = node }
}

func told(message string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Message: message, LastTransitionTime: metav1.NewTime(now.Add(-time.Minute))})
	}
}

func container(s corev1.ContainerStatus) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		s.Name = "app"
		p.Status.ContainerStatuses = []corev1.ContainerStatus{s}
	}
}

func waitingFor(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

func endedWith(code int32, reason string) corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: metav1.NewTime(now.Add(-90 * time.Second)), FinishedAt: metav1.NewTime(now.Add(-30 * time.Second))}}
}

func event(reason, message string) corev1.Event {
	return corev1.Event{Type: corev1.EventTypeWarning, Reason: reason, Message: message, LastTimestamp: metav1.NewTime(now.Add(-10 * time.Second)), InvolvedObject: corev1.ObjectReference{Kind: "ReplicaSet", Name: "web"}}
}

func taint(key string) func(*corev1.Node) {
	return func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectNoSchedule})
	}
}

func cordoned(n *corev1.Node) { n.Spec.Unschedulable = true }

func away(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionFalse }

func TestExplain(t *testing.T) {
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(now.Add(-time.Minute))}}
	tests := map[string]struct {
		facts Facts
		want  []string // all of it is said
		not   []string
	}{
		"a pod nobody may make because of a quota": {
			facts: Facts{Owners: []Owner{{Kind: "ReplicaSet", Name: "web", Said: []corev1.Event{event("FailedCreate", `pods "web-x" is forbidden: exceeded quota: small`)}}}},
			want:  []string{"ReplicaSet web could not make it", "exceeded quota: small", "describe quota"},
		},
		"a pod nobody has heard of": {
			want: []string{"There is no pod web", "nobody complains", "get pods -A"},
		},
		"a pod with gates": {
			facts: Facts{Pod: pod("web", "1", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/queue"}} }), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"held back by 1 scheduling gate", "example.com/queue", "12 min"},
		},
		"a cluster without nodes": {
			facts: Facts{Pod: pod("web", "1")},
			want:  []string{"the cluster has none", "knarr agent"},
		},
		"no room, and which node lacks least": {
			facts: Facts{Pod: pod("web", "2"), Nodes: []corev1.Node{node("a", "1"), node("b", "4")}, Pods: []corev1.Pod{*pod("db", "2500m", on("b"))}},
			want:  []string{"none of 2 will do", "2  Insufficient cpu  a, b", "Node b lacks 500m of cpu", "asks for 2, 1500m of 4", "nobody can be sent away"},
			not:   []string{"more than node a has"},
		},
		"a pod too large for every node": {
			facts: Facts{Pod: pod("web", "9"), Nodes: []corev1.Node{node("a", "1"), node("b", "4")}},
			want:  []string{"more than node a has at all", "add a larger node"},
		},
		"one command would do": {
			facts: Facts{Pod: pod("web", "2"), Nodes: []corev1.Node{node("a", "1"), node("b", "4", cordoned)}},
			want:  []string{"kubectl uncordon b", "1  Insufficient cpu", "1  node(s) were unschedulable"},
			not:   []string{"Node a lacks"},
		},
		"a taint of the administrator's": {
			facts: Facts{Pod: pod("web", "1"), Nodes: []corev1.Node{node("a", "4", taint("own"))}},
			want:  []string{"tolerate the taint own:NoSchedule", "kubectl taint node a own:NoSchedule-"},
		},
		"a node in trouble": {
			facts: Facts{Pod: pod("web", "1"), Nodes: []corev1.Node{node("a", "4", taint(corev1.TaintNodeDiskPressure))}},
			want:  []string{"Node a is short of disk space"}, not: []string{"Let the pod tolerate"},
		},
		"a label nobody has": {
			facts: Facts{Pod: pod("web", "1", func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"kubectl label node a disk=ssd"},
		},
		"a port that is taken": {
			facts: Facts{Pod: pod("web", "1", hostPort), Nodes: []corev1.Node{node("a", "4")}, Pods: []corev1.Pod{*pod("old", "1", on("a"), hostPort)}},
			want:  []string{"Free the host port 80/TCP on node a, which is taken by shop/old"},
		},
		"everything one node lacks": {
			facts: Facts{Pod: pod("web", "5"), Nodes: []corev1.Node{node("a", "4", cordoned, taint("own"))}},
			want:  []string{"All of this is needed there", "uncordon a", "taint own", "more than node a has"},
		},
		"a claim that does not exist": {
			facts: Facts{Pod: pod("web", "1", claims("data")), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{`cannot go to any node: persistentvolumeclaim "data" not found`, "does not exist"},
		},
		"a claim that is not bound": {
			facts: Facts{
				Pod: pod("web", "1", claims("data")), Nodes: []corev1.Node{node("a", "4")},
				Claims:    []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"}, Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending}}},
				ClaimNews: map[string]corev1.Event{"data": event("ProvisioningFailed", `storageclass "fast" not found`)},
			},
			want: []string{"unbound immediate PersistentVolumeClaims", `data  Pending  ProvisioningFailed storageclass "fast" not found`},
		},
		"what the scheduler answered about preemption": {
			facts: Facts{Pod: pod("web", "5", told("0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"The scheduler says (1 min ago)", "Preemption\n  0/1 nodes are available: 1 No preemption victims"},
		},
		"a pod that others make room for": {
			facts: Facts{Pod: pod("web", "4", func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" }), Nodes: []corev1.Node{node("a", "4")}, Pods: []corev1.Pod{*pod("old", "1", on("a"), deleted(20*time.Second))}},
			want:  []string{"waits for room on node a", "shop/old  gone at 03:04:25 UTC"},
		},
		"a pod whose devices are being made ready": {
			facts: Facts{Pod: pod("web", "1", func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" }), Nodes: []corev1.Node{node("a", "4"), node("b", "4")}},
			want:  []string{"goes to node a once what it needs there is ready"},
		},
		"a nomination that came to nothing": {
			facts: Facts{Pod: pod("web", "4", func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" }), Nodes: []corev1.Node{node("a", "2")}},
			want:  []string{"none of 1 will do", "more than node a has"},
			not:   []string{"waits for room"},
		},
		"room that is kept for another": {
			facts: Facts{Pod: pod("web", "1"), Nodes: []corev1.Node{node("a", "4")}, Expected: []corev1.Pod{*pod("next", "4", func(p *corev1.Pod) { p.Status.NominatedNodeName = "a" })}},
			want:  []string{"none of 1 will do", "1  room is kept for pods that are to go there  a", "Node a keeps room for shop/next"},
		},
		"an extended resource without devices": {
			facts: Facts{Pod: pod("web", "1", func(p *corev1.Pod) {
				p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
			}), Nodes: []corev1.Node{node("a", "4")}, DeviceClasses: []resourcev1.DeviceClass{{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")}}}},
			want: []string{"1  cannot allocate all claims  a", "has not the devices the pod asks for", "resourceslices"},
			not:  []string{"Insufficient"},
		},
		"a node that would do by now": {
			facts: Facts{Pod: pod("web", "1"), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"node a would do by now", "No scheduler has said anything"},
		},
		"a scheduler nobody runs": {
			facts: Facts{Pod: pod("web", "1", func(p *corev1.Pod) { p.Spec.SchedulerName = "mine" }), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{`asks for the scheduler "mine"`},
		},
		"what one may not read is named": {
			facts: Facts{Pod: pod("web", "1"), Unknown: []string{"nodes could not be read: forbidden"}},
			want:  []string{"waits for a node", "Not known\n  nodes could not be read: forbidden"}, not: []string{"the cluster has none"},
		},
		"an image nobody has": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{Image: "app:9", State: waitingFor("ImagePullBackOff", "Back-off pulling image")})), Nodes: []corev1.Node{node("a", "4")},
				Events: []corev1.Event{event("Failed", `Failed to pull image "app:9": not found`)}},
			want: []string{"the image app:9 of container app is not to be had", "not found", "typing error"},
		},
		"an image that wants credentials": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{State: waitingFor("ErrImagePull", "401 Unauthorized: unauthorized")})), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"imagePullSecrets"},
		},
		"a container that crashes": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{RestartCount: 7, State: waitingFor("CrashLoopBackOff", "back-off"), LastTerminationState: endedWith(3, "Error")})), Nodes: []corev1.Node{node("a", "4")},
				LastLines: map[string]string{"app": "cannot open /data"}},
			want: []string{"7 times so far", "exit code 3 (Error), 30 s ago, after it had run for 1 min", "cannot open /data", "logs web -c app --previous"},
		},
		"a container that needs more memory": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{State: waitingFor("CrashLoopBackOff", ""), LastTerminationState: endedWith(137, "OOMKilled")})), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"OOMKilled", "resources.limits.memory"},
		},
		"a container killed by its probe": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{State: waitingFor("CrashLoopBackOff", ""), LastTerminationState: endedWith(137, "Error")})), Nodes: []corev1.Node{node("a", "4")},
				Events: []corev1.Event{event("Unhealthy", "Liveness probe failed: HTTP probe failed with statuscode: 500")}},
			want: []string{"its liveness probe failed", "statuscode: 500"},
		},
		"a config map that is missing": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{State: waitingFor("CreateContainerConfigError", `configmap "c" not found`)})), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{`configmap "c" not found`, "Create what is not found"},
		},
		"volumes that cannot be mounted": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{State: waitingFor("ContainerCreating", "")})), Nodes: []corev1.Node{node("a", "4")},
				Events: []corev1.Event{event("FailedMount", `secret "s" not found`)}},
			want: []string{"its volumes are not there yet", `secret "s" not found`},
		},
		"an init container that does not end": {
			facts: Facts{Pod: pod("web", "1", on("a"), func(p *corev1.Pod) {
				p.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "one", State: endedWith(0, "Completed")}, {Name: "two", State: running}}
			}), Nodes: []corev1.Node{node("a", "4")}},
			want: []string{"waits for init container two (2 of 2), which has run for 1 min", "logs web -c two"},
		},
		"a probe that does not succeed": {
			facts: Facts{Pod: pod("web", "1", on("a"), notYet, container(corev1.ContainerStatus{State: running})), Nodes: []corev1.Node{node("a", "4")},
				Events: []corev1.Event{event("Unhealthy", "Readiness probe failed: connection refused")}},
			want: []string{"runs but gets no requests: the readiness probe of container app", "connection refused"},
		},
		"a startup probe that does not succeed": {
			facts: Facts{Pod: pod("web", "1", on("a"), notYet, container(corev1.ContainerStatus{State: running, Started: ptr.To(false)})), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"the startup probe of container app"},
		},
		"a readiness gate": {
			facts: Facts{Pod: pod("web", "1", on("a"), notYet, container(corev1.ContainerStatus{State: running, Ready: true}), func(p *corev1.Pod) {
				p.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/balanced"}}
			}), Nodes: []corev1.Node{node("a", "4")}},
			want: []string{"a readiness gate is not open", "example.com/balanced"},
		},
		"a node that is away": {
			facts: Facts{Pod: pod("web", "1", on("a")), Nodes: []corev1.Node{node("a", "4", away)}},
			want:  []string{"on node a, which is not ready"},
		},
		"a node that is gone": {
			facts: Facts{Pod: pod("web", "1", on("a"))},
			want:  []string{"on node a, which no longer exists"},
		},
		"a finalizer": {
			facts: Facts{Pod: pod("web", "1", on("a"), deleted(-time.Hour), func(p *corev1.Pod) { p.Finalizers = []string{"example.com/keep"} }), Nodes: []corev1.Node{node("a", "4")}},
			want:  []string{"should have been gone for 1 h 0 min", "example.com/keep"},
		},
		"a pod on a dead node that cannot go": {
			facts: Facts{Pod: pod("web", "1", on("a"), deleted(-time.Hour)), Nodes: []corev1.Node{node("a", "4", away)}},
			want:  []string{"--grace-period=0 --force"},
		},
		"a pod that was evicted": {
			facts: Facts{Pod: pod("web", "1", on("a"), func(p *corev1.Pod) {
				p.Status = corev1.PodStatus{Phase: corev1.PodFailed, Reason: "Evicted", Message: "The node was low on resource: memory."}
			})},
			want: []string{"has failed: Evicted. The node was low", "requests"},
		},
		"a pod that is done": {
			facts: Facts{Pod: pod("web", "1", on("a"), func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })},
			want:  []string{"is done"},
		},
		"a pod that is well": {
			facts: Facts{Pod: pod("web", "1", on("a"), container(corev1.ContainerStatus{State: running, Ready: true}), func(p *corev1.Pod) {
				p.Status.Phase = corev1.PodRunning
				p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
			}), Nodes: []corev1.Node{node("a", "4")}},
			want: []string{"runs on node a and is ready"}, not: []string{"What to do"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.facts.Now, tc.facts.Namespace, tc.facts.Name = now, "shop", "web"
			report, err := Explain(&tc.facts)
			if err != nil {
				t.Fatal(err)
			}
			var out strings.Builder
			if err := report.Print(&out); err != nil {
				t.Fatal(err)
			}
			for _, words := range tc.want {
				if !strings.Contains(out.String(), words) {
					t.Errorf("%q is not said", words)
				}
			}
			for _, words := range tc.not {
				if strings.Contains(out.String(), words) {
					t.Errorf("%q is said", words)
				}
			}
			if t.Failed() {
				t.Logf("it says\n%s", out.String())
			}
		})
	}
}

func hostPort(p *corev1.Pod) {
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80, Protocol: corev1.ProtocolTCP}}
}

func claims(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: name, VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}}
	}
}

func deleted(in time.Duration) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.DeletionTimestamp = ptr.To(metav1.NewTime(now.Add(in))) }
}

func notYet(p *corev1.Pod) {
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = append(p.Status.Conditions, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse})
}
