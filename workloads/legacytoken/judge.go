package legacytoken

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	usedLabel    = "kubernetes.io/legacy-token-last-used"
	invalidLabel = "kubernetes.io/legacy-token-invalid-since"

	// unused is how long a token may lie about before it is declared invalid, and again before it is deleted.
	unused = 365 * 24 * time.Hour

	dateFormat = "2006-01-02"
)

// verdict on a Secret.
type verdict int

const (
	keep verdict = iota
	invalidate
	remove
)

// judge decides about a token the cluster made by itself, as clusters did before v1.24: the account lists it. since is
// when the use of tokens began to be noted; before, nobody knows.
func judge(secret *corev1.Secret, account *corev1.ServiceAccount, mounted bool, since, now time.Time) verdict {
	if secret.Type != corev1.SecretTypeServiceAccountToken || secret.DeletionTimestamp != nil || mounted || account == nil {
		return keep
	}
	listed := slices.ContainsFunc(account.Secrets, func(ref corev1.ObjectReference) bool { return ref.Name == secret.Name })
	if !listed || secret.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
		return keep // somebody made it on purpose
	}
	last := since
	if made := secret.CreationTimestamp.Time; made.After(last) {
		last = made
	}
	if text, noted := secret.Labels[usedLabel]; noted {
		used, err := time.Parse(dateFormat, text)
		if err != nil {
			return keep
		}
		if used.After(last) {
			last = used
		}
	}
	if now.Sub(last) < unused {
		return keep
	}
	text, declared := secret.Labels[invalidLabel]
	if !declared {
		return invalidate
	}
	at, err := time.Parse(dateFormat, text)
	if err != nil || now.Sub(at) < unused {
		return keep
	}
	return remove
}

// mounts are the Secrets that pods of a namespace name.
func mounts(pods []corev1.Pod) map[string]bool {
	names := map[string]bool{}
	for i := range pods {
		for _, v := range pods[i].Spec.Volumes {
			if v.Secret != nil {
				names[v.Secret.SecretName] = true
			}
			if v.Projected == nil {
				continue
			}
			for _, source := range v.Projected.Sources {
				if source.Secret != nil {
					names[source.Secret.Name] = true
				}
			}
		}
		containers := slices.Concat(pods[i].Spec.InitContainers, pods[i].Spec.Containers)
		for _, e := range pods[i].Spec.EphemeralContainers {
			containers = append(containers, corev1.Container(e.EphemeralContainerCommon))
		}
		for _, c := range containers {
			for _, variable := range c.Env {
				if from := variable.ValueFrom; from != nil && from.SecretKeyRef != nil {
					names[from.SecretKeyRef.Name] = true
				}
			}
			for _, from := range c.EnvFrom {
				if from.SecretRef != nil {
					names[from.SecretRef.Name] = true
				}
			}
		}
	}
	return names
}
