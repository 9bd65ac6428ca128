package attach

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func disk(modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: corev1.PersistentVolumeSpec{
		AccessModes:            append(modes, corev1.ReadWriteOnce),
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "d", VolumeHandle: "h"}},
	}}
}

func TestJudge(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	on := func(node string) *storagev1.VolumeAttachment { return attachment(disk(), node) }
	leaving := on("a")
	leaving.DeletionTimestamp = &metav1.Time{Time: now}
	using := &corev1.Node{Status: corev1.NodeStatus{VolumesInUse: []corev1.UniqueVolumeName{"kubernetes.io/csi/d^other", "kubernetes.io/csi/d^h"}}}
	silent := func(since time.Duration) *corev1.Node {
		n := using.DeepCopy()
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionUnknown, LastTransitionTime: metav1.NewTime(now.Add(-since))}}
		return n
	}
	byHand := on("a")
	byHand.Name = "mine"
	dead := using.DeepCopy()
	dead.Spec.Taints = []corev1.Taint{{Key: corev1.TaintNodeOutOfService}}
	pod := want{pod: &corev1.Pod{}, volume: disk()}
	type does struct {
		Attach, Detach, Tell int
		Waits                bool
	}
	tests := map[string]struct {
		node        *corev1.Node
		wanted      []want
		attachments []*storagev1.VolumeAttachment
		does        does
	}{
		"a volume a pod needs is attached once":               {node: &corev1.Node{}, wanted: []want{pod, pod}, does: does{Attach: 1}},
		"one that is attached already stays":                  {node: using, wanted: []want{pod}, attachments: []*storagev1.VolumeAttachment{on("a")}},
		"one that is being detached is waited for":            {node: &corev1.Node{}, wanted: []want{pod}, attachments: []*storagev1.VolumeAttachment{leaving}},
		"one that is on another node is waited for":           {node: &corev1.Node{}, wanted: []want{pod}, attachments: []*storagev1.VolumeAttachment{on("b")}, does: does{Tell: 1, Waits: true}},
		"a shared one may be on both":                         {node: &corev1.Node{}, wanted: []want{{pod: &corev1.Pod{}, volume: disk(corev1.ReadWriteMany)}}, attachments: []*storagev1.VolumeAttachment{on("b")}, does: does{Attach: 1}},
		"one nobody needs is detached":                        {node: &corev1.Node{}, attachments: []*storagev1.VolumeAttachment{on("a"), on("b")}, does: does{Detach: 1}},
		"what somebody attached by hand is theirs":            {node: &corev1.Node{}, attachments: []*storagev1.VolumeAttachment{byHand}},
		"not while it is mounted":                             {node: using, attachments: []*storagev1.VolumeAttachment{on("a")}, does: does{Waits: true}},
		"not from a node that was silent for five minutes":    {node: silent(5 * time.Minute), attachments: []*storagev1.VolumeAttachment{on("a")}, does: does{Waits: true}},
		"but from one that was silent for six":                {node: silent(6 * time.Minute), attachments: []*storagev1.VolumeAttachment{on("a")}, does: does{Detach: 1}},
		"and from one an administrator has declared dead":     {node: dead, attachments: []*storagev1.VolumeAttachment{on("a")}, does: does{Detach: 1}},
		"a node that left the cluster has nothing attached":   {attachments: []*storagev1.VolumeAttachment{on("a")}, does: does{Detach: 1}},
		"nothing is attached to a node that left":             {wanted: []want{pod}},
		"what is being detached is not asked for again to go": {node: &corev1.Node{}, attachments: []*storagev1.VolumeAttachment{leaving}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := judge(view{name: "a", node: tc.node, wanted: tc.wanted, attachments: tc.attachments}, now)
			got := does{Attach: len(d.attach), Detach: len(d.detach), Tell: len(d.tell), Waits: d.waits > 0}
			if diff := cmp.Diff(tc.does, got); diff != "" {
				t.Errorf("decision (-want +got):\n%s", diff)
			}
			for _, a := range d.detach {
				if a.Spec.NodeName != "a" {
					t.Errorf("detached from node %s", a.Spec.NodeName)
				}
			}
		})
	}
}
