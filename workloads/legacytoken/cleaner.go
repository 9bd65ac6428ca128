// Package legacytoken cleans up after clusters that made a Secret with an endless token for every ServiceAccount.
//
// In:       Secrets of type kubernetes.io/service-account-token, ServiceAccounts and pods, looked up once a day.
// Out:      tokens the cluster made and nobody used for a year labelled as invalid, and a year later deleted (KEP-2799).
// Promise:  what somebody made on purpose, what a pod names and what was used stays.
// Not here: making tokens, noting their use and refusing those that are labelled (appliance/apiserver).
package legacytoken

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

const (
	every = 24 * time.Hour
	page  = 500

	trackingName = "kube-apiserver-legacy-service-account-token-tracking"
	trackingKey  = "since"
)

// Concerns says whether a Secret could be such a token: its type is not in its metadata.
func Concerns(o metav1.Object) bool { return o.GetAnnotations()[corev1.ServiceAccountNameKey] != "" }

// Cleaner is a Runnable of a manager.
type Cleaner struct {
	client client.Client // ServiceAccounts and pods from the shared cache
	live   client.Reader // Secrets, which no cache should hold for this
	clock  clock.PassiveClock
	log    *slog.Logger
}

// Register adds the cleaner to a manager. steady is the time of day.
func Register(mgr manager.Manager, steady clock.PassiveClock, log *slog.Logger) error {
	c := &Cleaner{client: mgr.GetClient(), live: mgr.GetAPIReader(), clock: steady, log: log.With("component", "legacytoken")}
	if err := mgr.Add(c); err != nil {
		return fmt.Errorf("register the cleaner of legacy tokens: %w", err)
	}
	return nil
}

// Start cleans once a day until ctx ends. It implements the manager's Runnable.
func (c *Cleaner) Start(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(every)
		}
		if err := c.clean(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("legacy tokens were not all looked at; again tomorrow", "err", err)
		}
	}
}

// clean makes one pass.
func (c *Cleaner) clean(ctx context.Context) error {
	since, tracked, err := c.tracked(ctx)
	if err != nil || !tracked || c.clock.Now().Sub(since) < unused {
		return err
	}
	var errs []error
	for next := ""; ; {
		var secrets corev1.SecretList
		err := c.live.List(ctx, &secrets, client.MatchingFields{"type": string(corev1.SecretTypeServiceAccountToken)}, client.Limit(page), client.Continue(next))
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("list legacy tokens: %w", err))...)
		}
		for i := range secrets.Items {
			errs = append(errs, c.settle(ctx, &secrets.Items[i], since))
		}
		if next = secrets.Continue; next == "" {
			return errors.Join(errs...)
		}
	}
}

// tracked is since when the API server notes the use of tokens; it says so in a ConfigMap.
func (c *Cleaner) tracked(ctx context.Context) (time.Time, bool, error) {
	var tracking corev1.ConfigMap
	err := c.live.Get(ctx, client.ObjectKey{Namespace: metav1.NamespaceSystem, Name: trackingName}, &tracking)
	if apierrors.IsNotFound(err) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, fmt.Errorf("read since when tokens are tracked: %w", err)
	}
	since, err := time.Parse(dateFormat, tracking.Data[trackingKey])
	return since, err == nil, nil
}

func (c *Cleaner) settle(ctx context.Context, secret *corev1.Secret, since time.Time) error {
	account := &corev1.ServiceAccount{}
	err := c.client.Get(ctx, client.ObjectKey{Namespace: secret.Namespace, Name: secret.Annotations[corev1.ServiceAccountNameKey]}, account)
	if apierrors.IsNotFound(err) {
		return nil // the garbage of another controller
	}
	if err != nil {
		return fmt.Errorf("observe the account of token %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	var pods corev1.PodList
	if err := c.client.List(ctx, &pods, client.InNamespace(secret.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return fmt.Errorf("list pods in %s: %w", secret.Namespace, err)
	}
	now := c.clock.Now()
	switch judge(secret, account, mounts(pods.Items)[secret.Name], since, now) {
	case keep:
		return nil
	case invalidate:
		next := secret.DeepCopy()
		metav1.SetMetaDataLabel(&next.ObjectMeta, invalidLabel, now.UTC().Format(dateFormat))
		err = c.client.Patch(ctx, next, client.MergeFromWithOptions(secret, client.MergeFromWithOptimisticLock{}))
	case remove:
		// Of this version only: it may have been used since.
		err = c.client.Delete(ctx, secret, client.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion})
	}
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	return fmt.Errorf("clean up legacy token %s/%s: %w", secret.Namespace, secret.Name, err)
}
