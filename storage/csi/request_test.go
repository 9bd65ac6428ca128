package csi

import (
	"strings"
	"testing"

	csiv1 "github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestAccessMode(t *testing.T) {
	const (
		once, only, many, pod = corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod
	)
	tests := map[string]struct {
		modes  []corev1.PersistentVolumeAccessMode
		single bool
		want   csiv1.VolumeCapability_AccessMode_Mode
	}{
		"one node": {modes: []corev1.PersistentVolumeAccessMode{once}, want: csiv1.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		"one node, for a driver that counts pods": {modes: []corev1.PersistentVolumeAccessMode{once}, single: true, want: csiv1.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
		"one pod": {modes: []corev1.PersistentVolumeAccessMode{pod}, single: true, want: csiv1.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
		"one pod, for a driver that does not count them": {modes: []corev1.PersistentVolumeAccessMode{pod}, want: csiv1.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		"many read":                {modes: []corev1.PersistentVolumeAccessMode{only}, want: csiv1.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		"many read and one writes": {modes: []corev1.PersistentVolumeAccessMode{once, only}, want: csiv1.VolumeCapability_AccessMode_MULTI_NODE_SINGLE_WRITER},
		"many write":               {modes: []corev1.PersistentVolumeAccessMode{once, many}, want: csiv1.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := accessMode(tc.modes, tc.single); got != tc.want {
				t.Errorf("accessMode() = %v; want %v", got, tc.want)
			}
		})
	}
}

func TestWhoseFilesTheyAre(t *testing.T) {
	policy := func(p storagev1.FSGroupPolicy) *storagev1.CSIDriver {
		return about(func(s *storagev1.CSIDriverSpec) { s.FSGroupPolicy = &p })
	}
	tests := map[string]struct {
		about  *storagev1.CSIDriver
		change func(*Volume)
		want   bool
	}{
		"one node's volume with a filesystem":   {want: true},
		"without a filesystem nobody knows":     {change: func(v *Volume) { v.PV.Spec.CSI.FSType = "" }},
		"shared volumes are left alone":         {change: func(v *Volume) { v.PV.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany} }},
		"what is only read is left alone":       {change: func(v *Volume) { v.ReadOnly = true }},
		"a driver may ask for it always":        {about: policy(storagev1.FileFSGroupPolicy), change: func(v *Volume) { v.PV.Spec.CSI.FSType = "" }, want: true},
		"a driver may ask for it never":         {about: policy(storagev1.NoneFSGroupPolicy)},
		"a device has no files":                 {about: policy(storagev1.FileFSGroupPolicy), change: func(v *Volume) { v.PV.Spec.VolumeMode = ptr.To(corev1.PersistentVolumeBlock) }},
		"a driver that says nothing is default": {about: about(nil), want: true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			v := volume()
			if tc.change != nil {
				tc.change(&v)
			}
			if got := v.ownedByGroup(tc.about); got != tc.want {
				t.Errorf("ownedByGroup() = %v", got)
			}
		})
	}
}

func TestLabelsOf(t *testing.T) {
	info := &csiv1.NodeGetInfoResponse{NodeId: "n1", AccessibleTopology: &csiv1.Topology{Segments: map[string]string{"rack": "r1"}}}
	node := func(label, ids string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{}, Annotations: map[string]string{}}}
		if label != "" {
			n.Labels["rack"] = label
		}
		if ids != "" {
			n.Annotations[nodeIDs] = ids
		}
		return n
	}
	tests := map[string]struct {
		node      *corev1.Node
		want, err string
	}{
		"a new driver is shown":                {node: node("", ""), want: `{"metadata":{"annotations":{"csi.volume.kubernetes.io/nodeid":"{\"a\":\"n1\"}"},"labels":{"rack":"r1"}}}`},
		"beside another one":                   {node: node("r1", `{"b":"n2"}`), want: `{"metadata":{"annotations":{"csi.volume.kubernetes.io/nodeid":"{\"a\":\"n1\",\"b\":\"n2\"}"},"labels":{}}}`},
		"what is shown is not shown again":     {node: node("r1", `{"a":"n1"}`)},
		"a node does not move to another rack": {node: node("r2", ""), err: "collision"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := labelsOf(tc.node, "a", info)
			if string(got) != tc.want || (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("labelsOf() = %s, %v", got, err)
			}
		})
	}
}
