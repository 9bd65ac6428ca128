package e2e

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	registerv1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/ptr"

	"knarr.dev/knarr/test/lab/lab"
)

const claimDriver = "gpu.example"

// driver has one device, which is an environment variable in containers.
type driver struct {
	drav1.UnimplementedDRAPluginServer
	registerv1.UnimplementedRegistrationServer
	machine    *lab.Machine
	endpoint   string
	unprepared chan string
}

const deviceFile = "/var/run/cdi/gpu.example.json" // on the machine

func (d *driver) GetInfo(context.Context, *registerv1.InfoRequest) (*registerv1.PluginInfo, error) {
	return &registerv1.PluginInfo{Type: registerv1.DRAPlugin, Name: claimDriver, Endpoint: d.endpoint, SupportedVersions: []string{drav1.DRAPluginService}}, nil
}

func (d *driver) NotifyRegistrationStatus(context.Context, *registerv1.RegistrationStatus) (*registerv1.RegistrationStatusResponse, error) {
	return &registerv1.RegistrationStatusResponse{}, nil
}

func (d *driver) NodePrepareResources(_ context.Context, q *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	out := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, c := range q.Claims {
		err := d.machine.Do(func() error {
			if err := os.MkdirAll(filepath.Dir(deviceFile), 0o755); err != nil {
				return err
			}
			spec := fmt.Sprintf(`{"cdiVersion": "0.6.0", "kind": "gpu.example/gpu", "devices": [{"name": %q, "containerEdits": {"env": ["CLAIMED=d0"]}}]}`, c.Uid)
			return os.WriteFile(deviceFile, []byte(spec), 0o644)
		})
		if err != nil {
			return nil, err
		}
		out.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Devices: []*drav1.Device{
			{RequestNames: []string{"one"}, PoolName: "pool", DeviceName: "d0", CdiDeviceIds: []string{"gpu.example/gpu=" + c.Uid}},
		}}
	}
	return out, nil
}

func (d *driver) NodeUnprepareResources(_ context.Context, q *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	out := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range q.Claims {
		if err := d.machine.Do(func() error { return os.Remove(deviceFile) }); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		out.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{}
		d.unprepared <- c.Name
	}
	return out, nil
}

// claimsDevice shows a device from its driver to the container: published, chosen by the scheduler, prepared on the node, in the
// container by its name in the Container Device Interface, and given back.
func claimsDevice(c *cluster) {
	ctx, folder := c.t.Context(), filepath.Join(c.server.DataDir(), "agent")
	d := &driver{machine: c.server, endpoint: filepath.Join(folder, "plugins", "gpu.sock"), unprepared: make(chan string, 10)}
	if err := os.MkdirAll(filepath.Dir(d.endpoint), 0o700); err != nil {
		c.t.Fatal(err)
	}
	for _, socket := range []string{d.endpoint, filepath.Join(folder, "plugins_registry", "gpu.sock")} {
		listener, err := net.Listen("unix", socket)
		if err != nil {
			c.t.Fatal(err)
		}
		serving := grpc.NewServer()
		drav1.RegisterDRAPluginServer(serving, d)
		registerv1.RegisterRegistrationServer(serving, d)
		go func() { _ = serving.Serve(listener) }() // ends with Stop
		c.t.Cleanup(serving.Stop)
	}
	made := func(_ any, err error) {
		c.t.Helper()
		if err != nil {
			c.t.Fatal(err)
		}
	}
	api := c.client.ResourceV1()
	made(api.ResourceSlices().Create(ctx, &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "gpus"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: claimDriver, NodeName: ptr.To(c.server.Name()), Pool: resourcev1.ResourcePool{Name: "pool", ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "d0"}},
	}}, metav1.CreateOptions{}))
	made(api.DeviceClasses().Create(ctx, &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: claimDriver}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: `device.driver == "gpu.example"`}}},
	}}, metav1.CreateOptions{}))
	made(api.ResourceClaimTemplates("default").Create(ctx, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.ResourceClaimTemplateSpec{
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
			{Name: "one", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: claimDriver}},
		}}},
	}}, metav1.CreateOptions{}))
	container := app("serve")
	container.Resources.Claims = []corev1.ResourceClaim{{Name: "mine"}}
	p := pod("claimant", container)
	p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "mine", ResourceClaimTemplateName: ptr.To("gpu")}}
	c.create(p)
	c.awaitPod(p.Name, "to be ready", podReady)
	if got := c.exec(p.Name, "env"); !strings.Contains(got, "CLAIMED=d0\n") {
		c.t.Errorf("the container has %q", got)
	}
	told := c.resourcesOf(p.Name).Containers[0].DynamicResources
	if len(told) != 1 || len(told[0].ClaimResources) != 1 || told[0].ClaimResources[0].DeviceName != "d0" || told[0].ClaimResources[0].DriverName != claimDriver {
		c.t.Errorf("programs on the node are told of %v", told)
	}
	c.kubectl("delete", "pod", p.Name, "--now")
	select {
	case name := <-d.unprepared:
		if !strings.HasPrefix(name, "claimant-mine-") {
			c.t.Errorf("claim %s was given back", name)
		}
	case <-ctx.Done():
		c.t.Error("the claim was not given back")
	}
}

// resourcesOf asks the node, as a program on it does, what a pod has.
func (c *cluster) resourcesOf(name string) *podresourcesv1.PodResources {
	c.t.Helper()
	conn, err := grpc.NewClient("unix:"+filepath.Join(c.server.DataDir(), "agent", "pod-resources", "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		c.t.Fatal(err)
	}
	defer conn.Close()
	answer, err := podresourcesv1.NewPodResourcesListerClient(conn).Get(c.t.Context(), &podresourcesv1.GetPodResourcesRequest{PodName: name, PodNamespace: "default"})
	if err != nil {
		c.t.Fatal(err)
	}
	return answer.PodResources
}
