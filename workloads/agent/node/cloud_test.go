package node

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	cloudprovider "k8s.io/cloud-provider"
	cloudproviderapi "k8s.io/cloud-provider/api"
	cloudnode "k8s.io/cloud-provider/controllers/node"
	fakecloud "k8s.io/cloud-provider/fake"
	controllersmetrics "k8s.io/component-base/metrics/prometheus/controllers"
)

// TestACloudInitializesTheNode runs the library's node controller on its fake cloud beside a node that awaits one.
func TestACloudInitializesTheNode(t *testing.T) {
	engine := &engine{}
	engine.network.Store(true)
	_, client := start(t, engine, Config{External: true})
	waits := func(node *corev1.Node) bool {
		for _, taint := range node.Spec.Taints {
			if taint.Key == cloudproviderapi.TaintExternalCloudProvider && taint.Effect == corev1.TaintEffectNoSchedule {
				return true
			}
		}
		return false
	}
	becomes(t, client, "waiting for a cloud", func(node *corev1.Node) bool {
		return waits(node) && node.Annotations[cloudproviderapi.AnnotationAlphaProvidedIPAddr] == "10.0.0.1"
	})

	inside, outside := corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "198.51.100.1"}
	cloud := &fakecloud.Cloud{
		EnableInstancesV2: true, ExistsByProviderID: true, Addresses: []corev1.NodeAddress{inside, outside}, ProviderID: map[types.NodeName]string{"n1": "fake://1"},
		Zone: cloudprovider.Zone{FailureDomain: "here", Region: "north"},
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	controller, err := cloudnode.NewCloudNodeController(factory.Core().V1().Nodes(), client, cloud, time.Minute, 1, 1)
	if err != nil {
		t.Fatal(err)
	}
	factory.Start(t.Context().Done())
	go controller.RunWithContext(t.Context(), controllersmetrics.NewControllerManagerMetrics("test"))
	initialized := func(node *corev1.Node) bool {
		return !waits(node) && node.Spec.ProviderID == "fake://1" && node.Labels[corev1.LabelTopologyZone] == "here" && slices.Contains(node.Status.Addresses, outside)
	}
	becomes(t, client, "initialized by the cloud", initialized)

	assignRange(t, client) // which makes the node write its status
	becomes(t, client, "ready with the addresses the cloud gave it", func(node *corev1.Node) bool { return readyNode(node) && initialized(node) })
}
