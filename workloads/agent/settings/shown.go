package settings

import (
	"cmp"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/ptr"
)

// Place is what a node's configuration says that its operator told knarr elsewhere, or that knarr works out.
type Place struct {
	ClusterDNS                 []string
	ClusterDomain              string
	CgroupRoot                 string
	Endpoint                   string // of the container runtime
	ClientCA, Certificate, Key string // files
	Pulls                      int    // images at a time
	Resolv                     string // resolver configuration
}

// InForce is the whole configuration as this agent goes by it, for whoever looks for a kubelet's. What is not in it means
// nothing here.
func (s Settings) InForce(at Place) *kubeletv1beta1.KubeletConfiguration {
	out := s.given.DeepCopy()
	out.TypeMeta = metav1.TypeMeta{APIVersion: kubeletv1beta1.SchemeGroupVersion.String(), Kind: "KubeletConfiguration"}
	second := func(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }

	out.StaticPodPath, out.MaxPods = s.StaticPods, int32(s.MaxPods)
	if out.PodPidsLimit == nil && s.PodPids != 0 {
		out.PodPidsLimit = ptr.To(s.PodPids)
	}
	out.EvictionHard = map[string]string{}
	for signal, threshold := range s.Eviction {
		out.EvictionHard[string(signal)] = threshold.String()
	}
	out.MemorySwap.SwapBehavior = "NoSwap"
	if s.LimitedSwap {
		out.MemorySwap.SwapBehavior = "LimitedSwap"
	}

	out.CPUManagerPolicy, out.MemoryManagerPolicy = cmp.Or(out.CPUManagerPolicy, "none"), cmp.Or(out.MemoryManagerPolicy, "None")
	out.TopologyManagerPolicy, out.TopologyManagerScope = cmp.Or(out.TopologyManagerPolicy, "none"), cmp.Or(out.TopologyManagerScope, "container")

	out.ClusterDNS, out.ClusterDomain, out.ResolverConfig = at.ClusterDNS, at.ClusterDomain, ptr.To(at.Resolv)
	out.ContainerRuntimeEndpoint = at.Endpoint
	out.CgroupRoot, out.CgroupDriver, out.CgroupsPerQOS, out.EnforceNodeAllocatable = at.CgroupRoot, "cgroupfs", ptr.To(true), []string{"pods"}
	out.TLSCertFile, out.TLSPrivateKeyFile, out.RotateCertificates = at.Certificate, at.Key, true
	out.Authentication.X509.ClientCAFile = at.ClientCA
	out.Authentication.Anonymous.Enabled = ptr.To(false)
	out.Authentication.Webhook = kubeletv1beta1.KubeletWebhookAuthentication{Enabled: ptr.To(true), CacheTTL: second(120)}
	out.Authorization = kubeletv1beta1.KubeletAuthorization{
		Mode:    kubeletv1beta1.KubeletAuthorizationModeWebhook,
		Webhook: kubeletv1beta1.KubeletWebhookAuthorization{CacheAuthorizedTTL: second(300), CacheUnauthorizedTTL: second(30)},
	}
	out.Port, out.Address = 10250, "0.0.0.0"
	out.NodeStatusUpdateFrequency, out.NodeStatusReportFrequency, out.NodeLeaseDurationSeconds = second(10), second(300), 40
	out.ImageGCHighThresholdPercent, out.ImageGCLowThresholdPercent = ptr.To(int32(s.Images.High)), ptr.To(int32(s.Images.Low))
	out.ImageMinimumGCAge = metav1.Duration{Duration: s.Images.Youngest}
	out.SerializeImagePulls, out.MaxParallelImagePulls = ptr.To(at.Pulls == 1), ptr.To(int32(at.Pulls))
	out.ContainerLogMaxSize, out.ContainerLogMaxFiles = resource.NewQuantity(s.LogSize, resource.BinarySI).String(), ptr.To(int32(s.LogFiles))
	out.CrashLoopBackOff.MaxContainerRestartPeriod = &metav1.Duration{Duration: s.MaxDelay}
	out.SeccompDefault = ptr.To(true)
	out.VolumeStatsAggPeriod, out.SyncFrequency = second(60), second(60)
	return out
}
