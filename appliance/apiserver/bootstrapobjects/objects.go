package bootstrapobjects

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
)

// service is the name of the API server's own Service and of all that belongs to it.
const service = "kubernetes"

func (k *Keeper) namespaces() []step {
	var steps []step
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		steps = append(steps, keep("namespace", k.client.CoreV1().Namespaces(),
			&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil))
	}
	return steps
}

func (k *Keeper) objects() ([]step, error) {
	authentication, err := k.extensionAuthentication()
	if err != nil {
		return nil, err
	}
	core := k.client.CoreV1()
	steps := []step{
		k.serviceRange(),
		keep("service", core.Services(metav1.NamespaceDefault), k.service(), healService),
		keep("config map", core.ConfigMaps(metav1.NamespaceSystem), authentication, healConfigMap),
		keep("config map", core.ConfigMaps(metav1.NamespaceSystem), tokenTracking(time.Now()), nil),
	}
	for _, class := range priorityClasses() {
		steps = append(steps, keep("priority class", k.client.SchedulingV1().PriorityClasses(), class, nil))
	}
	return slices.Concat(steps, k.endpointSteps(), k.flowControl()), nil
}

// endpointSteps are what changes with the servers that are there.
func (k *Keeper) endpointSteps() []step {
	addresses := addressesOf(k.present, k.config.Advertise)
	return []step{
		keep("endpoints", k.client.CoreV1().Endpoints(metav1.NamespaceDefault), k.endpoints(addresses), healEndpoints),
		keep("endpoint slice", k.client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault), k.endpointSlice(addresses), healSlice),
	}
}

// addressesOf are those a Service of the family of own can send to, in order, own among them.
func addressesOf(present []string, own netip.Addr) []string {
	addresses := []netip.Addr{own}
	for _, text := range present {
		if ip, err := netip.ParseAddr(text); err == nil && ip.Is4() == own.Is4() {
			addresses = append(addresses, ip)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	var texts []string
	for _, ip := range slices.Compact(addresses) {
		texts = append(texts, ip.String())
	}
	return texts
}

// serviceRange is there and ready to be used. Of others a controller says whether they are.
func (k *Keeper) serviceRange() step {
	client := k.client.NetworkingV1().ServiceCIDRs()
	create := keep("service CIDR", client, k.serviceCIDR(), healServiceCIDR)
	return func(ctx context.Context) error {
		if err := create(ctx); err != nil {
			return err
		}
		have, err := client.Get(ctx, service, metav1.GetOptions{ResourceVersion: "0"})
		if apierrors.IsNotFound(err) {
			return nil // deleted just now
		}
		if err != nil {
			return fmt.Errorf("get service CIDR %s: %w", service, err)
		}
		if have.DeletionTimestamp != nil || meta.FindStatusCondition(have.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil {
			return nil
		}
		meta.SetStatusCondition(&have.Status.Conditions, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes Service CIDR is ready",
		})
		_, err = client.UpdateStatus(ctx, have, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) { // the next pass looks again
			return fmt.Errorf("update status of service CIDR %s: %w", service, err)
		}
		return nil
	}
}

func (k *Keeper) serviceCIDR() *networkingv1.ServiceCIDR {
	cidr := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: service}}
	for _, c := range k.config.ServiceCIDRs {
		cidr.Spec.CIDRs = append(cidr.Spec.CIDRs, c.String())
	}
	return cidr
}

// healServiceCIDR gives it the family the cluster has gained; one that is there stays as it is.
func healServiceCIDR(have, want *networkingv1.ServiceCIDR) bool {
	if len(have.Spec.CIDRs) != 1 || len(want.Spec.CIDRs) != 2 || have.Spec.CIDRs[0] != want.Spec.CIDRs[0] {
		return false
	}
	have.Spec.CIDRs = want.Spec.CIDRs
	return true
}

// service has the first address of the service network, which is in the serving certificate.
func (k *Keeper) service() *corev1.Service {
	address := k.config.ServiceCIDRs[0].Masked().Addr().Next()
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name:      service,
			Namespace: metav1.NamespaceDefault,
			Labels:    map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			Type:            corev1.ServiceTypeClusterIP,
			ClusterIP:       address.String(),
			ClusterIPs:      []string{address.String()},
			IPFamilies:      []corev1.IPFamily{family(address)},
			IPFamilyPolicy:  new(corev1.IPFamilyPolicySingleStack),
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports: []corev1.ServicePort{{
				Name: "https", Protocol: corev1.ProtocolTCP, Port: 443, TargetPort: intstr.FromInt(k.config.Port),
			}},
		},
	}
}

func healService(have, want *corev1.Service) bool {
	if apiequality.Semantic.DeepEqual(have.Spec.Ports, want.Spec.Ports) && have.Spec.Type == want.Spec.Type && len(have.Spec.Selector) == 0 {
		return false
	}
	have.Spec.Ports, have.Spec.Type, have.Spec.Selector = want.Spec.Ports, want.Spec.Type, nil
	return true
}

func (k *Keeper) endpoints(addresses []string) *corev1.Endpoints {
	var all []corev1.EndpointAddress
	for _, ip := range addresses {
		all = append(all, corev1.EndpointAddress{IP: ip})
	}
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Name:      service,
			Namespace: metav1.NamespaceDefault,
			Labels:    map[string]string{discoveryv1.LabelSkipMirror: "true"}, // the slice below is ours
		},
		Subsets: []corev1.EndpointSubset{{
			Addresses: all,
			Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(k.config.Port), Protocol: corev1.ProtocolTCP}},
		}},
	}
}

func healEndpoints(have, want *corev1.Endpoints) bool {
	if apiequality.Semantic.DeepEqual(have.Subsets, want.Subsets) && has(have.Labels, want.Labels) {
		return false
	}
	have.Subsets, have.Labels = want.Subsets, with(have.Labels, want.Labels)
	return true
}

func (k *Keeper) endpointSlice(addresses []string) *discoveryv1.EndpointSlice {
	var all []discoveryv1.Endpoint
	for _, ip := range addresses {
		all = append(all, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: new(true)}})
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name:      service,
			Namespace: metav1.NamespaceDefault,
			Labels:    map[string]string{discoveryv1.LabelServiceName: service},
		},
		AddressType: discoveryv1.AddressType(family(k.config.Advertise)),
		Endpoints:   all,
		Ports:       []discoveryv1.EndpointPort{{Name: new("https"), Port: new(int32(k.config.Port)), Protocol: new(corev1.ProtocolTCP)}},
	}
}

func healSlice(have, want *discoveryv1.EndpointSlice) bool {
	if apiequality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) && apiequality.Semantic.DeepEqual(have.Ports, want.Ports) && has(have.Labels, want.Labels) {
		return false
	}
	have.Endpoints, have.Ports, have.Labels = want.Endpoints, want.Ports, with(have.Labels, want.Labels)
	return true
}

// extensionAuthentication tells aggregated API servers how to recognise this one and whom it speaks for.
func (k *Keeper) extensionAuthentication() (*corev1.ConfigMap, error) {
	data := map[string]string{}
	for key, file := range map[string]string{"client-ca-file": k.config.ClientCA, "requestheader-client-ca-file": k.config.FrontProxyCA} {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("read a certificate to publish: %w", err)
		}
		data[key] = string(content)
	}
	for key, list := range map[string][]string{
		"requestheader-username-headers":     k.config.UserHeaders,
		"requestheader-uid-headers":          k.config.UIDHeaders,
		"requestheader-group-headers":        k.config.GroupHeaders,
		"requestheader-extra-headers-prefix": k.config.ExtraPrefixes,
		"requestheader-allowed-names":        k.config.AllowedProxies,
	} {
		text, err := json.Marshal(append([]string{}, list...))
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", key, err)
		}
		data[key] = string(text)
	}
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication", Namespace: metav1.NamespaceSystem},
		Data:       data,
	}, nil
}

// tokenTracking says since when the last use of token Secrets is noted on them. Who cleans up unused ones waits for as
// long as it takes (KEP-2799).
func tokenTracking(now time.Time) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "kube-apiserver-legacy-service-account-token-tracking", Namespace: metav1.NamespaceSystem},
		Data:       map[string]string{"since": now.UTC().Format(time.DateOnly)},
	}
}

func healConfigMap(have, want *corev1.ConfigMap) bool {
	if has(have.Data, want.Data) {
		return false
	}
	have.Data = with(have.Data, want.Data)
	return true
}

// priorityClasses are above all that users can make: their values end at one billion.
func priorityClasses() []*schedulingv1.PriorityClass {
	return []*schedulingv1.PriorityClass{
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-cluster-critical"},
			Value:       2_000_000_000,
			Description: "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
		},
		{
			ObjectMeta:  metav1.ObjectMeta{Name: "system-node-critical"},
			Value:       2_000_001_000,
			Description: "Used for system critical pods that must not be moved from their current node.",
		},
	}
}

// flowControl keeps the mandatory levels and schemas as they are; of the suggested ones those whose owner did not
// take them over by setting the annotation to false.
func (k *Keeper) flowControl() []step {
	client := k.client.FlowcontrolV1()
	var steps []step
	for _, level := range slices.Concat(bootstrap.MandatoryPriorityLevelConfigurations, bootstrap.SuggestedPriorityLevelConfigurations) {
		want := level.DeepCopy()
		want.Annotations = with(want.Annotations, map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"})
		steps = append(steps, keep("priority level", client.PriorityLevelConfigurations(), want,
			func(have, want *flowcontrolv1.PriorityLevelConfiguration) bool {
				if have.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] == "false" || apiequality.Semantic.DeepEqual(have.Spec, want.Spec) {
					return false
				}
				have.Spec = want.Spec
				return true
			}))
	}
	for _, schema := range slices.Concat(bootstrap.MandatoryFlowSchemas, bootstrap.SuggestedFlowSchemas) {
		want := schema.DeepCopy()
		want.Annotations = with(want.Annotations, map[string]string{flowcontrolv1.AutoUpdateAnnotationKey: "true"})
		steps = append(steps, keep("flow schema", client.FlowSchemas(), want,
			func(have, want *flowcontrolv1.FlowSchema) bool {
				if have.Annotations[flowcontrolv1.AutoUpdateAnnotationKey] == "false" || apiequality.Semantic.DeepEqual(have.Spec, want.Spec) {
					return false
				}
				have.Spec = want.Spec
				return true
			}))
	}
	return steps
}

func family(address netip.Addr) corev1.IPFamily {
	if address.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// has says whether all wanted entries are there.
func has(have, want map[string]string) bool {
	for key, value := range want {
		if got, ok := have[key]; !ok || got != value {
			return false
		}
	}
	return true
}

// with is the first map and all entries of the second.
func with(have, want map[string]string) map[string]string {
	all := maps.Clone(have)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, want)
	return all
}
