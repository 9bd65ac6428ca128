package plugins

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

// VolumeZones keeps a pod in the zones its volumes are labeled with.
type VolumeZones struct{}

// Name of the rule.
func (VolumeZones) Name() string { return "VolumeZone" }

// zoneLabels are the labels by which volumes and nodes say where they are, the old names with what they are called now.
var zoneLabels = map[string]string{
	corev1.LabelTopologyZone:            corev1.LabelTopologyZone,
	corev1.LabelTopologyRegion:          corev1.LabelTopologyRegion,
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
}

// placeOf is where a volume can be reached: a label and its values.
type placeOf struct {
	label  string
	values []string
}

// Filter implements Filterer.
func (VolumeZones) Filter(pod *snapshot.Pod, snap *snapshot.Snapshot) (Filter, *Refusal) {
	var places []placeOf
	for _, wanted := range pod.Claims {
		claim := snap.Claim(pod.Object.Namespace, wanted.Name)
		if claim == nil || claim.Spec.VolumeName == "" {
			continue // VolumeBinding has its say about these
		}
		v := snap.Volume(claim.Spec.VolumeName)
		if v == nil {
			continue
		}
		for label := range zoneLabels {
			if value, has := v.Object.Labels[label]; has {
				places = append(places, placeOf{label, strings.Split(value, "__")}) // volumes of several zones name them so
			}
		}
	}
	if len(places) == 0 {
		return nil, nil
	}
	refusal := &Refusal{Reasons: []string{"node(s) had no available volume zone"}, Final: true}
	return func(n *snapshot.Node) *Refusal {
		if !zoned(n.Object) {
			return nil // a cluster that knows no zones has labels on its volumes at most
		}
		for _, p := range places {
			value, has := n.Label(p.label)
			if !has {
				value, has = n.Label(zoneLabels[p.label])
			}
			if !has || !slices.Contains(p.values, value) {
				return refusal
			}
		}
		return nil
	}, nil
}

func zoned(node *corev1.Node) bool {
	for label := range zoneLabels {
		if _, has := node.Labels[label]; has {
			return true
		}
	}
	return false
}

// Helps implements Filterer.
func (VolumeZones) Helps(pod *snapshot.Pod, snap *snapshot.Snapshot, change snapshot.Change) bool {
	return Volumes{}.Helps(pod, snap, change)
}
