package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelpers "k8s.io/component-helpers/resource"

	"knarr.dev/knarr/appliance/apiserver/kinds/set"
)

// DefaultPod completes a pod: its spec as any template's, and what only a pod itself gets.
func DefaultPod(pod *corev1.Pod) {
	spec := &pod.Spec
	Default(spec)
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			requestLimits(&containers[i].Resources)
			if spec.HostNetwork {
				exposeOnHost(containers[i].Ports)
			}
		}
	}
	if spec.Resources != nil {
		defaultPodRequests(pod)
	}
	set.Pointer(&spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if len(pod.Status.HostIPs) == 0 && pod.Status.HostIP != "" {
		pod.Status.HostIPs = []corev1.HostIP{{IP: pod.Status.HostIP}}
	}
}

// DefaultTemplate completes the pod template of a workload.
func DefaultTemplate(template *corev1.PodTemplateSpec) { Default(&template.Spec) }

// Default completes what pods and pod templates share.
func Default(spec *corev1.PodSpec) {
	set.Default(&spec.DNSPolicy, corev1.DNSClusterFirst)
	set.Default(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	if spec.SecurityContext == nil {
		spec.SecurityContext = &corev1.PodSecurityContext{}
	}
	set.Pointer(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	set.Default(&spec.SchedulerName, corev1.DefaultSchedulerName)
	// The old name of the field stays readable for clients that know no other.
	set.Default(&spec.ServiceAccountName, spec.DeprecatedServiceAccount)
	spec.DeprecatedServiceAccount = spec.ServiceAccountName

	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i].VolumeSource)
	}
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
	for i := range spec.EphemeralContainers {
		// The two types have the same fields; only the target is extra.
		defaultContainer((*corev1.Container)(&spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	roundUp(spec.Overhead)
	if spec.Resources != nil {
		roundUp(spec.Resources.Limits)
		roundUp(spec.Resources.Requests)
	}
}

func defaultContainer(c *corev1.Container) {
	set.Default(&c.ImagePullPolicy, pullPolicy(c.Image))
	set.Default(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	set.Default(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		set.Default(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
			if from.FileKeyRef != nil {
				set.Pointer(&from.FileKeyRef.Optional, false)
			}
		}
	}
	roundUp(c.Resources.Limits)
	roundUp(c.Resources.Requests)
	defaultProbe(c.LivenessProbe)
	defaultProbe(c.ReadinessProbe)
	defaultProbe(c.StartupProbe)
	if c.Lifecycle != nil {
		for _, handler := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if handler != nil {
				defaultHTTPGet(handler.HTTPGet)
			}
		}
	}
}

// pullPolicy follows the tag: "latest", named or implied, may change behind the name.
func pullPolicy(image string) corev1.PullPolicy {
	if strings.Contains(image, "@") {
		return corev1.PullIfNotPresent
	}
	last := image[strings.LastIndex(image, "/")+1:] // a colon before it belongs to the registry's port
	_, tag, tagged := strings.Cut(last, ":")
	if !tagged || tag == "latest" {
		return corev1.PullAlways
	}
	return corev1.PullIfNotPresent
}

func defaultProbe(p *corev1.Probe) {
	if p == nil {
		return
	}
	set.Default(&p.TimeoutSeconds, 1)
	set.Default(&p.PeriodSeconds, 10)
	set.Default(&p.SuccessThreshold, 1)
	set.Default(&p.FailureThreshold, 3)
	defaultHTTPGet(p.HTTPGet)
	if p.GRPC != nil {
		set.Pointer(&p.GRPC.Service, "")
	}
}

func defaultHTTPGet(get *corev1.HTTPGetAction) {
	if get == nil {
		return
	}
	set.Default(&get.Path, "/")
	set.Default(&get.Scheme, corev1.URISchemeHTTP)
}

func defaultFieldRef(ref *corev1.ObjectFieldSelector) {
	if ref != nil && ref.APIVersion == "" {
		ref.APIVersion = "v1"
	}
}

func defaultVolume(v *corev1.VolumeSource) {
	if *v == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
		return
	}
	switch {
	case v.Secret != nil:
		set.Pointer(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case v.ConfigMap != nil:
		set.Pointer(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		set.Pointer(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownward(v.DownwardAPI.Items)
	case v.Projected != nil:
		set.Pointer(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for i := range v.Projected.Sources {
			defaultProjection(&v.Projected.Sources[i])
		}
	case v.HostPath != nil:
		set.Pointer(&v.HostPath.Type, corev1.HostPathUnset)
	case v.ISCSI != nil:
		set.Default(&v.ISCSI.ISCSIInterface, "default")
	case v.RBD != nil:
		set.Default(&v.RBD.RBDPool, "rbd")
		set.Default(&v.RBD.RadosUser, "admin")
		set.Default(&v.RBD.Keyring, "/etc/ceph/keyring")
	case v.AzureDisk != nil:
		DefaultAzureDisk(v.AzureDisk)
	case v.ScaleIO != nil:
		set.Default(&v.ScaleIO.StorageMode, "ThinProvisioned")
		set.Default(&v.ScaleIO.FSType, "xfs")
	case v.Ephemeral != nil && v.Ephemeral.VolumeClaimTemplate != nil:
		set.Pointer(&v.Ephemeral.VolumeClaimTemplate.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
	case v.Image != nil:
		set.Default(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
	}
}

// DefaultAzureDisk is shared with persistent volumes.
func DefaultAzureDisk(disk *corev1.AzureDiskVolumeSource) {
	set.Pointer(&disk.CachingMode, corev1.AzureDataDiskCachingReadWrite)
	set.Pointer(&disk.Kind, corev1.AzureSharedBlobDisk)
	set.Pointer(&disk.FSType, "ext4")
	set.Pointer(&disk.ReadOnly, false)
}

func defaultProjection(p *corev1.VolumeProjection) {
	if p.ServiceAccountToken != nil {
		set.Pointer(&p.ServiceAccountToken.ExpirationSeconds, int64(60*60))
	}
	if p.DownwardAPI != nil {
		defaultDownward(p.DownwardAPI.Items)
	}
	if p.PodCertificate != nil {
		set.Pointer(&p.PodCertificate.MaxExpirationSeconds, int32(24*60*60))
	}
}

func defaultDownward(items []corev1.DownwardAPIVolumeFile) {
	for i := range items {
		defaultFieldRef(items[i].FieldRef)
	}
}

func exposeOnHost(ports []corev1.ContainerPort) {
	for i := range ports {
		if ports[i].HostPort == 0 {
			ports[i].HostPort = ports[i].ContainerPort
		}
	}
}

// requestLimits asks for as much as is allowed where nothing else is asked.
func requestLimits(r *corev1.ResourceRequirements) {
	for name, limit := range r.Limits {
		if _, asked := r.Requests[name]; asked {
			continue
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		r.Requests[name] = limit.DeepCopy()
	}
}

// defaultPodRequests fills requests of the whole pod: what its containers ask for together, else the pod's limit.
func defaultPodRequests(pod *corev1.Pod) {
	asked := resourcehelpers.AggregateContainerRequests(pod, resourcehelpers.PodResourcesOptions{})
	requests := pod.Spec.Resources.Requests
	for name, limit := range pod.Spec.Resources.Limits {
		if _, found := requests[name]; found || !resourcehelpers.IsSupportedPodLevelResource(name) {
			continue
		}
		if requests == nil {
			requests = corev1.ResourceList{}
		}
		if sum, ok := asked[name]; ok && !sum.IsZero() {
			requests[name] = sum
			continue
		}
		requests[name] = limit.DeepCopy()
	}
	// A pod with a total has one for every resource its containers ask for.
	for name, sum := range asked {
		if _, found := requests[name]; !found && resourcehelpers.IsSupportedPodLevelResource(name) && requests != nil {
			requests[name] = sum
		}
	}
	pod.Spec.Resources.Requests = requests
}

// roundUp keeps quantities to thousandths, the finest the API stores.
func roundUp(list corev1.ResourceList) {
	for name, quantity := range list {
		if quantity.RoundUp(resource.Milli) {
			continue
		}
		list[name] = quantity
	}
}
