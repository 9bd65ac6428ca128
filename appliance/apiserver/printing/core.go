package printing

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/registry/rest"
	volumehelpers "k8s.io/component-helpers/storage/volume"
)

const rolePrefix = "node-role.kubernetes.io/"

// Nodes show what they are and whether they are well.
func Nodes() rest.TableConvertor {
	return table(func(n *corev1.Node, now time.Time) []any {
		info := n.Status.NodeInfo
		return []any{nodeStatus(n), orNone(strings.Join(roles(n), ",")), since(n.CreationTimestamp, now), info.KubeletVersion,
			nodeAddress(n, corev1.NodeInternalIP), nodeAddress(n, corev1.NodeExternalIP), orUnknown(info.OSImage), orUnknown(info.KernelVersion), orUnknown(info.ContainerRuntimeVersion)}
	},
		text("Status", "The status of the node."), text("Roles", "The roles of the node."), age, text("Version", "The version of the node's agent."),
		wide("Internal-IP", "The address inside the cluster."), wide("External-IP", "The address outside the cluster."), wide("OS-Image", "The operating system."),
		wide("Kernel-Version", "The kernel."), wide("Container-Runtime", "The container runtime."))
}

func nodeStatus(n *corev1.Node) string {
	status := "Unknown"
	for _, c := range n.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		status = "NotReady"
		if c.Status == corev1.ConditionTrue {
			status = "Ready"
		}
	}
	if n.Spec.Unschedulable {
		status += ",SchedulingDisabled"
	}
	return status
}

func roles(n *corev1.Node) []string {
	found := sets.New[string]()
	for label, value := range n.Labels {
		switch role, ok := strings.CutPrefix(label, rolePrefix); {
		case ok && role != "":
			found.Insert(role)
		case label == "kubernetes.io/role" && value != "":
			found.Insert(value)
		}
	}
	return sets.List(found)
}

func nodeAddress(n *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range n.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return none
}

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// Namespaces show whether they are still there.
func Namespaces() rest.TableConvertor {
	return table(func(n *corev1.Namespace, now time.Time) []any {
		return []any{string(n.Status.Phase), since(n.CreationTimestamp, now)}
	}, text("Status", "The status of the namespace."), age)
}

// Services show how to reach them.
func Services() rest.TableConvertor {
	return table(func(s *corev1.Service, now time.Time) []any {
		ip := none
		if len(s.Spec.ClusterIPs) > 0 {
			ip = s.Spec.ClusterIPs[0]
		}
		return []any{string(s.Spec.Type), ip, externalAddresses(s), orNone(servicePorts(s.Spec.Ports)), since(s.CreationTimestamp, now), labelsOf(s.Spec.Selector)}
	},
		text("Type", "How the service is reached."), text("Cluster-IP", "The address inside the cluster."), text("External-IP", "Addresses outside the cluster."),
		text("Port(s)", "The ports of the service."), age, wide("Selector", "The labels of the pods behind it."))
}

func externalAddresses(s *corev1.Service) string {
	var found []string
	switch s.Spec.Type {
	case corev1.ServiceTypeExternalName:
		return s.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		for _, ingress := range s.Status.LoadBalancer.Ingress {
			if ingress.IP != "" {
				found = append(found, ingress.IP)
			} else if ingress.Hostname != "" {
				found = append(found, ingress.Hostname)
			}
		}
		found = append(found, s.Spec.ExternalIPs...)
		if len(found) == 0 {
			return "<pending>"
		}
	default:
		found = s.Spec.ExternalIPs
	}
	return orNone(strings.Join(found, ","))
}

func servicePorts(ports []corev1.ServicePort) string {
	var all []string
	for _, p := range ports {
		if p.NodePort > 0 {
			all = append(all, fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol))
		} else {
			all = append(all, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
		}
	}
	return strings.Join(all, ",")
}

// maxShown is how many of a list fit into a cell.
const maxShown = 3

// some shows the first of a list and how many more there are.
func some(all []string) string {
	if len(all) > maxShown {
		return fmt.Sprintf("%s + %d more...", strings.Join(all[:maxShown], ","), len(all)-maxShown)
	}
	return orNone(strings.Join(all, ","))
}

// Endpoints show where traffic goes.
func Endpoints() rest.TableConvertor {
	return table(func(e *corev1.Endpoints, now time.Time) []any {
		var all []string
		for _, subset := range e.Subsets {
			for _, address := range subset.Addresses {
				if len(subset.Ports) == 0 {
					all = append(all, address.IP)
				}
				for _, port := range subset.Ports {
					all = append(all, hostPort(address.IP, port.Port))
				}
			}
		}
		return []any{some(all), since(e.CreationTimestamp, now)}
	}, text("Endpoints", "Addresses and ports that take traffic."), age)
}

func hostPort(host string, port int32) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return host + ":" + strconv.Itoa(int(port))
}

// EndpointSlices show the same.
func EndpointSlices() rest.TableConvertor {
	return table(func(s *discoveryv1.EndpointSlice, now time.Time) []any {
		var ports, addresses []string
		for _, p := range s.Ports {
			switch {
			case p.Port == nil:
				ports = append(ports, "*")
			default:
				ports = append(ports, strconv.Itoa(int(*p.Port)))
			}
		}
		shown := "<unset>"
		if len(ports) > 0 {
			shown = some(ports)
		}
		for _, e := range s.Endpoints {
			addresses = append(addresses, e.Addresses...)
		}
		endpoints := "<unset>"
		if len(addresses) > 0 {
			endpoints = some(addresses)
		}
		return []any{string(s.AddressType), shown, endpoints, since(s.CreationTimestamp, now)}
	}, text("AddressType", "The kind of addresses."), text("Ports", "The ports of the endpoints."), text("Endpoints", "The addresses."), age)
}

// ConfigMaps show how much is in them.
func ConfigMaps() rest.TableConvertor {
	return table(func(c *corev1.ConfigMap, now time.Time) []any {
		return []any{int64(len(c.Data) + len(c.BinaryData)), since(c.CreationTimestamp, now)}
	}, number("Data", "The number of keys."), age)
}

// Secrets show how much is in them, never what.
func Secrets() rest.TableConvertor {
	return table(func(s *corev1.Secret, now time.Time) []any {
		return []any{string(s.Type), int64(len(s.Data)), since(s.CreationTimestamp, now)}
	}, text("Type", "What the secret is for."), number("Data", "The number of keys."), age)
}

// ServiceAccounts show how many secrets they name.
func ServiceAccounts() rest.TableConvertor {
	return table(func(a *corev1.ServiceAccount, now time.Time) []any {
		return []any{int64(len(a.Secrets)), since(a.CreationTimestamp, now)}
	}, number("Secrets", "The number of secrets the account names."), age)
}

// ReplicationControllers show wanted and real numbers.
func ReplicationControllers() rest.TableConvertor {
	return table(func(c *corev1.ReplicationController, now time.Time) []any {
		var names, images string
		if c.Spec.Template != nil {
			names, images = containers(&c.Spec.Template.Spec)
		}
		return []any{int64(deref(c.Spec.Replicas)), int64(c.Status.Replicas), int64(c.Status.ReadyReplicas), since(c.CreationTimestamp, now), names, images, labelsOf(c.Spec.Selector)}
	}, append([]column{number("Desired", "How many there should be."), number("Current", "How many there are."), number("Ready", "How many are ready."), age}, workload...)...)
}

// ResourceQuotas show what is used of what may be.
func ResourceQuotas() rest.TableConvertor {
	return table(func(q *corev1.ResourceQuota, now time.Time) []any {
		var requests, limits []string
		for _, name := range sets.List(sets.KeySet(q.Status.Hard)) {
			used, hard := q.Status.Used[name], q.Status.Hard[name]
			cell := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
			if strings.HasPrefix(string(name), "limits.") {
				limits = append(limits, cell)
			} else {
				requests = append(requests, cell)
			}
		}
		return []any{strings.Join(requests, ", "), strings.Join(limits, ", "), since(q.CreationTimestamp, now)}
	}, text("Request", "Requests used and allowed."), text("Limit", "Limits used and allowed."), age)
}

// LimitRanges show when they were made.
func LimitRanges() rest.TableConvertor {
	return table(func(l *corev1.LimitRange, now time.Time) []any {
		return []any{l.CreationTimestamp.UTC().Format(time.RFC3339)}
	}, text("Created At", "When the object was created."))
}

// PersistentVolumes show who has them.
func PersistentVolumes() rest.TableConvertor {
	return table(func(v *corev1.PersistentVolume, now time.Time) []any {
		claim := ""
		if ref := v.Spec.ClaimRef; ref != nil {
			claim = ref.Namespace + "/" + ref.Name
		}
		phase := string(v.Status.Phase)
		if v.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		size := v.Spec.Capacity[corev1.ResourceStorage]
		attributes := "<unset>"
		if v.Spec.VolumeAttributesClassName != nil {
			attributes = *v.Spec.VolumeAttributesClassName
		}
		return []any{size.String(), accessModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
			volumehelpers.GetPersistentVolumeClass(v), attributes, v.Status.Reason, since(v.CreationTimestamp, now), volumeMode(v.Spec.VolumeMode)}
	},
		text("Capacity", "The size of the volume."), text("Access Modes", "How it may be mounted."), text("Reclaim Policy", "What happens when it is released."),
		text("Status", "Whether it is bound."), text("Claim", "Who has it."), text("StorageClass", "The class it is of."), text("VolumeAttributesClass", "The attributes it has."),
		text("Reason", "Why it is in this state."), age, wide("VolumeMode", "Filesystem or Block."))
}

// PersistentVolumeClaims show what they got.
func PersistentVolumeClaims() rest.TableConvertor {
	return table(func(c *corev1.PersistentVolumeClaim, now time.Time) []any {
		phase, capacity, modes := string(c.Status.Phase), "", ""
		if c.DeletionTimestamp != nil {
			phase = "Terminating"
		}
		if c.Spec.VolumeName != "" {
			size := c.Status.Capacity[corev1.ResourceStorage]
			capacity, modes = size.String(), accessModes(c.Status.AccessModes)
		}
		attributes := "<unset>"
		if c.Spec.VolumeAttributesClassName != nil {
			attributes = *c.Spec.VolumeAttributesClassName
		}
		return []any{phase, c.Spec.VolumeName, capacity, modes, volumehelpers.GetPersistentVolumeClaimClass(c), attributes, since(c.CreationTimestamp, now), volumeMode(c.Spec.VolumeMode)}
	},
		text("Status", "Whether it is bound."), text("Volume", "The volume it is bound to."), text("Capacity", "The size of the volume."), text("Access Modes", "How it may be mounted."),
		text("StorageClass", "The class it asks for."), text("VolumeAttributesClass", "The attributes it asks for."), age, wide("VolumeMode", "Filesystem or Block."))
}

func volumeMode(mode *corev1.PersistentVolumeMode) string {
	if mode == nil {
		return "<unset>"
	}
	return string(*mode)
}

var shortModes = map[corev1.PersistentVolumeAccessMode]string{
	corev1.ReadWriteOnce: "RWO", corev1.ReadOnlyMany: "ROX", corev1.ReadWriteMany: "RWX", corev1.ReadWriteOncePod: "RWOP",
}

func accessModes(modes []corev1.PersistentVolumeAccessMode) string {
	order := []string{"RWO", "ROX", "RWX", "RWOP"}
	found := map[string]bool{}
	for _, mode := range modes {
		found[shortModes[mode]] = true
	}
	var short []string
	for _, mode := range order {
		if found[mode] {
			short = append(short, mode)
		}
	}
	return strings.Join(short, ",")
}
