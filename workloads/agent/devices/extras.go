package devices

import (
	"maps"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	pluginv1 "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"knarr.dev/knarr/workloads/agent/translate"
)

// add puts a plugin's answer into the runtime's words.
func add(out *translate.Extras, answer *pluginv1.ContainerAllocateResponse) {
	for _, key := range slices.Sorted(maps.Keys(answer.Envs)) {
		out.Env = append(out.Env, &runtimeapi.KeyValue{Key: key, Value: []byte(answer.Envs[key])})
	}
	for _, mount := range answer.Mounts {
		out.Mounts = append(out.Mounts, &runtimeapi.Mount{ContainerPath: mount.ContainerPath, HostPath: mount.HostPath, Readonly: mount.ReadOnly})
	}
	for _, d := range answer.Devices {
		out.Devices = append(out.Devices, &runtimeapi.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
	}
	for _, d := range answer.CdiDevices {
		out.CDI = append(out.CDI, d.Name)
	}
	for key, value := range answer.Annotations {
		if out.Annotations == nil {
			out.Annotations = map[string]string{}
		}
		out.Annotations[key] = value
	}
}
