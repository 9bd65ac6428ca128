package legacytoken

import (
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"knarr.dev/knarr/workloads/steady/steadytest"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

type change func(*corev1.Secret)

func token(changes ...change) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "shop", Name: "default-token", CreationTimestamp: metav1.NewTime(now.Add(-3 * unused)), Labels: map[string]string{},
			Annotations: map[string]string{corev1.ServiceAccountNameKey: "default", corev1.ServiceAccountUIDKey: "account"},
		},
		Type: corev1.SecretTypeServiceAccountToken,
	}
	for _, c := range changes {
		c(s)
	}
	return s
}

func labelled(key, value string) change { return func(s *corev1.Secret) { s.Labels[key] = value } }

func account(secrets ...string) *corev1.ServiceAccount {
	a := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "default", UID: "account"}}
	for _, name := range secrets {
		a.Secrets = append(a.Secrets, corev1.ObjectReference{Name: name})
	}
	return a
}

func TestJudge(t *testing.T) {
	long := now.Add(-2 * unused)
	tests := map[string]struct {
		secret  *corev1.Secret
		account *corev1.ServiceAccount
		mounted bool
		since   time.Time
		want    verdict
	}{
		"nobody used it for a year":               {secret: token(), account: account("default-token"), since: long, want: invalidate},
		"nobody knows yet":                        {secret: token(), account: account("default-token"), since: now.Add(-time.Hour)},
		"it is young":                             {secret: token(func(s *corev1.Secret) { s.CreationTimestamp = metav1.NewTime(now.Add(-time.Hour)) }), account: account("default-token"), since: long},
		"it was used last month":                  {secret: token(labelled(usedLabel, "2029-12-01")), account: account("default-token"), since: long},
		"it was used years ago":                   {secret: token(labelled(usedLabel, "2028-01-01")), account: account("default-token"), since: long, want: invalidate},
		"when it was used nobody can read":        {secret: token(labelled(usedLabel, "lately")), account: account("default-token"), since: long},
		"a pod names it":                          {secret: token(), account: account("default-token"), mounted: true, since: long},
		"somebody made it":                        {secret: token(), account: account(), since: long},
		"it is of another account of that name":   {secret: token(func(s *corev1.Secret) { s.Annotations[corev1.ServiceAccountUIDKey] = "before" }), account: account("default-token"), since: long},
		"it is no token":                          {secret: token(func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }), account: account("default-token"), since: long},
		"it was declared invalid lately":          {secret: token(labelled(invalidLabel, "2029-12-01")), account: account("default-token"), since: long},
		"it was declared invalid long ago":        {secret: token(labelled(invalidLabel, "2028-12-01")), account: account("default-token"), since: long, want: remove},
		"it was declared invalid, and used since": {secret: token(labelled(invalidLabel, "2028-12-01"), labelled(usedLabel, "2029-12-01")), account: account("default-token"), since: long},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := judge(tc.secret, tc.account, tc.mounted, tc.since, now); got != tc.want {
				t.Errorf("judge() = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestMounts(t *testing.T) {
	pod := corev1.Pod{Spec: corev1.PodSpec{
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected"}}}}}}},
		},
		Containers: []corev1.Container{{
			Env:     []corev1.EnvVar{{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "variable"}}}}},
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "variables"}}}},
		}},
		InitContainers: []corev1.Container{{
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "first"}}}},
		}},
		EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
			EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "debug"}}}},
		}}},
	}}
	got := mounts([]corev1.Pod{pod})
	for _, name := range []string{"volume", "projected", "variable", "variables", "first", "debug"} {
		if !got[name] {
			t.Errorf("%s is not among %v", name, got)
		}
	}
}

func TestCleanTakesAYearForEachStep(t *testing.T) {
	tracking := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: trackingName}, Data: map[string]string{"since": "2027-01-01"}}
	build := func(objects ...client.Object) client.Client {
		return fake.NewClientBuilder().WithObjects(append(objects, tracking.DeepCopy(), account("default-token"))...).
			WithIndex(&corev1.Secret{}, "type", func(o client.Object) []string { return []string{string(o.(*corev1.Secret).Type)} }).Build()
	}
	c := build(token())
	clean := func(at time.Time, by time.Duration) error {
		t.Helper()
		cleaner := &Cleaner{client: c, live: c, clock: steadytest.Jumped(at, by), log: slog.New(slog.DiscardHandler)}
		for range 2 {
			if err := cleaner.clean(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		var s corev1.Secret
		err := c.Get(t.Context(), client.ObjectKey{Namespace: "shop", Name: "default-token"}, &s)
		if err == nil && s.Labels[invalidLabel] != "2030-01-02" {
			t.Errorf("labels %v", s.Labels)
		}
		return err
	}
	if err := clean(now, 0); err != nil {
		t.Error(err)
	}
	if err := clean(now.Add(24*time.Hour), 365*24*time.Hour); err != nil {
		t.Errorf("a jump of the clock: %v", err)
	}
	if err := clean(now.Add(unused+24*time.Hour), 0); !apierrors.IsNotFound(err) {
		t.Errorf("a year later: %v", err)
	}
}
