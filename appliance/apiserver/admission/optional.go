package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// alwaysPullImages makes every new pod show on its node that it may have its images, even ones that are there already:
// otherwise whoever knows the name of a private image can run it where somebody else did.
func alwaysPullImages() *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"pods"},
		admit: func(_ context.Context, a admission.Attributes) error {
			pod, err := object[*corev1.Pod](a)
			if err != nil {
				return err
			}
			for _, p := range pullPolicies(&pod.Spec) {
				*p.policy = corev1.PullAlways
			}
			return nil
		},
		validate: func(_ context.Context, a admission.Attributes) error {
			pod, err := object[*corev1.Pod](a)
			if err != nil {
				return err
			}
			for _, p := range pullPolicies(&pod.Spec) {
				if *p.policy != corev1.PullAlways { // a webhook or a policy changed it again
					return admission.NewForbidden(a, fmt.Errorf("%s: Unsupported value: %q: supported values: %q", p.path, *p.policy, corev1.PullAlways))
				}
			}
			return nil
		},
	}
}

// pullPolicy is one of a pod, and its field.
type pullPolicy struct {
	path   string
	policy *corev1.PullPolicy
}

func pullPolicies(spec *corev1.PodSpec) []pullPolicy {
	var all []pullPolicy
	for i := range spec.InitContainers {
		all = append(all, pullPolicy{fmt.Sprintf("spec.initContainers[%d].imagePullPolicy", i), &spec.InitContainers[i].ImagePullPolicy})
	}
	for i := range spec.Containers {
		all = append(all, pullPolicy{fmt.Sprintf("spec.containers[%d].imagePullPolicy", i), &spec.Containers[i].ImagePullPolicy})
	}
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			all = append(all, pullPolicy{fmt.Sprintf("spec.volumes[%d].image.pullPolicy", i), &image.PullPolicy})
		}
	}
	return all
}

// denyExternalIPs lets nobody add addresses to spec.externalIPs of a service, with which traffic to any address can be
// taken (CVE-2020-8554). Those it has may stay and go.
func denyExternalIPs() *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		on:      []string{"services"},
		validate: func(_ context.Context, a admission.Attributes) error {
			service, err := object[*corev1.Service](a)
			if err != nil {
				return err
			}
			var had []string
			if old, ok := a.GetOldObject().(*corev1.Service); ok && old != nil {
				had = old.Spec.ExternalIPs
			}
			for _, ip := range service.Spec.ExternalIPs {
				if !slices.Contains(had, ip) {
					return admission.NewForbidden(a, errors.New("spec.externalIPs: Forbidden: Use of external IPs is denied by admission control"))
				}
			}
			return nil
		},
	}
}
