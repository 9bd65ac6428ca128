package admission

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

const (
	defaultAccount = "default"
	// tokenMount is where programs in pods look for their token.
	tokenMount = "/var/run/secrets/kubernetes.io/serviceaccount"
	// tokenSeconds marks the token every pod gets. It is an hour and a little, so that one can tell it from a
	// token that was asked for; the issuer gives it a longer life (authn).
	tokenSeconds = 60*60 + 7
	rootCA       = "kube-root-ca.crt"

	// A namespace that was made just now gets its account in a moment.
	accountPatience = time.Second
	accountInterval = 20 * time.Millisecond
)

// serviceAccount gives every pod an account and the account's token.
func serviceAccount(env *resource.Env) *rule {
	return &rule{
		Handler: admission.NewHandler(admission.Create),
		on:      []string{"pods"},
		admit: func(ctx context.Context, a admission.Attributes) error {
			pod, err := object[*corev1.Pod](a)
			if err != nil || isMirror(pod) {
				return err
			}
			if pod.Spec.ServiceAccountName == "" {
				pod.Spec.ServiceAccountName = defaultAccount
				pod.Spec.DeprecatedServiceAccount = defaultAccount
			}
			account, err := findAccount(ctx, env, a.GetNamespace(), pod.Spec.ServiceAccountName)
			if err != nil {
				return admission.NewForbidden(a, fmt.Errorf("error looking up service account %s/%s: %w", a.GetNamespace(), pod.Spec.ServiceAccountName, err))
			}
			if wantsToken(pod, account) {
				mountToken(pod, names.SimpleNameGenerator.GenerateName("kube-api-access-"))
			}
			if len(pod.Spec.ImagePullSecrets) == 0 {
				pod.Spec.ImagePullSecrets = slices.Clone(account.ImagePullSecrets)
			}
			return nil
		},
		validate: func(_ context.Context, a admission.Attributes) error {
			pod, err := object[*corev1.Pod](a)
			if err != nil || !isMirror(pod) {
				return err
			}
			if problem := mirrorAsks(&pod.Spec); problem != "" {
				return admission.NewForbidden(a, errors.New("a mirror pod may not "+problem))
			}
			return nil
		},
	}
}

// mirrorAsks says what a mirror pod wants of the API. It may want nothing: what it stands for runs without asking, and
// its node would get to see whatever it names.
func mirrorAsks(spec *corev1.PodSpec) string {
	if spec.ServiceAccountName != "" {
		return "reference service accounts"
	}
	if len(spec.ImagePullSecrets) > 0 || slices.ContainsFunc(spec.Volumes, volumeNamesSecret) {
		return "reference secrets"
	}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		if slices.ContainsFunc(c.EnvFrom, func(from corev1.EnvFromSource) bool { return from.SecretRef != nil }) ||
			slices.ContainsFunc(c.Env, func(env corev1.EnvVar) bool { return env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil }) {
			return "reference secrets"
		}
	}
	for _, v := range spec.Volumes {
		if v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.ServiceAccountToken != nil }) {
			return "use ServiceAccountToken volume projections"
		}
	}
	return ""
}

func volumeNamesSecret(v corev1.Volume) bool {
	return v.Secret != nil || v.AzureFile != nil ||
		v.Projected != nil && slices.ContainsFunc(v.Projected.Sources, func(p corev1.VolumeProjection) bool { return p.Secret != nil }) ||
		v.CSI != nil && v.CSI.NodePublishSecretRef != nil ||
		v.ISCSI != nil && v.ISCSI.SecretRef != nil ||
		v.CephFS != nil && v.CephFS.SecretRef != nil ||
		v.RBD != nil && v.RBD.SecretRef != nil ||
		v.FlexVolume != nil && v.FlexVolume.SecretRef != nil ||
		v.ScaleIO != nil && v.ScaleIO.SecretRef != nil ||
		v.StorageOS != nil && v.StorageOS.SecretRef != nil
}

func findAccount(ctx context.Context, env *resource.Env, namespace, name string) (*corev1.ServiceAccount, error) {
	find := func() (*corev1.ServiceAccount, error) {
		return get[*corev1.ServiceAccount](ctx, env, corev1.Resource("serviceaccounts"), namespace, name)
	}
	account, err := find()
	if !apierrors.IsNotFound(err) || name != defaultAccount {
		return account, err
	}
	// How the wait ends does not matter: the last look says what there is.
	_ = wait.PollUntilContextTimeout(ctx, accountInterval, accountPatience, true, func(context.Context) (bool, error) {
		account, err = find()
		return !apierrors.IsNotFound(err), nil
	})
	return account, err
}

// wantsToken asks the pod first, then its account; who says nothing gets one.
func wantsToken(pod *corev1.Pod, account *corev1.ServiceAccount) bool {
	if pod.Spec.AutomountServiceAccountToken != nil {
		return *pod.Spec.AutomountServiceAccountToken
	}
	return ptr.Deref(account.AutomountServiceAccountToken, true)
}

// mountToken adds the token to every container that has nothing else in its place.
func mountToken(pod *corev1.Pod, volume string) {
	for _, v := range pod.Spec.Volumes {
		if v.Name == volume {
			return
		}
	}
	needed := false
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			occupied := slices.ContainsFunc(containers[i].VolumeMounts, func(m corev1.VolumeMount) bool { return m.MountPath == tokenMount })
			if occupied {
				continue
			}
			containers[i].VolumeMounts = append(containers[i].VolumeMounts, corev1.VolumeMount{Name: volume, ReadOnly: true, MountPath: tokenMount})
			needed = true
		}
	}
	if !needed {
		return
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
		DefaultMode: ptr.To(corev1.ProjectedVolumeSourceDefaultMode),
		Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](tokenSeconds)}},
			{ConfigMap: &corev1.ConfigMapProjection{
				LocalObjectReference: corev1.LocalObjectReference{Name: rootCA},
				Items:                []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}},
			}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{
				Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.namespace"},
			}}}},
		},
	}}})
}
