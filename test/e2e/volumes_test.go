package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// claimOutlivesPods shows a volume of the default class: made for the first pod, found by the next, gone with its claim.
func claimOutlivesPods(c *cluster) {
	ctx := c.t.Context()
	claims, volumes := c.client.CoreV1().PersistentVolumeClaims("default"), c.client.CoreV1().PersistentVolumes()
	claim := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
	if _, err := claims.Create(ctx, claim, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	user := func(name string) {
		container := app("serve")
		container.VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
		p := pod(name, container)
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
		c.create(p)
		c.awaitPod(name, "to be ready", podReady)
	}
	user("writer")
	c.exec("writer", "write", "/data/note", "kept")
	c.kubectl("delete", "pod", "writer", "--now")
	user("reader")
	if got := c.exec("reader", "read", "/data/note"); got != "kept" {
		c.t.Errorf("the second pod reads %q; want kept", got)
	}
	bound, err := claims.Get(ctx, "data", metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	volume, err := volumes.Get(ctx, bound.Spec.VolumeName, metav1.GetOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	c.kubectl("delete", "pod", "reader", "--now")
	c.kubectl("delete", "pvc", "data")
	c.eventually("the volume and its folder are gone", func() error {
		_, err := volumes.Get(ctx, volume.Name, metav1.GetOptions{})
		if _, left := os.Stat(volume.Spec.Local.Path); !apierrors.IsNotFound(err) || !os.IsNotExist(left) {
			return fmt.Errorf("volume: %v, folder: %v", err, left)
		}
		return nil
	})
}

// whyExplains shows knarr why for a pod no node has room for, and for one whose container ends.
func whyExplains(c *cluster) {
	huge := pod("huge", app("serve"))
	huge.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("900")}
	c.create(huge)
	c.create(pod("ending", app("exit", "3")))
	for name, want := range map[string][]string{
		"pod/huge":   {"none of", "Insufficient cpu", "more than node", "add a larger node"},
		"pod/ending": {"ends each time it is started", "exit code 3"},
		"pod/nobody": {"There is no pod nobody"},
	} {
		c.eventually("knarr why "+name+" explains", func() error {
			out, err := c.onMachine(c.server, "why", name, "--kubeconfig", c.server.Kubeconfig())
			for _, words := range want {
				if !strings.Contains(out, words) {
					err = errors.Join(err, fmt.Errorf("%q is not said in:\n%s", words, out))
				}
			}
			return err
		})
	}
	c.kubectl("delete", "pod", "huge", "ending", "--now")
}
