package machine

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/appliance/apiserver"
	"knarr.dev/knarr/appliance/apiserver/atrest"
	"knarr.dev/knarr/appliance/apiserver/audit"
	"knarr.dev/knarr/appliance/apiserver/authn"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/appliance/datastore"
	"knarr.dev/knarr/bootstrap/addresspool"
	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/storage/attach"
	"knarr.dev/knarr/storage/localpath"
	"knarr.dev/knarr/workloads/bootstraptoken"
	"knarr.dev/knarr/workloads/certificates"
	"knarr.dev/knarr/workloads/clusterrole"
	"knarr.dev/knarr/workloads/cronjob"
	"knarr.dev/knarr/workloads/daemonset"
	"knarr.dev/knarr/workloads/deployment"
	"knarr.dev/knarr/workloads/devicetaint"
	"knarr.dev/knarr/workloads/disruption"
	"knarr.dev/knarr/workloads/dormant"
	"knarr.dev/knarr/workloads/endpointslice"
	"knarr.dev/knarr/workloads/endpointslicemirroring"
	"knarr.dev/knarr/workloads/ephemeralvolume"
	"knarr.dev/knarr/workloads/garbagecollector"
	"knarr.dev/knarr/workloads/horizontalpodautoscaler"
	"knarr.dev/knarr/workloads/job"
	"knarr.dev/knarr/workloads/legacytoken"
	"knarr.dev/knarr/workloads/loadbalancer"
	"knarr.dev/knarr/workloads/namespace"
	"knarr.dev/knarr/workloads/nodebalancer"
	"knarr.dev/knarr/workloads/nodeipam"
	"knarr.dev/knarr/workloads/nodelifecycle"
	"knarr.dev/knarr/workloads/nodettl"
	"knarr.dev/knarr/workloads/persistentvolume"
	"knarr.dev/knarr/workloads/podgc"
	"knarr.dev/knarr/workloads/policystatus"
	"knarr.dev/knarr/workloads/protection"
	"knarr.dev/knarr/workloads/replicaset"
	"knarr.dev/knarr/workloads/replicationcontroller"
	"knarr.dev/knarr/workloads/resourceclaim"
	"knarr.dev/knarr/workloads/resourcequota"
	"knarr.dev/knarr/workloads/rootca"
	"knarr.dev/knarr/workloads/scheduler"
	"knarr.dev/knarr/workloads/serviceaccount"
	"knarr.dev/knarr/workloads/servicecidr"
	"knarr.dev/knarr/workloads/statefulset"
	"knarr.dev/knarr/workloads/storagemigration"
	"knarr.dev/knarr/workloads/ttlafterfinished"
)

// server is a control plane, and a node beside it unless that is disabled.
func (b *builder) server(ctx context.Context) ([]Stage, error) {
	r, err := parseRanges(b.cfg)
	if err != nil {
		return nil, err
	}
	want := pki.Want{
		NodeName: b.cfg.NodeName, Addresses: r.nodes,
		KubernetesService: r.services[0].Masked().Addr().Next(), Virtual: r.virtual, ClusterDomain: b.cfg.ClusterDomain,
	}
	keys, err := pki.Ensure(b.cfg.Paths().PKI(), want)
	if err != nil {
		return nil, err
	}
	at := r.nodes[0]
	if r.virtual.IsValid() {
		at = r.virtual // outlives this server
	}
	url := "https://" + netip.AddrPortFrom(at, uint16(b.cfg.HTTPSPort)).String()
	kubeconfig := func(keys *pki.PKI) error {
		return pki.WriteKubeconfig(b.cfg.WriteKubeconfig, url, keys.ClusterCA, keys.Admin)
	}
	if err := kubeconfig(keys); err != nil {
		return nil, err
	}
	keeper := pki.NewKeeper(b.cfg.Paths().PKI(), want, kubeconfig, b.log.With("component", "certificates"))
	store := datastore.New(datastore.Config{
		Name: b.cfg.NodeName, Dir: b.cfg.Paths().Etcd(), Socket: b.cfg.Paths().EtcdSocket(),
		PeerURL: "https://" + netip.AddrPortFrom(r.nodes[0], etcdPort).String(),
		Peer:    datastore.Certificate{CertFile: keys.EtcdPeer.CertFile, KeyFile: keys.EtcdPeer.KeyFile, CAFile: keys.EtcdCA.CertFile},
		Log:     b.log.With("component", "datastore"),
	})
	api, err := apiserver.New(apiserver.Config{
		Port: b.cfg.HTTPSPort, AdvertiseAddress: r.server(),
		ServingCert: keys.APIServer.CertFile, ServingKey: keys.APIServer.KeyFile,
		ClusterCA: keys.ClusterCA.CertFile, ClientCA: keys.ClientCA.CertFile,
		FrontProxyCA: keys.FrontProxyCA.CertFile, FrontProxyCert: keys.FrontProxyClient.CertFile, FrontProxyKey: keys.FrontProxyClient.KeyFile,
		KubeletClientCert: keys.APIServerKubeletClient.CertFile, KubeletClientKey: keys.APIServerKubeletClient.KeyFile,
		ServiceAccountKey: keys.ServiceAccountKeyFile, ClusterDomain: b.cfg.ClusterDomain,
		Datastore:    persistence.Endpoints{URLs: []string{store.Endpoint()}, Local: store.Keys},
		ServiceCIDRs: r.services,

		Encryption:            atrest.Files{Keys: keys.EncryptionKeysFile, Override: b.cfg.EncryptionConfig},
		Audit:                 audit.Config{Log: b.cfg.Paths().Audit(), Policy: b.cfg.AuditPolicy},
		AuthenticationConfig:  b.cfg.AuthenticationConfig,
		AuthenticationWebhook: b.cfg.AuthenticationWebhook,
		AuthorizationConfig:   b.cfg.AuthorizationConfig,
		AdmissionConfig:       b.cfg.AdmissionConfig,
		EnablePlugins:         config.Names(b.cfg.EnableAdmissionPlugins),
		DisablePlugins:        config.Names(b.cfg.DisableAdmissionPlugins),
	})
	if err != nil {
		return nil, err
	}
	control, err := newControl(ctx, api.LoopbackConfig(), b.cfg.NodeName, b.log, func(ctx context.Context, mgr manager.Manager) error { return b.register(ctx, mgr, r, keys) })
	if err != nil {
		return nil, err
	}
	settings, err := b.publish(api, keys)
	if err != nil {
		return nil, err
	}
	if b.cfg.DisableNode {
		return []Stage{{store}, {api}, {control, settings, keeper}, {heap{}}}, nil
	}
	parts, err := b.node(ctx, nodeInput{
		ranges: r, cache: control.cache, privileged: api.LoopbackConfig(),
		api:         pki.RESTConfig("https://127.0.0.1:"+strconv.Itoa(b.cfg.HTTPSPort), keys.ClusterCA.CertFile, keys.NodeClient.CertFile, keys.NodeClient.KeyFile),
		clientCA:    keys.ClientCA.CertFile,
		servingCert: keys.NodeServer.CertFile, servingKey: keys.NodeServer.KeyFile,
	})
	if err != nil {
		return nil, err
	}
	first := b.late(store)
	second := first.then(api)
	return []Stage{
		{first, parts.runtime},
		{second},
		append(Stage{second.then(control), second.then(settings), keeper}, parts.rest...),
		{heap{}},
	}, nil
}

// register adds every controller and the scheduler.
func (b *builder) register(ctx context.Context, mgr manager.Manager, r ranges, keys *pki.PKI) error {
	placing, err := scheduler.ReadConfig(b.cfg.SchedulerConfig)
	if err != nil {
		return err
	}
	quotas, err := resourcequota.Register(mgr, b.steady)
	if err != nil {
		return fmt.Errorf("quotas: %w", err)
	}
	asleep := dormant.New(b.log)
	sleepers, err := b.sleepers(ctx, mgr, keys)
	if err != nil {
		return err
	}
	for _, s := range sleepers {
		asleep.Add(s)
	}
	everything := garbagecollector.Listener{Seen: asleep.Seen, Gone: quotas.Gone}
	for name, register := range map[string]func() error{
		"deployment":      func() error { return deployment.Register(mgr, b.steady) },
		"replicaset":      func() error { return replicaset.Register(mgr, b.steady) },
		"replication":     func() error { return replicationcontroller.Register(mgr, b.steady) },
		"statefulset":     func() error { return statefulset.Register(mgr, b.steady) },
		"daemonset":       func() error { return daemonset.Register(mgr, b.steady) },
		"endpointslice":   func() error { return endpointslice.Register(mgr) },
		"mirroring":       func() error { return endpointslicemirroring.Register(mgr) },
		"service account": func() error { return serviceaccount.Register(mgr) },
		"root CA":         func() error { return rootca.Register(mgr, keys.ClusterCA.CertPEM) },
		"node addresses":  func() error { return nodeipam.Register(mgr, r.pods) },
		"scheduler":       func() error { return scheduler.Register(mgr, placing, b.log) },
		"namespace":       func() error { return namespace.Register(mgr, b.steady) },
		"garbage":         func() error { return garbagecollector.Register(mgr, b.begun, b.log, everything) },
		"node lifecycle":  func() error { return nodelifecycle.Register(mgr, b.steady) },
		"node time":       func() error { return nodettl.Register(mgr) },
		"default volumes": func() error { return localpath.Offer(mgr) },
		"left-over pods":  func() error { return podgc.Register(mgr, b.steady, b.log) },
		"cluster roles":   func() error { return clusterrole.Register(mgr) },
		"jobs":            func() error { return job.Register(mgr, b.steady) },
		"cron jobs":       func() error { return cronjob.Register(mgr, b.steady) },
		"pods' volumes":   func() error { return ephemeralvolume.Register(mgr) },
		"disruption":      func() error { return disruption.Register(mgr, b.steady) },
		"finished jobs":   func() error { return ttlafterfinished.Register(mgr, b.steady) },
		"autoscalers":     func() error { return horizontalpodautoscaler.Register(mgr, b.steady) },
		"certificates": func() error {
			return certificates.Register(mgr, certificates.Signers{Client: keys.ClientCA, Serving: keys.ClusterCA}, b.steady)
		},
	} {
		if err := register(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// sleepers are the controllers most clusters never need.
func (b *builder) sleepers(ctx context.Context, mgr manager.Manager, keys *pki.PKI) ([]*dormant.Sleeper, error) {
	sleepers := []*dormant.Sleeper{
		{
			// Nothing needs it at the start, and there are namespaces as soon as anybody looks.
			Name: "trust bundle", Resources: []schema.GroupResource{corev1.Resource("namespaces")},
			Start: func() error { return rootca.RegisterBundle(mgr, keys.ClusterCA.CertPEM) },
		},
		{
			Name: "bootstrap tokens", Resources: []schema.GroupResource{corev1.Resource("secrets")}, Concerns: bootstraptoken.Concerns,
			Start: func() error { return bootstraptoken.Register(mgr, b.steady) },
		},
		{
			Name: "token secrets", Resources: []schema.GroupResource{corev1.Resource("secrets")}, Concerns: serviceaccount.ConcernsTokens,
			Start: func() error { return b.tokenSecrets(mgr, keys) },
		},
		{
			Name: "legacy tokens", Resources: []schema.GroupResource{corev1.Resource("secrets")}, Concerns: legacytoken.Concerns,
			Start: func() error { return legacytoken.Register(mgr, b.steady, b.log) },
		},
		{
			Name: "service ranges", Resources: []schema.GroupResource{networkingv1.Resource("servicecidrs")}, Concerns: servicecidr.Concerns,
			Start: func() error { return servicecidr.Register(mgr, b.steady) },
		},
		{
			Name: "resource claims", Start: func() error { return resourceclaim.Register(mgr) },
			Resources: []schema.GroupResource{resourcev1.Resource("resourceclaims"), resourcev1.Resource("resourceclaimtemplates")},
		},
		{
			Name: "device taints", Start: func() error { return devicetaint.Register(mgr, b.steady) },
			Resources: []schema.GroupResource{resourcev1.Resource("resourceslices"), resourcev1.Resource("devicetaintrules")},
		},
		{
			Name: "volumes", Resources: []schema.GroupResource{corev1.Resource("persistentvolumeclaims"), corev1.Resource("persistentvolumes")},
			Start: func() error { return b.volumes(mgr) },
		},
		{
			Name: "volume attachments", Start: func() error { return attach.Register(mgr, b.steady.Now) },
			Resources: []schema.GroupResource{storagev1.Resource("csinodes"), storagev1.Resource("csidrivers"), storagev1.Resource("volumeattachments")},
		},
		{
			Name: "storage migrations", Resources: []schema.GroupResource{storagemigrationv1.Resource("storageversionmigrations")},
			Start: func() error { return storagemigration.Register(mgr, b.steady) },
		},
		{
			Name: "used storage", Start: func() error { return protection.Register(mgr) },
			Resources: []schema.GroupResource{corev1.Resource("persistentvolumeclaims"), corev1.Resource("persistentvolumes"), storagev1.Resource("volumeattributesclasses")},
		},
		{
			Name: "admission policies", Resources: []schema.GroupResource{admissionregistrationv1.Resource("validatingadmissionpolicies")},
			Start: func() error { return policystatus.Register(mgr) },
		},
	}
	if b.cfg.LoadBalancerAddresses == config.OwnAddresses {
		return append(sleepers, &dormant.Sleeper{
			Name: "load balancers", Resources: []schema.GroupResource{corev1.Resource("services")}, Concerns: nodebalancer.Concerns,
			Start: func() error { return nodebalancer.Register(mgr) },
		}), nil
	}
	addresses, err := addresspool.Parse(b.cfg.LoadBalancerAddresses)
	if err != nil {
		return nil, fmt.Errorf("load-balancer-addresses: %w", err)
	}
	if len(addresses) > 0 { // else services of type LoadBalancer wait for somebody who has addresses
		sleepers = append(sleepers, &dormant.Sleeper{
			Name: "load balancers", Resources: []schema.GroupResource{corev1.Resource("services")}, Concerns: loadbalancer.Concerns,
			Start: func() error { return loadbalancer.Register(ctx, mgr, addresses) },
		})
	}
	return sleepers, nil
}

// volumes are bound to claims, and made of folders on the nodes.
func (b *builder) volumes(mgr manager.Manager) error {
	if err := persistentvolume.Register(mgr); err != nil {
		return err
	}
	client, err := corev1client.NewForConfigAndClient(mgr.GetConfig(), mgr.GetHTTPClient())
	if err != nil {
		return err
	}
	return localpath.Register(mgr, localpath.Proxied{API: client.RESTClient()})
}

// publish tells joining machines what all machines have to agree on.
func (b *builder) publish(api *apiserver.Server, keys *pki.PKI) (Component, error) {
	client, err := kubernetes.NewForConfig(api.LoopbackConfig())
	if err != nil {
		return nil, err
	}
	return once{name: "cluster settings", do: func(ctx context.Context) error {
		return join.Publish(ctx, client.CoreV1(), join.Settings{
			ClusterCIDR: b.cfg.ClusterCIDR, ServiceCIDR: b.cfg.ServiceCIDR,
			ClusterDNS: b.cfg.ClusterDNS, ClusterDomain: b.cfg.ClusterDomain, ClientCA: string(keys.ClientCA.CertPEM),
			CloudProvider: b.cfg.CloudProvider, LoadBalancers: b.cfg.LoadBalancerAddresses, Overlay: b.cfg.Overlay, PodNetwork: b.cfg.PodNetwork,
		})
	}}, nil
}

// once is a component that has nothing to do after its start.
type once struct {
	name string
	do   func(ctx context.Context) error
}

func (o once) Name() string { return o.name }

func (o once) Run(ctx context.Context, ready func()) error {
	if err := o.do(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	ready()
	<-ctx.Done()
	return nil
}

// tokenSecrets signs what programs outside the cluster log in with.
func (b *builder) tokenSecrets(mgr manager.Manager, keys *pki.PKI) error {
	signer, err := authn.NewSecretIssuer(keys.ServiceAccountKey)
	if err != nil {
		return err
	}
	return serviceaccount.RegisterTokens(mgr, keys.ClusterCA.CertPEM, signer)
}
