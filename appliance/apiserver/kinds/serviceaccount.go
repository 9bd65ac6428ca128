package kinds

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// ServiceAccount refers to secrets of its own namespace by name alone.
var ServiceAccount = resource.Hooks[*corev1.ServiceAccount]{
	PrepareCreate: func(_ context.Context, account *corev1.ServiceAccount) { nameOnly(account.Secrets) },
	PrepareUpdate: func(_ context.Context, account, _ *corev1.ServiceAccount) { nameOnly(account.Secrets) },
}

func nameOnly(refs []corev1.ObjectReference) {
	for i := range refs {
		refs[i] = corev1.ObjectReference{Name: refs[i].Name}
	}
}
