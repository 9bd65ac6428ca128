package translate

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/workloads/agent/cgroup"
)

// ContainerInput is what one container's configuration is made of, beside the pod.
type ContainerInput struct {
	Attempt     uint32
	Round       int    // of the pod: how often all its containers were started anew
	ImageRef    string // as the runtime knows it
	Image       Image
	Env         []*runtimeapi.KeyValue
	VolumePaths map[string]string // host path of each volumeMount, by its index's key; see MountKey
	// ImageVolumes are the images that are volumes, by the volume's name: the runtime mounts them itself.
	ImageVolumes map[string]*runtimeapi.ImageSpec
	Shared       map[string]string // what all containers of the pod have in common: path in the container to path here
	Extras       Extras            // what its devices need
	Place        Place             // where it runs
	MessageFile  string            // receives the termination message
	Users        *Users            // of the pod, as of its sandbox
	TargetID     string            // container whose processes an ephemeral container sees
}

// Extras are what plugins that own a container's devices want in it.
type Extras struct {
	Env         []*runtimeapi.KeyValue
	Mounts      []*runtimeapi.Mount
	Devices     []*runtimeapi.Device
	CDI         []string // qualified names of devices (Container Device Interface)
	Annotations map[string]string
}

// Add puts more to it.
func (e *Extras) Add(more Extras) {
	e.Env, e.Mounts, e.Devices, e.CDI = append(e.Env, more.Env...), append(e.Mounts, more.Mounts...), append(e.Devices, more.Devices...), append(e.CDI, more.CDI...)
	for key, value := range more.Annotations {
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		e.Annotations[key] = value
	}
}

// into the container. What the pod says itself, about its environment too, comes later and wins.
func (e Extras) into(conf *runtimeapi.ContainerConfig) {
	conf.Envs = append(slices.Clone(e.Env), conf.Envs...)
	conf.Mounts = append(conf.Mounts, e.Mounts...)
	conf.Devices = append(conf.Devices, e.Devices...)
	for _, name := range e.CDI {
		conf.CDIDevices = append(conf.CDIDevices, &runtimeapi.CDIDevice{Name: name})
	}
	for key, value := range e.Annotations {
		if _, ours := conf.Annotations[key]; !ours {
			conf.Annotations[key] = value
		}
	}
}

// MountKey names a volume mount of a container: a volume can be mounted more than once, with different sub-paths.
func MountKey(index int) string { return strconv.Itoa(index) }

// Container is the runtime's configuration of one container.
func Container(pod *corev1.Pod, c *corev1.Container, node Node, in ContainerInput) (*runtimeapi.ContainerConfig, error) {
	security, err := containerSecurity(pod, c, node, in.Image)
	if err != nil {
		return nil, err
	}
	security.NamespaceOptions.UsernsOptions = in.Users.namespace()
	if in.TargetID != "" {
		security.NamespaceOptions.Pid = runtimeapi.NamespaceMode_TARGET
		security.NamespaceOptions.TargetId = in.TargetID
	}
	mounts, devices, err := mountsOf(pod, c, in)
	if err != nil {
		return nil, err
	}
	in.Users.shift(mounts)
	env := make(map[string]string, len(in.Env))
	for _, kv := range in.Env {
		env[kv.Key] = string(kv.Value)
	}
	labels := podLabels(pod)
	labels[LabelContainer] = c.Name
	notes := map[string]string{
		NoteHash:          Hash(c),
		NoteRestarts:      strconv.Itoa(int(in.Attempt)),
		NoteMessagePath:   c.TerminationMessagePath,
		NoteMessagePolicy: string(c.TerminationMessagePolicy),
		NoteMessageFile:   in.MessageFile,
		NoteGrace:         strconv.FormatInt(Grace(pod), 10),
	}
	if in.Place.Own {
		notes[NoteOwnCPUs] = "true"
	}
	if in.Round > 0 {
		notes[NoteRound] = strconv.Itoa(in.Round)
	}
	if security.Seccomp.GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault {
		notes[NoteSeccomp] = string(corev1.SeccompProfileTypeRuntimeDefault)
	}
	conf := &runtimeapi.ContainerConfig{
		Metadata:    &runtimeapi.ContainerMetadata{Name: c.Name, Attempt: in.Attempt},
		Image:       &runtimeapi.ImageSpec{Image: in.ImageRef, UserSpecifiedImage: c.Image},
		Command:     expandAll(c.Command, env),
		Args:        expandAll(c.Args, env),
		WorkingDir:  c.WorkingDir,
		Envs:        in.Env,
		Mounts:      mounts,
		Devices:     devices,
		Labels:      labels,
		Annotations: notes,
		LogPath:     LogFile(c.Name, in.Attempt),
		Stdin:       c.Stdin,
		StdinOnce:   c.StdinOnce,
		Tty:         c.TTY,
		StopSignal:  signal(c.Lifecycle),
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources:       in.Place.in(Resources(pod, c, node)),
			SecurityContext: security,
		},
	}
	in.Extras.into(conf)
	return conf, nil
}

func expandAll(list []string, env map[string]string) []string {
	if len(list) == 0 {
		return nil // the image's own; an empty list would mean nothing at all
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = expandVars(s, env)
	}
	return out
}

func mountsOf(pod *corev1.Pod, c *corev1.Container, in ContainerInput) ([]*runtimeapi.Mount, []*runtimeapi.Device, error) {
	var mounts []*runtimeapi.Mount
	own := map[string]bool{}
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		image := in.ImageVolumes[vm.Name]
		host, ok := in.VolumePaths[MountKey(i)]
		if !ok && image == nil {
			return nil, nil, badConfig("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		target := vm.MountPath
		if !filepath.IsAbs(target) {
			target = filepath.Join("/", target)
		}
		own[target] = true
		if image != nil {
			mounts = append(mounts, &runtimeapi.Mount{ContainerPath: target, Image: image, ImageSubPath: vm.SubPath, Readonly: true})
			continue
		}
		m := &runtimeapi.Mount{ContainerPath: target, HostPath: host, Readonly: vm.ReadOnly}
		switch ptr.Deref(vm.MountPropagation, corev1.MountPropagationNone) {
		case corev1.MountPropagationHostToContainer:
			m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case corev1.MountPropagationBidirectional:
			m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
		m.RecursiveReadOnly = vm.ReadOnly && ptr.Deref(vm.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled) == corev1.RecursiveReadOnlyEnabled
		mounts = append(mounts, m)
	}
	for _, target := range slices.Sorted(maps.Keys(in.Shared)) {
		if !own[target] {
			mounts = append(mounts, &runtimeapi.Mount{
				ContainerPath: target, HostPath: in.Shared[target], SelinuxRelabel: true, Readonly: readOnly(c, target),
			})
		}
	}
	if in.MessageFile != "" && c.TerminationMessagePath != "" {
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: in.MessageFile, SelinuxRelabel: true})
	}
	var devices []*runtimeapi.Device
	for i := range c.VolumeDevices {
		host, ok := in.VolumePaths[c.VolumeDevices[i].Name]
		if !ok {
			return nil, nil, badConfig("cannot find block volume %q of container %q", c.VolumeDevices[i].Name, c.Name)
		}
		devices = append(devices, &runtimeapi.Device{HostPath: host, ContainerPath: c.VolumeDevices[i].DevicePath, Permissions: "mrw"})
	}
	return mounts, devices, nil
}

// readOnly: what names the machine is as read-only as the container's root. Its hosts file stays writable, as with the
// kubelet, and so does shared memory.
func readOnly(c *corev1.Container, target string) bool {
	root := c.SecurityContext != nil && ptr.Deref(c.SecurityContext.ReadOnlyRootFilesystem, false)
	return root && (target == HostnamePath || target == ResolvConfPath)
}

// Resources bound one container.
func Resources(pod *corev1.Pod, c *corev1.Container, node Node) *runtimeapi.LinuxContainerResources {
	r := Wanted(c).Change(Bounds{Quota: unlimited, Memory: unlimited})
	r.OomScoreAdj = OOMScoreAdj(pod, c, node.MemoryBytes)
	r.HugepageLimits = hugepages(pod, c, node.PageSizes)
	if node.Unified {
		// One process killed for memory leaves a container half-alive; kill it whole.
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	if node.Unified && node.Swap.Bounded {
		r.Unified["memory.swap.max"] = strconv.FormatInt(swapOf(pod, c, node), 10)
	}
	return r
}

// swapOf is how much a container may swap, in bytes (KEP-2400): where pods may at all, a burstable one has the part of the
// machine's swap that its request is of the machine's memory. Who has all that it may use reserved, or nothing, has none, and
// so has what the node cannot do without.
func swapOf(pod *corev1.Pod, c *corev1.Container, node Node) int64 {
	request, limit := c.Resources.Requests[corev1.ResourceMemory], c.Resources.Limits[corev1.ResourceMemory]
	critical := ptr.Deref(pod.Spec.Priority, 0) >= systemCritical
	if !node.Swap.Limited || critical || cgroup.QOS(pod) != corev1.PodQOSBurstable || request.IsZero() || request.Cmp(limit) == 0 || node.MemoryBytes <= 0 {
		return 0
	}
	return int64(float64(request.Value()) / float64(node.MemoryBytes) * float64(node.Swap.Bytes))
}

const systemCritical = 2000000000 // the lowest priority of the system's own pods

// hugepages hold a container to what it asks for: to none of a size it does not name, unless its pod as a whole asks for that
// size (KEP-2837), which then bounds them all.
func hugepages(pod *corev1.Pod, c *corev1.Container, sizes []corev1.ResourceName) []*runtimeapi.HugepageLimit {
	limits := corev1.ResourceList{}
	for _, name := range sizes {
		limits[name] = resource.Quantity{}
	}
	if pod.Spec.Resources != nil {
		maps.Copy(limits, pod.Spec.Resources.Limits)
	}
	maps.Copy(limits, c.Resources.Limits)
	var out []*runtimeapi.HugepageLimit
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		if size, ok := cgroup.PageSize(name); ok {
			limit := limits[name]
			out = append(out, &runtimeapi.HugepageLimit{PageSize: size, Limit: uint64(limit.Value())})
		}
	}
	return out
}

const nodeCritical = 2000001000 // priority of system-node-critical

// OOMScoreAdj makes the kernel kill best-effort containers first and guaranteed ones last; between them, who asked for
// more memory is killed later.
func OOMScoreAdj(pod *corev1.Pod, c *corev1.Container, machine int64) int64 {
	if ptr.Deref(pod.Spec.Priority, 0) >= nodeCritical {
		return -997
	}
	switch cgroup.QOS(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	if machine <= 0 {
		return 999
	}
	return min(max(1000-1000*c.Resources.Requests.Memory().Value()/machine, 3), 999)
}
