package machine

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"

	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/manager"

	"knarr.dev/knarr/appliance/apiserver"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/appliance/datastore"
	"knarr.dev/knarr/bootstrap/join"
	"knarr.dev/knarr/bootstrap/pki"
	"knarr.dev/knarr/workloads/certificates"
	"knarr.dev/knarr/workloads/clusterrole"
	"knarr.dev/knarr/workloads/cronjob"
	"knarr.dev/knarr/workloads/daemonset"
	"knarr.dev/knarr/workloads/deployment"
	"knarr.dev/knarr/workloads/disruption"
	"knarr.dev/knarr/workloads/endpointslice"
	"knarr.dev/knarr/workloads/endpointslicemirroring"
	"knarr.dev/knarr/workloads/garbagecollector"
	"knarr.dev/knarr/workloads/horizontalpodautoscaler"
	"knarr.dev/knarr/workloads/job"
	"knarr.dev/knarr/workloads/namespace"
	"knarr.dev/knarr/workloads/nodeipam"
	"knarr.dev/knarr/workloads/nodelifecycle"
	"knarr.dev/knarr/workloads/podgc"
	"knarr.dev/knarr/workloads/replicaset"
	"knarr.dev/knarr/workloads/replicationcontroller"
	"knarr.dev/knarr/workloads/resourcequota"
	"knarr.dev/knarr/workloads/rootca"
	"knarr.dev/knarr/workloads/scheduler"
	"knarr.dev/knarr/workloads/serviceaccount"
	"knarr.dev/knarr/workloads/statefulset"
	"knarr.dev/knarr/workloads/ttlafterfinished"
)

// server is a control plane, and a node beside it unless that is disabled.
func (b *builder) server(ctx context.Context) ([]Stage, error) {
	r, err := parseRanges(b.cfg.NodeIP, b.cfg.ClusterDNS, b.cfg.ClusterCIDR, b.cfg.ServiceCIDR)
	if err != nil {
		return nil, err
	}
	want := pki.Want{
		NodeName: b.cfg.NodeName, Addresses: []netip.Addr{r.node},
		KubernetesService: r.services.Masked().Addr().Next(), ClusterDomain: b.cfg.ClusterDomain,
	}
	keys, err := pki.Ensure(b.cfg.Paths().PKI(), want)
	if err != nil {
		return nil, err
	}
	url := "https://" + netip.AddrPortFrom(r.node, uint16(b.cfg.HTTPSPort)).String()
	kubeconfig := func(keys *pki.PKI) error {
		return pki.WriteKubeconfig(b.cfg.WriteKubeconfig, url, keys.ClusterCA, keys.Admin)
	}
	if err := kubeconfig(keys); err != nil {
		return nil, err
	}
	keeper := pki.NewKeeper(b.cfg.Paths().PKI(), want, kubeconfig, b.log.With("component", "certificates"))
	store := datastore.New(datastore.Config{
		Name: b.cfg.NodeName, Dir: b.cfg.Paths().Etcd(), Socket: b.cfg.Paths().EtcdSocket(),
		PeerURL: "https://" + netip.AddrPortFrom(r.node, etcdPort).String(),
		Peer:    datastore.Certificate{CertFile: keys.EtcdPeer.CertFile, KeyFile: keys.EtcdPeer.KeyFile, CAFile: keys.EtcdCA.CertFile},
		Log:     b.log.With("component", "datastore"),
	})
	api, err := apiserver.New(apiserver.Config{
		Port: b.cfg.HTTPSPort, AdvertiseAddress: r.node,
		ServingCert: keys.APIServer.CertFile, ServingKey: keys.APIServer.KeyFile,
		ClusterCA: keys.ClusterCA.CertFile, ClientCA: keys.ClientCA.CertFile,
		FrontProxyCA: keys.FrontProxyCA.CertFile, FrontProxyCert: keys.FrontProxyClient.CertFile, FrontProxyKey: keys.FrontProxyClient.KeyFile,
		KubeletClientCert: keys.APIServerKubeletClient.CertFile, KubeletClientKey: keys.APIServerKubeletClient.KeyFile,
		ServiceAccountKey: keys.ServiceAccountKeyFile, ClusterDomain: b.cfg.ClusterDomain,
		Datastore:    persistence.Endpoints{URLs: []string{store.Endpoint()}, Local: store.Keys},
		ServiceCIDRs: []netip.Prefix{r.services},
	})
	if err != nil {
		return nil, err
	}
	control, err := newControl(ctx, api.LoopbackConfig(), b.log, func(mgr manager.Manager) error { return b.register(mgr, r, keys) })
	if err != nil {
		return nil, err
	}
	settings, err := b.publish(api, keys)
	if err != nil {
		return nil, err
	}
	if b.cfg.DisableNode {
		return []Stage{{store}, {api}, {control, settings, keeper}, {trimmer{}, heap{}}}, nil
	}
	parts, err := b.node(ctx, nodeInput{
		ranges: r, cache: control.manager.GetCache(), privileged: api.LoopbackConfig(),
		api:         pki.RESTConfig("https://127.0.0.1:"+strconv.Itoa(b.cfg.HTTPSPort), keys.ClusterCA.CertFile, keys.NodeClient.CertFile, keys.NodeClient.KeyFile),
		clientCA:    keys.ClientCA.CertFile,
		servingCert: keys.NodeServer.CertFile, servingKey: keys.NodeServer.KeyFile,
	})
	if err != nil {
		return nil, err
	}
	return []Stage{
		{store, parts.runtime},
		{api},
		append(Stage{control, settings, keeper}, parts.rest...),
		{trimmer{}, heap{}},
	}, nil
}

// register adds every controller and the scheduler.
func (b *builder) register(mgr manager.Manager, r ranges, keys *pki.PKI) error {
	placing, err := scheduler.ReadConfig(b.cfg.SchedulerConfig)
	if err != nil {
		return err
	}
	quotas, err := resourcequota.Register(mgr)
	if err != nil {
		return fmt.Errorf("quotas: %w", err)
	}
	for name, register := range map[string]func() error{
		"deployment":      func() error { return deployment.Register(mgr) },
		"replicaset":      func() error { return replicaset.Register(mgr) },
		"replication":     func() error { return replicationcontroller.Register(mgr) },
		"statefulset":     func() error { return statefulset.Register(mgr) },
		"daemonset":       func() error { return daemonset.Register(mgr) },
		"endpointslice":   func() error { return endpointslice.Register(mgr) },
		"mirroring":       func() error { return endpointslicemirroring.Register(mgr) },
		"service account": func() error { return serviceaccount.Register(mgr) },
		"root CA":         func() error { return rootca.Register(mgr, keys.ClusterCA.CertPEM) },
		"node addresses":  func() error { return nodeipam.Register(mgr, r.pods) },
		"scheduler":       func() error { return scheduler.Register(mgr, placing, b.log) },
		"namespace":       func() error { return namespace.Register(mgr) },
		"garbage":         func() error { return garbagecollector.Register(mgr, b.begun, b.log, quotas.Gone) },
		"node lifecycle":  func() error { return nodelifecycle.Register(mgr) },
		"left-over pods":  func() error { return podgc.Register(mgr, b.log) },
		"cluster roles":   func() error { return clusterrole.Register(mgr) },
		"jobs":            func() error { return job.Register(mgr) },
		"cron jobs":       func() error { return cronjob.Register(mgr) },
		"disruption":      func() error { return disruption.Register(mgr) },
		"finished jobs":   func() error { return ttlafterfinished.Register(mgr) },
		"autoscalers":     func() error { return horizontalpodautoscaler.Register(mgr) },
		"certificates": func() error {
			return certificates.Register(mgr, certificates.Signers{Client: keys.ClientCA, Serving: keys.ClusterCA})
		},
	} {
		if err := register(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
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
