// Package settings is what an operator tells the node agent beyond what fits a flag.
//
// In:       a KubeletConfiguration file (kubelet.config.k8s.io/v1beta1, the kubelet configuration reference), so that what was
//
//	written for another cluster can be used.
//
// Out:      Settings, complete and checked.
// Promise:  a field this agent would not heed is an error that names it: nobody believes in a bound that is not there.
// Not here: what only has to do with one flag (bootstrap/config).
package settings

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/workloads/agent/align"
	"knarr.dev/knarr/workloads/agent/exclusive"
	"knarr.dev/knarr/workloads/agent/garbage"
	"knarr.dev/knarr/workloads/agent/pressure"
	"knarr.dev/knarr/workloads/agent/shutdown"
)

// Settings of one node agent.
type Settings struct {
	Runtime       string              // endpoint of a container runtime to use instead of knarr's own; "" for none
	StaticPods    string              // folder of pods that run here whatever the API says; "" for none
	MaxPods       int64               // how many pods the scheduler may put here
	PodPids       int64               // how many processes and threads a pod may have: 0 for what suits the machine, -1 for no bound
	Reserved      corev1.ResourceList // of the machine, for others than pods: kubeReserved and systemReserved together
	Eviction      pressure.Thresholds // below which pods have to go
	Shutdown      []shutdown.Step     // what pods get when the machine goes down; empty: nothing
	LogSize       int64               // bytes of a container's log, before another is begun
	LogFiles      int                 // kept of one run of a container, the one being written included
	Images        garbage.Bounds      // when images go that nothing uses
	MaxDelay      time.Duration       // before a container that keeps ending is restarted
	LimitedSwap   bool                // burstable pods may swap, in proportion to their requests
	UnsafeSysctls []string            // that pods may set beside the safe ones; one that ends in * stands for all that begin so
	Exclusive     exclusive.Policy    // what containers have to themselves

	given kubeletv1beta1.KubeletConfiguration // as it was read
}

// longestDelay before a container that keeps ending is restarted, and the usual one (KEP-4603).
const longestDelay = 5 * time.Minute

// usual is what upstream's agent does when it is not told otherwise.
func usual() Settings {
	return Settings{
		MaxPods: 110, Eviction: pressure.Usual(), Exclusive: exclusive.Policy{Align: align.Policy{MaxNodes: fewNodes}},
		Images: garbage.Usual(), LogSize: 10 << 20, LogFiles: 5, MaxDelay: longestDelay,
	}
}

// Read reads a file; without a path everything is as usual.
func Read(path string) (Settings, error) {
	if path == "" {
		return usual(), nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("read the kubelet configuration: %w", err)
	}
	s, err := Parse(data)
	if err != nil {
		return Settings{}, fmt.Errorf("kubelet configuration %s: %w", path, err)
	}
	return s, nil
}

// heeded are the fields that mean something here, by their names in the file.
var heeded = []string{
	"allowedUnsafeSysctls", "containerLogMaxFiles", "containerLogMaxSize", "containerRuntimeEndpoint", "cpuManagerPolicy", "cpuManagerPolicyOptions", "crashLoopBackOff", "evictionHard",
	"imageGCHighThresholdPercent", "imageGCLowThresholdPercent", "imageMinimumGCAge", "kubeReserved", "maxPods", "memoryManagerPolicy", "memorySwap", "mergeDefaultEvictionSettings",
	"podPidsLimit", "reservedMemory", "reservedSystemCPUs", "shutdownGracePeriod", "shutdownGracePeriodByPodPriority", "shutdownGracePeriodCriticalPods", "staticPodPath", "systemReserved",
	"topologyManagerPolicy", "topologyManagerPolicyOptions", "topologyManagerScope",
}

// Parse reads a KubeletConfiguration, YAML or JSON. All mistakes are reported at once.
func Parse(data []byte) (Settings, error) {
	from := kubeletv1beta1.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict(data, &from); err != nil {
		return Settings{}, err
	}
	version := kubeletv1beta1.SchemeGroupVersion.String()
	if from.Kind != "KubeletConfiguration" || from.APIVersion != version {
		return Settings{}, fmt.Errorf("it is %s %s: begin it with apiVersion: %s and kind: KubeletConfiguration", from.APIVersion, from.Kind, version)
	}
	errs := unheeded(from)
	s := usual()
	s.given = from
	note := func(field string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", field, err))
		}
	}
	if s.Runtime = from.ContainerRuntimeEndpoint; s.Runtime != "" {
		_, err := config.Socket(s.Runtime)
		note("containerRuntimeEndpoint", err)
	}
	if s.StaticPods = from.StaticPodPath; s.StaticPods != "" && !filepath.IsAbs(s.StaticPods) {
		note("staticPodPath", fmt.Errorf("%q is not absolute: begin it with /", s.StaticPods))
	}
	if s.MaxPods = cmp.Or(int64(from.MaxPods), s.MaxPods); s.MaxPods < 0 {
		note("maxPods", fmt.Errorf("%d is less than 0: give how many pods this machine may have", s.MaxPods))
	}
	if limit := from.PodPidsLimit; limit != nil {
		if s.PodPids = *limit; s.PodPids == 0 {
			s.PodPids = -1 // as upstream's agent takes it
		}
		if s.PodPids < -1 {
			note("podPidsLimit", fmt.Errorf("%d is less than -1: give how many processes a pod may have, or -1 for no bound", s.PodPids))
		}
	}
	var err error
	s.Reserved, err = reserved(from.KubeReserved, from.SystemReserved)
	note("kubeReserved, systemReserved", err)
	if from.EvictionHard != nil {
		s.Eviction, err = pressure.ParseThresholds(from.EvictionHard, from.MergeDefaultEvictionSettings != nil && *from.MergeDefaultEvictionSettings)
		note("evictionHard", err)
	}
	s.Shutdown, err = shutdownSteps(from)
	note("shutdownGracePeriod", err)
	switch s.LimitedSwap = from.MemorySwap.SwapBehavior == "LimitedSwap"; from.MemorySwap.SwapBehavior {
	case "", "NoSwap", "LimitedSwap":
	default:
		note("memorySwap.swapBehavior", fmt.Errorf("%q is not known: use NoSwap or LimitedSwap", from.MemorySwap.SwapBehavior))
	}
	note("containerLogMaxSize, containerLogMaxFiles", s.logs(from))
	note("imageGCHighThresholdPercent, imageGCLowThresholdPercent, imageMinimumGCAge", s.images(from))
	if most := from.CrashLoopBackOff.MaxContainerRestartPeriod; most != nil {
		if s.MaxDelay = most.Duration; s.MaxDelay < time.Second || s.MaxDelay > longestDelay {
			note("crashLoopBackOff.maxContainerRestartPeriod", fmt.Errorf("%s is not from 1s to %s", s.MaxDelay, longestDelay))
		}
	}
	s.UnsafeSysctls = from.AllowedUnsafeSysctls
	s.Exclusive = exclusivePolicy(from, note)
	if n := s.Exclusive.ReservedCPUs.Size(); n > 0 { // they stand for the amounts
		s.Reserved[corev1.ResourceCPU] = *resource.NewQuantity(int64(n), resource.DecimalSI)
	}
	return s, errors.Join(errs...)
}

// logs takes in how much containers may write before it is thrown away.
func (s *Settings) logs(from kubeletv1beta1.KubeletConfiguration) error {
	if from.ContainerLogMaxSize != "" {
		size, err := resource.ParseQuantity(from.ContainerLogMaxSize)
		if err != nil || size.Sign() <= 0 {
			return fmt.Errorf("%q is not a size: give one such as 10Mi", from.ContainerLogMaxSize)
		}
		s.LogSize = size.Value()
	}
	if files := from.ContainerLogMaxFiles; files != nil {
		if *files < 2 {
			return fmt.Errorf("%d files are too few: give 2 or more", *files)
		}
		s.LogFiles = int(*files)
	}
	return nil
}

// images takes in when images go.
func (s *Settings) images(from kubeletv1beta1.KubeletConfiguration) error {
	for _, percent := range []struct {
		given *int32
		to    *uint64
	}{{from.ImageGCHighThresholdPercent, &s.Images.High}, {from.ImageGCLowThresholdPercent, &s.Images.Low}} {
		if percent.given == nil {
			continue
		}
		if *percent.given < 0 || *percent.given > 100 {
			return fmt.Errorf("%d is not a share: give one from 0 to 100", *percent.given)
		}
		*percent.to = uint64(*percent.given)
	}
	if s.Images.Low >= s.Images.High {
		return fmt.Errorf("images are to go from %d %% of the disk until %d %% are in use: give a low one below the high one", s.Images.High, s.Images.Low)
	}
	if age := from.ImageMinimumGCAge.Duration; age != 0 {
		if age < 0 {
			return fmt.Errorf("%s is less than 0", age)
		}
		s.Images.Youngest = age
	}
	return nil
}

// unheeded names what was set and would change nothing.
func unheeded(from kubeletv1beta1.KubeletConfiguration) []error {
	var errs []error
	value := reflect.ValueOf(from)
	for i := range value.NumField() {
		name, _, _ := strings.Cut(value.Type().Field(i).Tag.Get("json"), ",")
		if name != "" && !value.Field(i).IsZero() && !slices.Contains(heeded, name) {
			errs = append(errs, fmt.Errorf("%s is not heeded here: remove it (what is: %s)", name, strings.Join(heeded, ", ")))
		}
	}
	return errs
}

// systemCritical is the lowest priority of the system's own pods.
const systemCritical = 2000000000

func shutdownSteps(from kubeletv1beta1.KubeletConfiguration) ([]shutdown.Step, error) {
	all, critical := from.ShutdownGracePeriod.Duration, from.ShutdownGracePeriodCriticalPods.Duration
	switch {
	case len(from.ShutdownGracePeriodByPodPriority) > 0 && (all != 0 || critical != 0):
		return nil, errors.New("it goes together with shutdownGracePeriodCriticalPods only: remove these two, or shutdownGracePeriodByPodPriority")
	case all < 0 || critical < 0 || critical > all:
		return nil, fmt.Errorf("of %s for all pods, critical ones cannot have %s: give them 0s to %s", all, critical, all)
	case all%time.Second != 0 || critical%time.Second != 0:
		return nil, errors.New("it has to be whole seconds")
	case all > 0:
		return []shutdown.Step{{Priority: 0, Grace: all - critical}, {Priority: systemCritical, Grace: critical}}, nil
	}
	var steps []shutdown.Step
	for _, step := range from.ShutdownGracePeriodByPodPriority {
		if step.ShutdownGracePeriodSeconds < 0 || slices.ContainsFunc(steps, func(s shutdown.Step) bool { return s.Priority == step.Priority }) {
			return nil, fmt.Errorf("shutdownGracePeriodByPodPriority names priority %d twice, or gives it less than 0 s", step.Priority)
		}
		steps = append(steps, shutdown.Step{Priority: step.Priority, Grace: time.Duration(step.ShutdownGracePeriodSeconds) * time.Second})
	}
	return steps, nil
}

// reservable is what a machine can keep from its pods.
var reservable = []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "pid"}

func reserved(lists ...map[string]string) (corev1.ResourceList, error) {
	sum := corev1.ResourceList{}
	var errs []error
	for _, list := range lists {
		for _, key := range slices.Sorted(maps.Keys(list)) {
			name := corev1.ResourceName(key)
			amount, err := resource.ParseQuantity(list[key])
			switch {
			case !slices.Contains(reservable, name):
				errs = append(errs, fmt.Errorf("%q cannot be reserved: use %v", key, reservable))
			case err != nil || amount.Sign() < 0:
				errs = append(errs, fmt.Errorf("%s: %q is not an amount: give one such as 500m or 256Mi", key, list[key]))
			default:
				total := sum[name]
				total.Add(amount)
				sum[name] = total
			}
		}
	}
	return sum, errors.Join(errs...)
}

// Allocatable is what pods may have of a machine: what is not reserved, and not kept back so that pods have to go before the
// machine stops.
func (s Settings) Allocatable(capacity corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, total := range capacity {
		left := total.DeepCopy()
		left.Sub(s.Reserved[name])
		switch name {
		case corev1.ResourceMemory:
			left.Sub(*resource.NewQuantity(int64(s.Eviction[pressure.MemoryAvailable].Of(uint64(total.Value()))), resource.BinarySI))
		case corev1.ResourceEphemeralStorage:
			left.Sub(*resource.NewQuantity(int64(s.Eviction[pressure.NodeAvailable].Of(uint64(total.Value()))), resource.BinarySI))
		}
		if left.Sign() < 0 {
			left = *resource.NewQuantity(0, left.Format)
		}
		out[name] = left
	}
	return out
}
