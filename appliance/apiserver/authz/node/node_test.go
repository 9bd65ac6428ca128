package node

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

// cluster has objects and what an old look at its pods shows.
type cluster struct {
	pods, oldPods []*corev1.Pod
	claims        []*corev1.PersistentVolumeClaim
	volumes       []*corev1.PersistentVolume
	attachments   []*storagev1.VolumeAttachment
	policies      bool // there are network policies
	err           error
}

func (c *cluster) AnyNetworkPolicy(context.Context, bool) (bool, error) { return c.policies, c.err }

func (c *cluster) PodsOn(_ context.Context, node string, fresh bool) ([]*corev1.Pod, error) {
	pods := c.pods
	if !fresh && c.oldPods != nil {
		pods = c.oldPods
	}
	var out []*corev1.Pod
	for _, pod := range pods {
		if pod.Spec.NodeName == node {
			out = append(out, pod)
		}
	}
	return out, c.err
}

func find[T metav1.Object](objects []T, namespace, name string) (found T, err error) {
	for _, object := range objects {
		if object.GetNamespace() == namespace && object.GetName() == name {
			return object, nil
		}
	}
	return found, apierrors.NewNotFound(schema.GroupResource{}, name)
}

func (c *cluster) Claim(_ context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return find(c.claims, namespace, name)
}

func (c *cluster) Volume(_ context.Context, name string) (*corev1.PersistentVolume, error) {
	return find(c.volumes, "", name)
}

func (c *cluster) Attachment(_ context.Context, name string) (*storagev1.VolumeAttachment, error) {
	return find(c.attachments, "", name)
}

func webPod(node string) *corev1.Pod {
	local := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "pod-1"},
		Spec: corev1.PodSpec{
			NodeName: node, ServiceAccountName: "web", ImagePullSecrets: []corev1.LocalObjectReference{local("pull")},
			InitContainers: []corev1.Container{{Env: []corev1.EnvVar{
				{ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: local("init-secret")}}},
			}}},
			Containers: []corev1.Container{{
				EnvFrom: []corev1.EnvFromSource{
					{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: local("env-map")}},
					{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("env-secret")}},
				},
				Env: []corev1.EnvVar{{Name: "plain"}, {ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: local("key-map")}}}},
			}},
			EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
				EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: local("debug-secret")}}},
			}}},
			Volumes: []corev1.Volume{
				{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted-secret"}}},
				{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: local("mounted-map")}}},
				{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{Secret: &corev1.SecretProjection{LocalObjectReference: local("projected-secret")}},
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: local("kube-root-ca.crt")}},
				}}}},
				{VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{NodePublishSecretRef: ptr.To(local("csi-secret"))}}},
				{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
				{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("shared-gpu")}, {Name: "nic"}},
		},
		Status: corev1.PodStatus{ResourceClaimStatuses: []corev1.PodResourceClaimStatus{{Name: "nic", ResourceClaimName: ptr.To("web-nic-1")}}},
	}
}

func wholeCluster() *cluster {
	bound := func(name, claim, secret string) *corev1.PersistentVolume {
		return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: claim, UID: "claim-1"},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
				NodePublishSecretRef: &corev1.SecretReference{Name: secret}, NodeStageSecretRef: &corev1.SecretReference{Namespace: "storage", Name: secret},
			}},
		}}
	}
	claim := func(name, volume string) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: "claim-1"}, Spec: corev1.PersistentVolumeClaimSpec{VolumeName: volume},
		}
	}
	other := webPod("beta")
	other.Name, other.Spec.Volumes = "other", []corev1.Volume{
		{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "others-secret"}}},
	}
	return &cluster{
		pods:    []*corev1.Pod{webPod("alpha"), other},
		claims:  []*corev1.PersistentVolumeClaim{claim("data", "volume-1"), claim("web-scratch", "volume-2")},
		volumes: []*corev1.PersistentVolume{bound("volume-1", "data", "volume-secret"), bound("volume-2", "somebody-elses", "stolen-secret"), bound("volume-3", "third", "third-secret")},
		attachments: []*storagev1.VolumeAttachment{
			{ObjectMeta: metav1.ObjectMeta{Name: "here"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "alpha"}},
			{ObjectMeta: metav1.ObjectMeta{Name: "there"}, Spec: storagev1.VolumeAttachmentSpec{NodeName: "beta"}},
		},
	}
}

func TestDecide(t *testing.T) {
	alpha := &user.DefaultInfo{Name: "system:node:alpha", Groups: []string{"system:nodes", "system:authenticated"}}
	request := func(verb, group, resource, subresource, namespace, name string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{
			User: alpha, Verb: verb, APIGroup: group, Resource: resource, Subresource: subresource, Namespace: namespace, Name: name, ResourceRequest: true,
		}
	}
	inShop := func(verb, resource, name string) authorizer.AttributesRecord {
		return request(verb, "", resource, "", "shop", name)
	}
	selecting := func(r authorizer.AttributesRecord, selector string) authorizer.AttributesRecord {
		r.FieldSelectorRequirements = fields.ParseSelectorOrDie(selector).Requirements()
		return r
	}
	as := func(u *user.DefaultInfo, r authorizer.AttributesRecord) authorizer.AttributesRecord {
		r.User = u
		return r
	}
	tests := map[string]struct {
		request authorizer.AttributesRecord
		want    bool
	}{
		// Itself.
		"reads its node":               {request("get", "", "nodes", "", "", "alpha"), true},
		"watches its node":             {request("watch", "", "nodes", "", "", "alpha"), true},
		"registers":                    {request("create", "", "nodes", "", "", ""), true},
		"reports its status":           {request("patch", "", "nodes", "status", "", "alpha"), true},
		"reports no other's status":    {request("patch", "", "nodes", "status", "", "beta"), false},
		"reads no other node":          {request("get", "", "nodes", "", "", "beta"), false},
		"lists no nodes":               {request("list", "", "nodes", "", "", ""), false},
		"deletes no node":              {request("delete", "", "nodes", "", "", "alpha"), false},
		"renews its lease":             {request("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "alpha"), true},
		"renews no other's lease":      {request("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "beta"), false},
		"renews no leader's lease":     {request("update", "coordination.k8s.io", "leases", "", "kube-system", "alpha"), false},
		"creates a lease in its place": {request("create", "coordination.k8s.io", "leases", "", "kube-node-lease", ""), true},
		"creates none elsewhere":       {request("create", "coordination.k8s.io", "leases", "", "kube-system", ""), false},
		"writes its CSINode":           {request("update", "storage.k8s.io", "csinodes", "", "", "alpha"), true},
		"writes no other's CSINode":    {request("update", "storage.k8s.io", "csinodes", "", "", "beta"), false},
		"lists its resource slices":    {selecting(request("list", "resource.k8s.io", "resourceslices", "", "", ""), "spec.nodeName=alpha"), true},
		"lists no others'":             {request("list", "resource.k8s.io", "resourceslices", "", "", ""), false},
		// What every node does.
		"reads services":                      {request("list", "", "services", "", "", ""), true},
		"reports events":                      {request("create", "", "events", "", "shop", ""), true},
		"asks for certificates":               {request("create", "certificates.k8s.io", "certificatesigningrequests", "", "", ""), true},
		"asks signers for its pods":           {request("create", "certificates.k8s.io", "podcertificaterequests", "", "shop", ""), true},
		"waits for its own answers":           {selecting(request("watch", "certificates.k8s.io", "podcertificaterequests", "", "shop", ""), "metadata.name=x,spec.nodeName=alpha"), true},
		"waits for no others' answers":        {request("watch", "certificates.k8s.io", "podcertificaterequests", "", "shop", ""), false},
		"answers none":                        {request("update", "certificates.k8s.io", "podcertificaterequests", "status", "shop", "x"), false},
		"approves none":                       {request("update", "certificates.k8s.io", "certificatesigningrequests", "approval", "", "x"), false},
		"checks its own API's callers":        {request("create", "authentication.k8s.io", "tokenreviews", "", "", ""), true},
		"reads runtime classes":               {request("get", "node.k8s.io", "runtimeclasses", "", "", "gvisor"), true},
		"reads no config maps as a list":      {request("list", "", "configmaps", "", "shop", ""), false},
		"reads no roles":                      {request("list", "rbac.authorization.k8s.io", "roles", "", "shop", ""), false},
		"reads no path by being a node alone": {authorizer.AttributesRecord{User: alpha, Verb: "get", Path: "/metrics"}, false},
		// Pods.
		"watches its pods":              {selecting(request("watch", "", "pods", "", "", ""), "spec.nodeName=alpha"), true},
		"watches no others' pods":       {selecting(request("watch", "", "pods", "", "", ""), "spec.nodeName=beta"), false},
		"watches not all but its pods":  {selecting(request("watch", "", "pods", "", "", ""), "spec.nodeName!=alpha"), false},
		"lists no pods without a limit": {request("list", "", "pods", "", "", ""), false},
		"reads its pod":                 {inShop("get", "pods", "web"), true},
		"reads no other's pod":          {inShop("get", "pods", "other"), false},
		"reports a pod's status":        {request("patch", "", "pods", "status", "shop", "web"), true},
		"evicts":                        {request("create", "", "pods", "eviction", "shop", "web"), true},
		"executes nothing":              {request("create", "", "pods", "exec", "shop", "web"), false},
		"updates no pods":               {inShop("update", "pods", "web"), false},
		// What its pods name.
		"reads a mounted secret":                             {inShop("get", "secrets", "mounted-secret"), true},
		"watches a mounted secret":                           {inShop("watch", "secrets", "mounted-secret"), true},
		"writes no mounted secret":                           {inShop("update", "secrets", "mounted-secret"), false},
		"reads a projected secret":                           {inShop("get", "secrets", "projected-secret"), true},
		"reads a pull secret":                                {inShop("get", "secrets", "pull"), true},
		"reads a secret of the environment":                  {inShop("get", "secrets", "env-secret"), true},
		"reads a secret of an init container":                {inShop("get", "secrets", "init-secret"), true},
		"reads a secret of a debug container":                {inShop("get", "secrets", "debug-secret"), true},
		"reads a secret of an inline CSI volume":             {inShop("get", "secrets", "csi-secret"), true},
		"reads a volume's secret in the claim's place":       {inShop("get", "secrets", "volume-secret"), true},
		"reads a volume's secret in its own place":           {request("get", "", "secrets", "", "storage", "volume-secret"), true},
		"reads no secret of another's volume":                {inShop("get", "secrets", "third-secret"), false},
		"reads no secret of a volume that is not bound back": {inShop("get", "secrets", "stolen-secret"), false},
		"reads no secret nobody names":                       {inShop("get", "secrets", "unused"), false},
		"reads no secret of that name elsewhere":             {request("get", "", "secrets", "", "other", "mounted-secret"), false},
		"reads no secret of another node's pod":              {inShop("get", "secrets", "others-secret"), false},
		"reads no secrets as a list":                         {inShop("list", "secrets", ""), false},
		"reads a mounted config map":                         {inShop("get", "configmaps", "mounted-map"), true},
		"reads a projected config map":                       {inShop("get", "configmaps", "kube-root-ca.crt"), true},
		"reads a config map of the environment":              {inShop("get", "configmaps", "env-map"), true},
		"reads a config map's key":                           {inShop("get", "configmaps", "key-map"), true},
		"reads no config map nobody names":                   {inShop("get", "configmaps", "unused"), false},
		"gets a token for its pod's account":                 {request("create", "", "serviceaccounts", "token", "shop", "web"), true},
		"gets none for another account":                      {request("create", "", "serviceaccounts", "token", "shop", "admin"), false},
		"reads its pod's account":                            {inShop("get", "serviceaccounts", "web"), true},
		"reads a claim":                                      {inShop("get", "persistentvolumeclaims", "data"), true},
		"reads a claim made for its pod":                     {inShop("get", "persistentvolumeclaims", "web-scratch"), true},
		"reports on a claim":                                 {request("patch", "", "persistentvolumeclaims", "status", "shop", "data"), true},
		"reads no other claim":                               {inShop("get", "persistentvolumeclaims", "third"), false},
		"reads the claim's volume":                           {request("get", "", "persistentvolumes", "", "", "volume-1"), true},
		"reads no volume a claim only points at":             {request("get", "", "persistentvolumes", "", "", "volume-2"), false},
		"reads no other volume":                              {request("get", "", "persistentvolumes", "", "", "volume-3"), false},
		"reads an attachment to itself":                      {request("get", "storage.k8s.io", "volumeattachments", "", "", "here"), true},
		"reads no attachment to another":                     {request("get", "storage.k8s.io", "volumeattachments", "", "", "there"), false},
		"reads no attachment that is gone":                   {request("get", "storage.k8s.io", "volumeattachments", "", "", "gone"), false},
		"reads a device claim":                               {request("get", "resource.k8s.io", "resourceclaims", "", "shop", "shared-gpu"), true},
		"reads a device claim made for its pod":              {request("get", "resource.k8s.io", "resourceclaims", "", "shop", "web-nic-1"), true},
		"reads no other device claim":                        {request("get", "resource.k8s.io", "resourceclaims", "", "shop", "x"), false},
		// Who is a node.
		"a user of that name without the group is none": {as(&user.DefaultInfo{Name: "system:node:alpha"}, inShop("get", "secrets", "pull")), false},
		"a user of the group without a name is none":    {as(&user.DefaultInfo{Name: "system:node:", Groups: []string{"system:nodes"}}, inShop("get", "secrets", "pull")), false},
		"somebody else in the group is none":            {as(&user.DefaultInfo{Name: "ann", Groups: []string{"system:nodes"}}, request("list", "", "services", "", "", "")), false},
	}
	a := New(wholeCluster())
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			decision, reason, err := a.Authorize(t.Context(), tc.request)
			if err != nil {
				t.Fatal(err)
			}
			if got := decision == authorizer.DecisionAllow; got != tc.want || decision == authorizer.DecisionDeny {
				t.Errorf("Authorize() = %v, %q; want allowed = %v", decision, reason, tc.want)
			}
		})
	}

	get := inShop("get", "secrets", "pull")
	if decision, _, _ := New(&cluster{oldPods: []*corev1.Pod{}, pods: []*corev1.Pod{webPod("alpha")}}).Authorize(t.Context(), get); decision != authorizer.DecisionAllow {
		t.Error("a pod that was bound a moment ago is not looked for again")
	}
	if decision, _, err := New(&cluster{err: errors.New("down")}).Authorize(t.Context(), get); decision != authorizer.DecisionNoOpinion || err == nil {
		t.Errorf("without an answer: %v, %v; want no opinion and the error", decision, err)
	}
}
