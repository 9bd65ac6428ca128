package apiserver_test

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// bound makes a claim that has its volume.
func bound(ctx context.Context, c *kubernetes.Clientset, ns, class string) (*corev1.PersistentVolumeClaim, error) {
	got, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(&class), forReal)
	if err != nil {
		return nil, err
	}
	got.Status.Phase = corev1.ClaimBound
	return c.CoreV1().PersistentVolumeClaims(ns).UpdateStatus(ctx, got, metav1.UpdateOptions{})
}

// quota makes one that was counted already.
func quota(ctx context.Context, c *kubernetes.Clientset, ns string, spec corev1.ResourceQuotaSpec) error {
	made, err := c.CoreV1().ResourceQuotas(ns).Create(ctx, &corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "counted"}, Spec: spec}, forReal)
	if err != nil {
		return err
	}
	made.Status = corev1.ResourceQuotaStatus{Hard: spec.Hard, Used: corev1.ResourceList{}}
	for name := range spec.Hard {
		made.Status.Used[name] = apiresource.MustParse("0")
	}
	_, err = c.CoreV1().ResourceQuotas(ns).UpdateStatus(ctx, made, metav1.UpdateOptions{})
	return err
}

// storagePluginCases are about storage, classes and what may be used of everything.
func storagePluginCases() map[string]pluginCase {
	return map[string]pluginCase{
		"DefaultStorageClass leaves claims that want none": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			got, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(ptr.To("")), try)
			if err == nil && (got.Spec.StorageClassName == nil || *got.Spec.StorageClassName != "") {
				err = fmt.Errorf("class %v", got.Spec.StorageClassName)
			}
			return err
		},
		"StorageObjectInUseProtection keeps claims, volumes and classes of attributes": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			made, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(ptr.To("")), try)
			if err != nil {
				return err
			}
			volume, err := c.CoreV1().PersistentVolumes().Create(ctx, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: ns}, Spec: corev1.PersistentVolumeSpec{
				Capacity: amount(corev1.ResourceStorage, "1Gi"), AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
			}}, try)
			if err != nil {
				return err
			}
			class, err := c.StorageV1().VolumeAttributesClasses().Create(ctx, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, DriverName: "example.com", Parameters: map[string]string{"iops": "1"}}, try)
			if err != nil {
				return err
			}
			got := slices.Concat(made.Finalizers, volume.Finalizers, class.Finalizers)
			if want := []string{"kubernetes.io/pvc-protection", "kubernetes.io/pv-protection", "kubernetes.io/vac-protection"}; !slices.Equal(got, want) {
				return fmt.Errorf("finalizers %v, want %v", got, want)
			}
			return nil
		},
		"PersistentVolumeClaimResize lets claims grow whose class can": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, Provisioner: "example.com/a", AllowVolumeExpansion: ptr.To(true)}
			if _, err := c.StorageV1().StorageClasses().Create(ctx, class, forReal); err != nil {
				return err
			}
			got, err := bound(ctx, c, ns, ns)
			if err != nil {
				return err
			}
			got.Spec.Resources.Requests = amount(corev1.ResourceStorage, "2Gi")
			_, err = c.CoreV1().PersistentVolumeClaims(ns).Update(ctx, got, metav1.UpdateOptions{})
			return err
		},
		"PersistentVolumeClaimResize waits for a volume": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			got, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(&ns), forReal)
			if err != nil {
				return err
			}
			got.Spec.Resources.Requests = amount(corev1.ResourceStorage, "2Gi")
			// The rule of the kind says it first, in the words of Kubernetes.
			_, err = c.CoreV1().PersistentVolumeClaims(ns).Update(ctx, got, metav1.UpdateOptions{})
			return errWanted(err)
		},
		"DefaultIngressClass leaves ingresses that name one": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			ingress := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: networkingv1.IngressSpec{IngressClassName: ptr.To("mine"),
				DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "web", Port: networkingv1.ServiceBackendPort{Number: 80}}}}}
			got, err := c.NetworkingV1().Ingresses(ns).Create(ctx, ingress, try)
			if err == nil && *got.Spec.IngressClassName != "mine" {
				err = fmt.Errorf("class %q", *got.Spec.IngressClassName)
			}
			return err
		},
		"ResourceQuota wants to know what it counts": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := quota(ctx, c, ns, corev1.ResourceQuotaSpec{Hard: amount(corev1.ResourceRequestsCPU, "1")}); err != nil {
				return err
			}
			return refusedSoon(ctx, c, ns, pod("web"), "failed quota: counted: must specify requests.cpu")
		},
		"ResourceQuota adds up": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := quota(ctx, c, ns, corev1.ResourceQuotaSpec{Hard: amount(corev1.ResourceLimitsMemory, "1Gi")}); err != nil {
				return err
			}
			p := asking(nil, amount(corev1.ResourceMemory, "700Mi"))
			if err := soon(ctx, func() error { return refusedNow(c.CoreV1().Pods(ns).Create(ctx, pod("unsaid"), try)) }); err != nil {
				return err // it does not know the quota yet
			}
			if _, err := c.CoreV1().Pods(ns).Create(ctx, p, forReal); err != nil {
				return err
			}
			p.Name = "second"
			return refusedSoon(ctx, c, ns, p, "exceeded quota: counted, requested: limits.memory=700Mi, used: limits.memory=700Mi, limited: limits.memory=1Gi")
		},
		"ResourceQuota counts what is in its scope": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := quota(ctx, c, ns, corev1.ResourceQuotaSpec{Hard: amount(corev1.ResourcePods, "0"), Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}}); err != nil {
				return err
			}
			if err := refusedSoon(ctx, c, ns, pod("web"), "exceeded quota: counted, requested: pods=1, used: pods=0, limited: pods=0"); err != nil {
				return err
			}
			_, err := c.CoreV1().Pods(ns).Create(ctx, asking(amount(corev1.ResourceCPU, "1"), nil), try)
			return err
		},
		"ResourceQuota counts a class of priority": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if _, err := c.SchedulingV1().PriorityClasses().Create(ctx, &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: ns}, Value: 5}, forReal); err != nil {
				return err
			}
			selector := &corev1.ScopeSelector{MatchExpressions: []corev1.ScopedResourceSelectorRequirement{{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{ns}}}}
			if err := quota(ctx, c, ns, corev1.ResourceQuotaSpec{Hard: amount(corev1.ResourcePods, "0"), ScopeSelector: selector}); err != nil {
				return err
			}
			high := pod("high")
			high.Spec.PriorityClassName = ns
			if err := refusedSoon(ctx, c, ns, high, "exceeded quota: counted"); err != nil {
				return err
			}
			_, err := c.CoreV1().Pods(ns).Create(ctx, pod("low"), try)
			return err
		},
		"ResourceQuota counts ports and addresses of services": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := quota(ctx, c, ns, corev1.ResourceQuotaSpec{Hard: amount(corev1.ResourceServicesNodePorts, "1")}); err != nil {
				return err
			}
			two := service("web")
			two.Spec.Type = corev1.ServiceTypeNodePort
			two.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80}, {Name: "b", Port: 81}}
			return soon(ctx, func() error {
				_, err := c.CoreV1().Services(ns).Create(ctx, two, try)
				return refused(err, "exceeded quota: counted, requested: services.nodeports=2")
			})
		},
		"ResourceQuota counts storage by class": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			if err := quota(ctx, c, ns, corev1.ResourceQuotaSpec{Hard: amount("gold.storageclass.storage.k8s.io/requests.storage", "512Mi")}); err != nil {
				return err
			}
			if err := soon(ctx, func() error {
				_, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(ptr.To("gold")), try)
				return refused(err, "exceeded quota: counted")
			}); err != nil {
				return err
			}
			_, err := c.CoreV1().PersistentVolumeClaims(ns).Create(ctx, claim(ptr.To("iron")), try)
			return err
		},
	}
}

// refusedNow is nil for a refusal of any wording.
func refusedNow[T any](_ T, err error) error { return refused(err, "") }
