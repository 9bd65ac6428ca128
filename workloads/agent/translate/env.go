package translate

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

// References answers what a container's environment refers to.
type References struct {
	Services  []corev1.Service // of the pod's namespace, and default/kubernetes
	ConfigMap func(name string) (*corev1.ConfigMap, error)
	Secret    func(name string) (*corev1.Secret, error)
	// FileKey reads one key of an env file in a volume.
	FileKey func(*corev1.FileKeySelector) (value string, found bool, err error)
	PodIPs  []string
}

// Environment is the container's environment in a stable order: services first, then envFrom, then env.
func Environment(pod *corev1.Pod, c *corev1.Container, node Node, refs References) ([]*runtimeapi.KeyValue, error) {
	env := serviceLinks(refs.Services, pod.Namespace, ptr.Deref(pod.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks))
	for i := range c.EnvFrom {
		if err := addFrom(env, &c.EnvFrom[i], pod, refs); err != nil {
			return nil, err
		}
	}
	expand := func(s string) string { return expandVars(s, env) }
	for i := range c.Env {
		e := &c.Env[i]
		if e.ValueFrom == nil {
			env[e.Name] = expand(e.Value)
			continue
		}
		value, found, err := valueFrom(pod, c, node, refs, e.ValueFrom)
		if err != nil {
			return nil, err
		}
		if found {
			env[e.Name] = value
		}
	}
	out := make([]*runtimeapi.KeyValue, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		out = append(out, &runtimeapi.KeyValue{Key: k, Value: []byte(env[k])})
	}
	return out, nil
}

func addFrom(env map[string]string, from *corev1.EnvFromSource, pod *corev1.Pod, refs References) error {
	var data map[string]string
	switch {
	case from.ConfigMapRef != nil:
		cm, err := refs.ConfigMap(from.ConfigMapRef.Name)
		if skip, err := missing(err, from.ConfigMapRef.Optional, "configmap", from.ConfigMapRef.Name); err != nil || skip {
			return err
		}
		data = cm.Data
	case from.SecretRef != nil:
		s, err := refs.Secret(from.SecretRef.Name)
		if skip, err := missing(err, from.SecretRef.Optional, "secret", from.SecretRef.Name); err != nil || skip {
			return err
		}
		data = make(map[string]string, len(s.Data))
		for k, v := range s.Data {
			data[k] = string(v)
		}
	}
	for k, v := range data {
		if name := from.Prefix + k; len(validation.IsRelaxedEnvVarName(name)) == 0 {
			env[name] = v
		}
	}
	return nil
}

// missing tells an optional object that is not there (skip) from one that must be (an error for the user) and from not
// having been able to ask.
func missing(err error, optional *bool, kind, name string) (skip bool, _ error) {
	switch {
	case err == nil:
		return false, nil
	case apierrors.IsNotFound(err) && ptr.Deref(optional, false):
		return true, nil
	case apierrors.IsNotFound(err):
		return false, badConfig("%s %q not found", kind, name)
	}
	return false, fmt.Errorf("read %s %q: %w", kind, name, err)
}

func valueFrom(pod *corev1.Pod, c *corev1.Container, node Node, refs References, src *corev1.EnvVarSource) (string, bool, error) {
	switch {
	case src.FieldRef != nil:
		v, err := Field(pod, node, refs.PodIPs, src.FieldRef.FieldPath)
		return v, true, err
	case src.ResourceFieldRef != nil:
		from := c
		if name := src.ResourceFieldRef.ContainerName; name != "" {
			if from = Find(pod, name); from == nil {
				return "", false, badConfig("resourceFieldRef names container %q, which the pod does not have", name)
			}
		}
		v, err := Resource(from, node.Allocatable, src.ResourceFieldRef)
		return v, true, err
	case src.ConfigMapKeyRef != nil:
		ref := src.ConfigMapKeyRef
		cm, err := refs.ConfigMap(ref.Name)
		if skip, err := missing(err, ref.Optional, "configmap", ref.Name); err != nil || skip {
			return "", false, err
		}
		v, ok := cm.Data[ref.Key]
		if !ok && !ptr.Deref(ref.Optional, false) {
			return "", false, badConfig("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case src.SecretKeyRef != nil:
		ref := src.SecretKeyRef
		s, err := refs.Secret(ref.Name)
		if skip, err := missing(err, ref.Optional, "secret", ref.Name); err != nil || skip {
			return "", false, err
		}
		v, ok := s.Data[ref.Key]
		if !ok && !ptr.Deref(ref.Optional, false) {
			return "", false, badConfig("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(v), ok, nil
	case src.FileKeyRef != nil:
		if refs.FileKey == nil {
			return "", false, errors.New("read an environment file: the pod's volumes are not mounted")
		}
		v, ok, err := refs.FileKey(src.FileKeyRef)
		if err == nil && !ok && !ptr.Deref(src.FileKeyRef.Optional, false) {
			err = badConfig("couldn't find key %q in file %q of volume %q", src.FileKeyRef.Key, src.FileKeyRef.Path, src.FileKeyRef.VolumeName)
		}
		return v, ok, err
	}
	return "", false, badConfig("an environment variable's valueFrom names no source")
}

// Find returns a pod's container of any kind by name, nil when there is none.
func Find(pod *corev1.Pod, name string) *corev1.Container {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			c := corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

// Field is a downward API field as an environment variable sees it.
func Field(pod *corev1.Pod, node Node, podIPs []string, path string) (string, error) {
	if field, key, ok := subscript(path); ok {
		switch field {
		case "metadata.annotations":
			return pod.Annotations[key], nil
		case "metadata.labels":
			return pod.Labels[key], nil
		}
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "spec.nodeName":
		return node.Name, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return firstOf(node.IPs), nil
	case "status.hostIPs":
		return strings.Join(node.IPs, ","), nil
	case "status.podIP":
		return firstOf(podIPs), nil
	case "status.podIPs":
		return strings.Join(podIPs, ","), nil
	}
	return "", badConfig("fieldPath %q is not one an environment variable can have", path)
}

// subscript splits metadata.labels['key'].
func subscript(path string) (field, key string, ok bool) {
	field, rest, ok := strings.Cut(path, "['")
	key, closed := strings.CutSuffix(rest, "']")
	return field, key, ok && closed
}

func firstOf(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// Resource is a container's request or limit in units of the divisor, rounded up. A limit not set is what the node can
// give.
func Resource(c *corev1.Container, allocatable corev1.ResourceList, ref *corev1.ResourceFieldSelector) (string, error) {
	kind, name, ok := strings.Cut(ref.Resource, ".")
	if !ok || kind != "limits" && kind != "requests" {
		return "", badConfig("resource %q is neither limits.NAME nor requests.NAME", ref.Resource)
	}
	resourceName := corev1.ResourceName(name)
	var q resource.Quantity
	if kind == "limits" {
		q, ok = c.Resources.Limits[resourceName]
		if !ok || q.IsZero() {
			q = allocatable[resourceName]
		}
	} else {
		q = c.Resources.Requests[resourceName]
	}
	divisor := ref.Divisor
	if divisor.IsZero() {
		divisor = resource.MustParse("1")
	}
	if resourceName == corev1.ResourceCPU {
		return strconv.FormatInt(ceil(q.MilliValue(), divisor.MilliValue()), 10), nil
	}
	return strconv.FormatInt(ceil(q.Value(), divisor.Value()), 10), nil
}

func ceil(a, b int64) int64 { return (a + b - 1) / b }

// expandVars replaces $(NAME) by its value, leaves unknown names alone, and turns $$ into $.
func expandVars(s string, env map[string]string) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteByte('$')
				continue
			}
			name := s[i+2 : i+end]
			if v, ok := env[name]; ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}

// serviceLinks are the variables by which containers found services before DNS; default/kubernetes is always there.
func serviceLinks(services []corev1.Service, namespace string, all bool) map[string]string {
	env := map[string]string{}
	for i := range services {
		s := &services[i]
		master := s.Namespace == metaDefault && s.Name == "kubernetes"
		if s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone || len(s.Spec.Ports) == 0 {
			continue
		}
		if !master && (!all || s.Namespace != namespace) {
			continue
		}
		if master && namespace != metaDefault && hasOwn(services, namespace, "kubernetes") && all {
			continue // the namespace's own service of that name wins
		}
		addService(env, s)
	}
	return env
}

const metaDefault = "default"

func hasOwn(services []corev1.Service, namespace, name string) bool {
	return slices.ContainsFunc(services, func(s corev1.Service) bool { return s.Namespace == namespace && s.Name == name })
}

func addService(env map[string]string, s *corev1.Service) {
	prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip, ports := s.Spec.ClusterIP, s.Spec.Ports
	env[prefix+"_SERVICE_HOST"] = ip
	env[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(ports[0].Port))
	for i, p := range ports {
		number := strconv.Itoa(int(p.Port))
		if p.Name != "" {
			env[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = number
		}
		protocol := p.Protocol
		if protocol == "" {
			protocol = corev1.ProtocolTCP
		}
		lower := strings.ToLower(string(protocol))
		url := lower + "://" + net.JoinHostPort(ip, number)
		if i == 0 {
			env[prefix+"_PORT"] = url
		}
		port := prefix + "_PORT_" + number + "_" + strings.ToUpper(lower)
		env[port] = url
		env[port+"_PROTO"] = lower
		env[port+"_PORT"] = number
		env[port+"_ADDR"] = ip
	}
}

// SubPath expands a subPathExpr; a variable that is not set is an error, because an empty part would be another folder.
func SubPath(expr string, env []*runtimeapi.KeyValue) (string, error) {
	vars := make(map[string]string, len(env))
	for _, kv := range env {
		vars[kv.Key] = string(kv.Value)
	}
	path := expandVars(expr, vars)
	if strings.Contains(path, "$(") {
		return "", badConfig("subPathExpr %q names a variable that is not set", expr)
	}
	return path, nil
}
