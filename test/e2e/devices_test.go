package e2e

import (
	"fmt"
	"path/filepath"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/workloads/agent/devices/plugintest"
)

// pluginsDevice shows what a device plugin has as the node's, and one of it as a pod's.
func pluginsDevice(c *cluster) {
	const gpu = "example.com/gpu"
	plugin, err := plugintest.Start(c.t.Context(), filepath.Join(c.server.DataDir(), "agent", "device-plugins"), gpu, map[string]bool{"one": true, "two": false})
	if err != nil {
		c.t.Fatal(err)
	}
	defer plugin.Stop()
	c.eventually("the node has the devices", func() error {
		node, err := c.client.CoreV1().Nodes().Get(c.t.Context(), c.server.Name(), metav1.GetOptions{})
		if err != nil {
			return err
		}
		all, working := node.Status.Capacity[gpu], node.Status.Allocatable[gpu]
		if all.Value() != 2 || working.Value() != 1 {
			return fmt.Errorf("%v of %v devices", working.Value(), all.Value())
		}
		return nil
	})
	container := app("serve")
	container.Resources.Limits = corev1.ResourceList{gpu: resource.MustParse("1")}
	c.create(pod("equipped", container))
	c.awaitPod("equipped", "to be ready", podReady)
	if got := c.exec("equipped", "env"); !strings.Contains(got, "DEVICES=one\n") {
		c.t.Errorf("the container has %q", got)
	}
	c.kubectl("delete", "pod", "equipped", "--now")
}
