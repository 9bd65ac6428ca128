package printing

import (
	"fmt"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Ingresses show what they route.
func Ingresses() rest.TableConvertor {
	return table(func(i *networkingv1.Ingress, now time.Time) []any {
		class := none
		if i.Spec.IngressClassName != nil {
			class = *i.Spec.IngressClassName
		}
		var hosts, addresses []string
		for _, rule := range i.Spec.Rules {
			if rule.Host != "" {
				hosts = append(hosts, rule.Host)
			}
		}
		shown := "*"
		if len(hosts) > 0 {
			shown = some(hosts)
		}
		for _, ingress := range i.Status.LoadBalancer.Ingress {
			if ingress.IP != "" {
				addresses = append(addresses, ingress.IP)
			} else if ingress.Hostname != "" {
				addresses = append(addresses, ingress.Hostname)
			}
		}
		ports := "80"
		if len(i.Spec.TLS) > 0 {
			ports = "80, 443"
		}
		return []any{class, shown, strings.Join(addresses, ","), ports, since(i.CreationTimestamp, now)}
	}, text("Class", "Who serves it."), text("Hosts", "The hosts it is for."), text("Address", "Where it is reached."), text("Ports", "The ports it serves."), age)
}

// IngressClasses show their controller.
func IngressClasses() rest.TableConvertor {
	return table(func(c *networkingv1.IngressClass, now time.Time) []any {
		parameters := none
		if p := c.Spec.Parameters; p != nil {
			parameters = p.Kind
			if p.APIGroup != nil {
				parameters += "." + *p.APIGroup
			}
			parameters += "/" + p.Name
		}
		return []any{c.Spec.Controller, parameters, since(c.CreationTimestamp, now)}
	}, text("Controller", "Who serves ingresses of this class."), text("Parameters", "How it is configured."), age)
}

// NetworkPolicies show whom they are for.
func NetworkPolicies() rest.TableConvertor {
	return table(func(p *networkingv1.NetworkPolicy, now time.Time) []any {
		return []any{selector(&p.Spec.PodSelector), since(p.CreationTimestamp, now)}
	}, text("Pod-Selector", "The pods it is for."), age)
}

// IPAddresses show who has them.
func IPAddresses() rest.TableConvertor {
	return table(func(a *networkingv1.IPAddress, now time.Time) []any {
		parent := none
		if ref := a.Spec.ParentRef; ref != nil {
			parts := []string{ref.Resource}
			if ref.Group != "" {
				parts[0] += "." + ref.Group
			}
			if ref.Namespace != "" {
				parts = append(parts, ref.Namespace)
			}
			parent = strings.Join(append(parts, ref.Name), "/")
		}
		return []any{parent, since(a.CreationTimestamp, now)}
	}, text("ParentRef", "The object that has it."), age)
}

// ServiceCIDRs show their ranges.
func ServiceCIDRs() rest.TableConvertor {
	return table(func(c *networkingv1.ServiceCIDR, now time.Time) []any {
		return []any{strings.Join(c.Spec.CIDRs, ","), since(c.CreationTimestamp, now)}
	}, text("CIDRs", "The ranges."), age)
}

// PodDisruptionBudgets show what is left of them.
func PodDisruptionBudgets() rest.TableConvertor {
	return table(func(b *policyv1.PodDisruptionBudget, now time.Time) []any {
		least, most := "N/A", "N/A"
		if b.Spec.MinAvailable != nil {
			least = b.Spec.MinAvailable.String()
		} else if b.Spec.MaxUnavailable != nil {
			most = b.Spec.MaxUnavailable.String()
		}
		return []any{least, most, int64(b.Status.DisruptionsAllowed), since(b.CreationTimestamp, now)}
	}, text("Min Available", "Pods that must stay."), text("Max Unavailable", "Pods that may be missing."), number("Allowed Disruptions", "Pods that may go now."), age)
}

// Roles show when they were made.
func Roles() rest.TableConvertor {
	return table(func(r *rbacv1.Role, _ time.Time) []any { return []any{r.CreationTimestamp.UTC().Format(time.RFC3339)} }, text("Created At", "When the object was created."))
}

// ClusterRoles show the same.
func ClusterRoles() rest.TableConvertor {
	return table(func(r *rbacv1.ClusterRole, _ time.Time) []any {
		return []any{r.CreationTimestamp.UTC().Format(time.RFC3339)}
	}, text("Created At", "When the object was created."))
}

// RoleBindings show who has which role.
func RoleBindings() rest.TableConvertor {
	return table(func(b *rbacv1.RoleBinding, now time.Time) []any {
		return bindingCells(b.RoleRef, b.Subjects, since(b.CreationTimestamp, now))
	}, bindingColumns...)
}

// ClusterRoleBindings show the same.
func ClusterRoleBindings() rest.TableConvertor {
	return table(func(b *rbacv1.ClusterRoleBinding, now time.Time) []any {
		return bindingCells(b.RoleRef, b.Subjects, since(b.CreationTimestamp, now))
	}, bindingColumns...)
}

var bindingColumns = []column{text("Role", "What is allowed."), age, wide("Users", "Users who may."), wide("Groups", "Groups who may."), wide("ServiceAccounts", "Service accounts who may.")}

func bindingCells(role rbacv1.RoleRef, subjects []rbacv1.Subject, age string) []any {
	var users, groups, accounts []string
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			users = append(users, s.Name)
		case rbacv1.GroupKind:
			groups = append(groups, s.Name)
		case rbacv1.ServiceAccountKind:
			accounts = append(accounts, s.Namespace+"/"+s.Name)
		}
	}
	return []any{role.Kind + "/" + role.Name, age, strings.Join(users, ", "), strings.Join(groups, ", "), strings.Join(accounts, ", ")}
}

// CertificateSigningRequests show what became of them.
func CertificateSigningRequests() rest.TableConvertor {
	return table(func(c *certificatesv1.CertificateSigningRequest, now time.Time) []any {
		asked := none
		if c.Spec.ExpirationSeconds != nil {
			asked = duration.HumanDuration(time.Duration(*c.Spec.ExpirationSeconds) * time.Second)
		}
		return []any{since(c.CreationTimestamp, now), c.Spec.SignerName, c.Spec.Username, asked, certificateState(c)}
	}, age, text("SignerName", "Who is to sign."), text("Requestor", "Who asked."), text("RequestedDuration", "For how long."), text("Condition", "What became of it."))
}

func certificateState(c *certificatesv1.CertificateSigningRequest) string {
	has := func(kind certificatesv1.RequestConditionType) bool {
		return slices.ContainsFunc(c.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
	}
	state := "Pending"
	switch {
	case has(certificatesv1.CertificateDenied):
		state = "Denied"
	case has(certificatesv1.CertificateApproved):
		state = "Approved"
	}
	if has(certificatesv1.CertificateFailed) {
		state += ",Failed"
	}
	if len(c.Status.Certificate) > 0 {
		state += ",Issued"
	}
	return state
}

// PriorityClasses show their value.
func PriorityClasses() rest.TableConvertor {
	return table(func(c *schedulingv1.PriorityClass, now time.Time) []any {
		return []any{int64(c.Value), c.GlobalDefault, since(c.CreationTimestamp, now), string(deref(c.PreemptionPolicy))}
	}, number("Value", "The priority of its pods."), column{Name: "Global-Default", Type: "boolean", Description: "Whether pods without a class get it."}, age,
		wide("PreemptionPolicy", "Whether its pods may push others away."))
}

// RuntimeClasses show their handler.
func RuntimeClasses() rest.TableConvertor {
	return table(func(c *nodev1.RuntimeClass, now time.Time) []any {
		return []any{c.Handler, since(c.CreationTimestamp, now)}
	}, text("Handler", "What the runtime calls it."), age)
}

// StorageClasses show how they make volumes.
func StorageClasses() rest.TableConvertor {
	return columns[*storagev1.StorageClass]{
		unnamed:     true,
		definitions: storageClassColumns,
		cells: func(c *storagev1.StorageClass, now time.Time) []any {
			name := c.Name
			if c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" {
				name += " (default)"
			}
			return []any{name, c.Provisioner, string(deref(c.ReclaimPolicy)), string(deref(c.VolumeBindingMode)), deref(c.AllowVolumeExpansion), since(c.CreationTimestamp, now)}
		},
	}
}

var storageClassColumns = []column{
	{Name: "Name", Type: "string", Format: "name", Description: "The name of the class."}, text("Provisioner", "Who makes its volumes."), text("ReclaimPolicy", "What happens to them when released."),
	text("VolumeBindingMode", "When they are made."), {Name: "AllowVolumeExpansion", Type: "boolean", Description: "Whether they can grow."}, age,
}

// CSIDrivers show what they can.
func CSIDrivers() rest.TableConvertor {
	return table(func(d *storagev1.CSIDriver, now time.Time) []any {
		var modes []string
		for _, mode := range d.Spec.VolumeLifecycleModes {
			modes = append(modes, string(mode))
		}
		return []any{fmt.Sprint(deref(d.Spec.AttachRequired)), fmt.Sprint(deref(d.Spec.PodInfoOnMount)), fmt.Sprint(deref(d.Spec.StorageCapacity)), strings.Join(modes, ","), since(d.CreationTimestamp, now)}
	}, text("AttachRequired", "Whether volumes are attached first."), text("PodInfoOnMount", "Whether it is told about pods."), text("StorageCapacity", "Whether it publishes capacity."), text("Modes", "The kinds of volumes it makes."), age)
}

// VolumeAttachments show what is attached where.
func VolumeAttachments() rest.TableConvertor {
	return table(func(a *storagev1.VolumeAttachment, now time.Time) []any {
		return []any{a.Spec.Attacher, deref(a.Spec.Source.PersistentVolumeName), a.Spec.NodeName, a.Status.Attached, since(a.CreationTimestamp, now)}
	}, text("Attacher", "Who attaches it."), text("PV", "What is attached."), text("Node", "Where."), column{Name: "Attached", Type: "boolean", Description: "Whether it is."}, age)
}
