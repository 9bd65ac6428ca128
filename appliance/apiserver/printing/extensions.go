package printing

import (
	"strings"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apiserver/pkg/registry/rest"
)

// unset is shown for a reference nobody made.
const unset = "<unset>"

// ValidatingWebhooks show how many webhooks there are.
func ValidatingWebhooks() rest.TableConvertor {
	return table(func(c *admissionregistrationv1.ValidatingWebhookConfiguration, now time.Time) []any {
		return []any{int64(len(c.Webhooks)), since(c.CreationTimestamp, now)}
	}, number("Webhooks", "How many webhooks it has."), age)
}

// MutatingWebhooks show how many webhooks there are.
func MutatingWebhooks() rest.TableConvertor {
	return table(func(c *admissionregistrationv1.MutatingWebhookConfiguration, now time.Time) []any {
		return []any{int64(len(c.Webhooks)), since(c.CreationTimestamp, now)}
	}, number("Webhooks", "How many webhooks it has."), age)
}

// ValidatingPolicies show what they check.
func ValidatingPolicies() rest.TableConvertor {
	return table(func(p *admissionregistrationv1.ValidatingAdmissionPolicy, now time.Time) []any {
		return []any{int64(len(p.Spec.Validations)), paramKind(p.Spec.ParamKind), since(p.CreationTimestamp, now)}
	}, number("Validations", "How many expressions it checks."), text("ParamKind", "The kind its parameters have."), age)
}

// MutatingPolicies show what they change.
func MutatingPolicies() rest.TableConvertor {
	return table(func(p *admissionregistrationv1.MutatingAdmissionPolicy, now time.Time) []any {
		return []any{int64(len(p.Spec.Mutations)), paramKind(p.Spec.ParamKind), since(p.CreationTimestamp, now)}
	}, number("Mutations", "How many changes it makes."), text("ParamKind", "The kind its parameters have."), age)
}

func paramKind(kind *admissionregistrationv1.ParamKind) string {
	if kind == nil {
		return unset
	}
	return kind.APIVersion + "/" + kind.Kind
}

// ValidatingBindings show which policy is in force.
func ValidatingBindings() rest.TableConvertor {
	return table(func(b *admissionregistrationv1.ValidatingAdmissionPolicyBinding, now time.Time) []any {
		return []any{b.Spec.PolicyName, paramRef(b.Spec.ParamRef), since(b.CreationTimestamp, now)}
	}, text("PolicyName", "The policy it brings into force."), text("ParamRef", "The parameters of it."), age)
}

// MutatingBindings show which policy is in force.
func MutatingBindings() rest.TableConvertor {
	return table(func(b *admissionregistrationv1.MutatingAdmissionPolicyBinding, now time.Time) []any {
		return []any{b.Spec.PolicyName, paramRef(b.Spec.ParamRef), since(b.CreationTimestamp, now)}
	}, text("PolicyName", "The policy it brings into force."), text("ParamRef", "The parameters of it."), age)
}

func paramRef(ref *admissionregistrationv1.ParamRef) string {
	switch {
	case ref == nil:
		return unset
	case ref.Namespace != "" && ref.Name != "":
		return ref.Namespace + "/" + ref.Name
	case ref.Name != "":
		return "*/" + ref.Name
	default:
		return unset
	}
}

// TrustBundles show whose certificates they are.
func TrustBundles() rest.TableConvertor {
	return table(func(b *certificatesv1.ClusterTrustBundle, _ time.Time) []any {
		return []any{b.Spec.SignerName}
	}, text("SignerName", "The signer whose certificates they are."))
}

// PodCertificates show who asks and what became of it.
func PodCertificates() rest.TableConvertor {
	return table(func(r *certificatesv1.PodCertificateRequest, now time.Time) []any {
		state := "Pending"
		for _, c := range r.Status.Conditions {
			if c.Status == "True" {
				state = c.Type
			}
		}
		return []any{r.Spec.PodName, r.Spec.ServiceAccountName, string(r.Spec.NodeName), r.Spec.SignerName, state, since(r.CreationTimestamp, now)}
	}, text("PodName", "The pod that asks."), text("ServiceAccountName", "Its account."), text("NodeName", "Its node."), text("SignerName", "The signer it asks."), text("State", "Whether it was issued."), age)
}

// ComponentStatuses show whether a component is well.
func ComponentStatuses() rest.TableConvertor {
	return table(func(s *corev1.ComponentStatus, _ time.Time) []any {
		status, message, problem := "Unknown", "", ""
		for _, c := range s.Conditions {
			if c.Type != corev1.ComponentHealthy {
				continue
			}
			status, message, problem = "Unhealthy", c.Message, c.Error
			if c.Status == corev1.ConditionTrue {
				status = "Healthy"
			}
		}
		return []any{status, message, problem}
	}, text("Status", "Whether it is well."), text("Message", "What it says."), text("Error", "What is wrong."))
}

// ResourceClaims show what became of them.
func ResourceClaims() rest.TableConvertor {
	return table(func(c *resourcev1.ResourceClaim, now time.Time) []any {
		var states []string
		if c.DeletionTimestamp != nil {
			states = append(states, "deleted")
		}
		if c.Status.Allocation == nil {
			if c.DeletionTimestamp == nil {
				states = append(states, "pending")
			}
		} else {
			states = append(states, "allocated")
			if len(c.Status.ReservedFor) > 0 {
				states = append(states, "reserved")
			}
		}
		return []any{strings.Join(states, ","), since(c.CreationTimestamp, now)}
	}, text("State", "What became of it: pending, allocated, reserved, deleted."), age)
}

// ResourceSlices show where devices are.
func ResourceSlices() rest.TableConvertor {
	return table(func(s *resourcev1.ResourceSlice, now time.Time) []any {
		node := ""
		if s.Spec.NodeName != nil {
			node = *s.Spec.NodeName
		}
		return []any{node, s.Spec.Driver, s.Spec.Pool.Name, since(s.CreationTimestamp, now)}
	}, text("Node", "The node they are on."), text("Driver", "Who says so."), text("Pool", "The pool they are in."), age)
}

// FlowSchemas show where requests go.
func FlowSchemas() rest.TableConvertor {
	return table(func(s *flowcontrolv1.FlowSchema, now time.Time) []any {
		method, missing := none, "?"
		if d := s.Spec.DistinguisherMethod; d != nil {
			method = string(d.Type)
		}
		for _, c := range s.Status.Conditions {
			if c.Type == flowcontrolv1.FlowSchemaConditionDangling {
				missing = string(c.Status)
			}
		}
		return []any{s.Spec.PriorityLevelConfiguration.Name, int64(s.Spec.MatchingPrecedence), method, since(s.CreationTimestamp, now), missing}
	}, text("PriorityLevel", "Where its requests go."), number("MatchingPrecedence", "When it is looked at: low numbers first."),
		text("DistinguisherMethod", "How flows are told apart."), age, text("MissingPL", "Whether the level is not there."))
}

// PriorityLevels show what requests may take.
func PriorityLevels() rest.TableConvertor {
	return table(func(l *flowcontrolv1.PriorityLevelConfiguration, now time.Time) []any {
		var shares, queues, hand, length any = none, none, none, none
		if limited := l.Spec.Limited; limited != nil {
			if limited.NominalConcurrencyShares != nil {
				shares = int64(*limited.NominalConcurrencyShares)
			}
			if queuing := limited.LimitResponse.Queuing; queuing != nil {
				queues, hand, length = int64(queuing.Queues), int64(queuing.HandSize), int64(queuing.QueueLengthLimit)
			}
		}
		return []any{string(l.Spec.Type), shares, queues, hand, length, since(l.CreationTimestamp, now)}
	}, text("Type", "Whether it is limited."), text("NominalConcurrencyShares", "Its share of what goes at once."), text("Queues", "How many queues it has."),
		text("HandSize", "How many queues a flow may use."), text("QueueLengthLimit", "How many wait in one."), age)
}

// CSINodes show how many drivers a node has.
func CSINodes() rest.TableConvertor {
	return table(func(n *storagev1.CSINode, now time.Time) []any {
		return []any{int64(len(n.Spec.Drivers)), since(n.CreationTimestamp, now)}
	}, number("Drivers", "How many drivers the node has."), age)
}

// StorageCapacities show how much there is.
func StorageCapacities() rest.TableConvertor {
	return table(func(c *storagev1.CSIStorageCapacity, _ time.Time) []any {
		capacity := unset
		if c.Capacity != nil {
			capacity = c.Capacity.String()
		}
		return []any{c.StorageClassName, capacity}
	}, text("StorageClassName", "The class of its volumes."), text("Capacity", "How much there is."))
}

// VolumeAttributesClasses show whose they are.
func VolumeAttributesClasses() rest.TableConvertor {
	return table(func(c *storagev1.VolumeAttributesClass, now time.Time) []any {
		return []any{c.DriverName, since(c.CreationTimestamp, now)}
	}, text("DriverName", "The driver that knows it."), age)
}

// Migrations show what is rewritten.
func Migrations() rest.TableConvertor {
	return table(func(m *storagemigrationv1.StorageVersionMigration, now time.Time) []any {
		resource := m.Spec.Resource.Resource
		if m.Spec.Resource.Group != "" {
			resource += "." + m.Spec.Resource.Group
		}
		return []any{resource, since(m.CreationTimestamp, now)}
	}, text("Resource", "What is written anew."), age)
}
