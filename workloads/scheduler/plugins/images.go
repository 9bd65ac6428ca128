package plugins

import (
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// Below the smaller size pulling is no matter; above the larger, per container, more makes no difference.
const (
	smallImages = 23 << 20
	largeImages = 1000 << 20
)

// Images prefers nodes that have the pod's images already.
type Images struct{}

// Name of the rule.
func (Images) Name() string { return "ImageLocality" }

// Score implements Scorer. An image counts less the fewer nodes have it, so that one node with a rare image does
// not draw every pod that uses it.
func (Images) Score(pod *snapshot.Pod, snap *snapshot.Snapshot, _ []*snapshot.Node) Score {
	names := imagesOf(pod.Object)
	spread := make([]float64, len(names))
	found := false
	for i, name := range names {
		holders := snap.Holders(name)
		spread[i] = float64(holders) / float64(max(len(snap.Nodes()), 1))
		found = found || holders > 0
	}
	if !found {
		return nil
	}
	largest := int64(largeImages * len(names))
	return func(n *snapshot.Node) int64 {
		var present int64
		for i, name := range names {
			present += int64(float64(n.Images[name]) * spread[i])
		}
		present = min(max(present, smallImages), largest)
		return MaxScore * (present - smallImages) / (largest - smallImages)
	}
}

// Normalize implements Scorer; shares are on the scale already.
func (Images) Normalize([]int64) {}

func imagesOf(pod *corev1.Pod) []string {
	var names []string
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			names = append(names, tagged(containers[i].Image))
		}
	}
	return names
}

// tagged is an image's name as nodes report it: with a tag.
func tagged(name string) string {
	if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") && !strings.Contains(name, "@") {
		return name + ":latest"
	}
	return name
}
