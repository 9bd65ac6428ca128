package admission

import (
	"context"
	"slices"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission"
)

// protections are the finalizers that keep storage objects as long as something uses them. Controllers take them away
// (workloads/protection).
var protections = map[string]string{
	"persistentvolumeclaims":  "kubernetes.io/pvc-protection",
	"persistentvolumes":       "kubernetes.io/pv-protection",
	"volumeattributesclasses": "kubernetes.io/vac-protection",
}

// protectUsedStorage puts the finalizer on new storage objects.
func protectUsedStorage() *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"persistentvolumeclaims", "persistentvolumes", "volumeattributesclasses"},
		admit: func(_ context.Context, a admission.Attributes) error {
			m, err := meta.Accessor(a.GetObject())
			if err != nil {
				return err
			}
			finalizer := protections[a.GetResource().Resource]
			if !slices.Contains(m.GetFinalizers(), finalizer) {
				m.SetFinalizers(append(m.GetFinalizers(), finalizer))
			}
			return nil
		},
	}
}
