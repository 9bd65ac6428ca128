package faults

import (
	"fmt"
	"math/rand/v2"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"knarr.dev/knarr/test/images"
)

func app(name string, args ...string) corev1.Container {
	return corev1.Container{Name: name, Image: images.App, Args: args, ImagePullPolicy: corev1.PullIfNotPresent}
}

// ordinary pods: every kind takes another way up and down.
var ordinary = []func(p *corev1.Pod, r *rand.Rand){
	func(p *corev1.Pod, r *rand.Rand) { // one container, asked whether it is ready
		c := app("c", "serve")
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/healthz", Port: intstr.FromInt32(8080)}}}
		p.Spec.Containers = []corev1.Container{c}
	},
	func(p *corev1.Pod, r *rand.Rand) { // hooks, and a second container that waits for the first's
		a, b := app("a", "sleep"), app("b", "sleep")
		hook := &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"/app", "echo", "hook"}}}
		a.Lifecycle = &corev1.Lifecycle{PostStart: hook, PreStop: hook}
		p.Spec.Containers = []corev1.Container{a, b}
	},
	func(p *corev1.Pod, r *rand.Rand) { // one that must end before the other begins
		p.Spec.InitContainers = []corev1.Container{app("first", "sleep", "0.1"), app("second", "echo", "done")}
		p.Spec.Containers = []corev1.Container{app("c", "sleep")}
	},
	func(p *corev1.Pod, r *rand.Rand) { // a sidecar
		side := app("side", "serve")
		always := corev1.ContainerRestartPolicyAlways
		side.RestartPolicy = &always
		p.Spec.InitContainers = []corev1.Container{side}
		p.Spec.Containers = []corev1.Container{app("c", "sleep")}
	},
	func(p *corev1.Pod, r *rand.Rand) { // volumes
		c := app("c", "sleep")
		for name, source := range map[string]corev1.VolumeSource{
			"disk":   {EmptyDir: &corev1.EmptyDirVolumeSource{}},
			"memory": {EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse("8Mi"))}},
			"config": {ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
		} {
			p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: name, MountPath: "/" + name})
		}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "disk", MountPath: "/part", SubPath: "a/b"})
		p.Spec.Containers = []corev1.Container{c}
	},
	func(p *corev1.Pod, r *rand.Rand) { // a port of the node
		c := app("c", "serve")
		c.Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 20000 + r.Int32N(10000)}}
		p.Spec.Containers = []corev1.Container{c}
	},
	func(p *corev1.Pod, r *rand.Rand) { // the node's network
		p.Spec.HostNetwork = true
		p.Spec.Containers = []corev1.Container{app("c", "sleep")}
	},
	func(p *corev1.Pod, r *rand.Rand) { // one that has to be killed
		p.Spec.Containers = []corev1.Container{app("c", "stubborn")}
	},
	func(p *corev1.Pod, r *rand.Rand) { // one that ends well
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers = []corev1.Container{app("c", "exit", "0", "done")}
	},
	func(p *corev1.Pod, r *rand.Rand) { // one that fails
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Containers = []corev1.Container{app("c", "exit", "3")}
	},
}

// newPod is one of a kind; nothing in it takes long to end.
func newPod(name string, kind int, r *rand.Rand) *corev1.Pod {
	grace := int64(1)
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"part": "fleet", "kind": fmt.Sprint(kind)}},
		Spec:       corev1.PodSpec{TerminationGracePeriodSeconds: &grace},
	}
	ordinary[kind](p, r)
	for i := range p.Spec.Containers {
		p.Spec.Containers[i].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi"), corev1.ResourceCPU: resource.MustParse("1")}
		p.Spec.Containers[i].Resources.Requests = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("16Mi"), corev1.ResourceCPU: resource.MustParse("10m")}
	}
	return p
}
