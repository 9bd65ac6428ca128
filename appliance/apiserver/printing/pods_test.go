package printing

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestSummarize(t *testing.T) {
	running := corev1.ContainerStatus{Name: "main", Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
	waiting := func(reason string) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "main", RestartCount: 3, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}}
	}
	ended := func(reason string, code int32) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: "main", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, ExitCode: code}}}
	}
	tests := map[string]struct {
		pod    corev1.Pod
		status string
		ready  string
	}{
		"a new pod is what its phase says": {
			pod: corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending}}, status: "Pending", ready: "0/1",
		},
		"a ready container runs": {
			pod:    corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{running}}},
			status: "Running", ready: "1/1",
		},
		"a container that fails again and again shows why": {
			pod:    corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{waiting("CrashLoopBackOff")}}},
			status: "CrashLoopBackOff", ready: "0/1",
		},
		"a done pod is completed": {
			pod:    corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: []corev1.ContainerStatus{ended("Completed", 0)}}},
			status: "Completed", ready: "0/1",
		},
		"an exit without a reason shows its code": {
			pod:    corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodFailed, ContainerStatuses: []corev1.ContainerStatus{ended("", 2)}}},
			status: "ExitCode:2", ready: "0/1",
		},
		"a deleted pod terminates": {
			pod:    corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}, Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{running}}},
			status: "Terminating", ready: "1/1",
		},
		"a deleted pod that is done stays done": {
			pod:    corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &metav1.Time{}}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded, ContainerStatuses: []corev1.ContainerStatus{ended("Completed", 0)}}},
			status: "Completed", ready: "0/1",
		},
		"init containers count until they are done": {
			pod: corev1.Pod{
				Spec:   corev1.PodSpec{InitContainers: []corev1.Container{{Name: "a"}, {Name: "b"}}},
				Status: corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{ended("Completed", 0), {Name: "b"}}},
			},
			status: "Init:1/2", ready: "0/1",
		},
		"a failing init container shows why": {
			pod: corev1.Pod{
				Spec:   corev1.PodSpec{InitContainers: []corev1.Container{{Name: "a"}}},
				Status: corev1.PodStatus{Phase: corev1.PodPending, InitContainerStatuses: []corev1.ContainerStatus{ended("Error", 1)}},
			},
			status: "Init:Error", ready: "0/1",
		},
		"a running sidecar is one of the containers": {
			pod: corev1.Pod{
				Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "side", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways)}}},
				Status: corev1.PodStatus{Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{running}, InitContainerStatuses: []corev1.ContainerStatus{
					{Name: "side", Started: ptr.To(true), Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
				}},
			},
			status: "Running", ready: "2/2",
		},
		"a pod at a gate says so": {
			pod: corev1.Pod{Status: corev1.PodStatus{Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
				{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated},
			}}},
			status: "SchedulingGated", ready: "0/1",
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			tc.pod.Spec.Containers = []corev1.Container{{Name: "main"}}
			cells := podCells(&tc.pod, time.Now())
			if cells[0] != tc.ready || cells[1] != tc.status {
				t.Errorf("ready %v, status %v; want %s, %s", cells[0], cells[1], tc.ready, tc.status)
			}
		})
	}
}

func TestTablesHaveACellForEveryColumn(t *testing.T) {
	list := &corev1.NodeList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}, Items: []corev1.Node{{ObjectMeta: metav1.ObjectMeta{
		Name: "one", Labels: map[string]string{"node-role.kubernetes.io/control-plane": ""},
	}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}}}}}
	made, err := Nodes().ConvertToTable(context.Background(), list, &metav1.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := []any{"one", "Ready", "control-plane", "<unknown>", "", "<none>", "<none>", "<unknown>", "<unknown>", "<unknown>"}
	if diff := cmp.Diff(want, made.Rows[0].Cells); diff != "" {
		t.Errorf("cells (-want +got):\n%s", diff)
	}
	if len(made.ColumnDefinitions) != len(want) || made.ResourceVersion != "7" {
		t.Errorf("%d columns at version %s, want %d at 7", len(made.ColumnDefinitions), made.ResourceVersion, len(want))
	}
	if bare, err := Nodes().ConvertToTable(context.Background(), list, &metav1.TableOptions{NoHeaders: true}); err != nil || bare.ColumnDefinitions != nil {
		t.Errorf("without headers: %v, %v", bare.ColumnDefinitions, err)
	}
}
