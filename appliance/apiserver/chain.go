package apiserver

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/options"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	openapicommon "k8s.io/kube-openapi/pkg/common"

	"knarr.dev/knarr/appliance/apiserver/answers"
	"knarr.dev/knarr/appliance/apiserver/atrest"
	"knarr.dev/knarr/appliance/apiserver/audit"
	"knarr.dev/knarr/appliance/apiserver/bootstrapobjects"
	"knarr.dev/knarr/appliance/apiserver/identity"
	"knarr.dev/knarr/appliance/apiserver/openapi"
	"knarr.dev/knarr/appliance/apiserver/persistence"
	"knarr.dev/knarr/appliance/apiserver/resource"
	"knarr.dev/knarr/appliance/apiserver/scheme"
	"knarr.dev/knarr/appliance/apiserver/table"
	"knarr.dev/knarr/appliance/apiserver/usage"
)

// chain is three servers behind one port. A request goes down it until one knows the path:
// aggregated APIs, then built-in resources, then custom ones.
type chain struct {
	client     *kubernetes.Clientset
	connection *persistence.Connection
	encryption *atrest.Encryption
	followers  []func(ctx context.Context)
	run        func(ctx context.Context) error
	objects    *bootstrapobjects.Keeper
	identity   *identity.Keeper
	described  []*openapicommon.OpenAPIV3Config
	inside     http.Handler // for requests of this process
}

// close is for after run.
func (c *chain) close() { _ = c.connection.Close() } // the process is done with it either way

// assemble builds the chain. The order is given by what needs what; nothing of it answers before run.
func (s *Server) assemble(ctx context.Context, listener net.Listener) (*chain, error) {
	connection, err := persistence.Connect(s.config.Datastore)
	if err != nil {
		return nil, err
	}
	c := &chain{connection: connection}
	if err := s.assembleOn(ctx, c, listener); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (s *Server) assembleOn(ctx context.Context, c *chain, listener net.Listener) error {
	var err error
	if c.encryption, err = atrest.Open(ctx, s.config.Encryption); err != nil {
		return err
	}
	if err := c.encryption.Check(ctx, c.connection); err != nil {
		return err
	}
	if c.client, err = kubernetes.NewForConfig(s.client); err != nil {
		return fmt.Errorf("make the API server's own client: %w", err)
	}
	// No resync: nothing here is unsure of what it did.
	shared := informers.NewSharedInformerFactory(c.client, 0)
	resolver := aggregatorapiserver.NewClusterIPServiceResolver(shared.Core().V1().Services().Lister())

	config, access, env, err := s.genericConfig(ctx, c, listener, shared, resolver)
	if err != nil {
		return err
	}
	custom, err := s.customResources(c, config, shared, resolver)
	if err != nil {
		return err
	}
	builtin, err := config.Complete(shared).New("knarr-apiserver", careful{custom.GenericAPIServer})
	if err != nil {
		return fmt.Errorf("make the server of built-in resources: %w", err)
	}
	if err := installTable(builtin, env); err != nil {
		return err
	}
	access.discovery.Install(builtin.Handler.NonGoRestfulMux)
	openapi.Serve(builtin.Handler, config.OpenAPIConfig, config.OpenAPIV3Config)
	aggregator, err := s.aggregator(c, config, shared, resolver, builtin)
	if err != nil {
		return err
	}
	if err := register(aggregator, custom, s.client); err != nil {
		return err
	}
	c.objects = bootstrapobjects.New(c.client, bootstrapobjects.Config{
		Peers:          c.connection.Presence(s.config.AdvertiseAddress.String()),
		Advertise:      s.config.AdvertiseAddress,
		Port:           listener.Addr().(*net.TCPAddr).Port,
		ServiceCIDRs:   s.config.ServiceCIDRs,
		ClientCA:       s.config.ClientCA,
		FrontProxyCA:   s.config.FrontProxyCA,
		UserHeaders:    userHeaders,
		UIDHeaders:     uidHeaders,
		GroupHeaders:   groupHeaders,
		ExtraPrefixes:  extraHeaderPrefix,
		AllowedProxies: frontProxyAccepted,
	})
	c.identity = identity.New(c.client.CoordinationV1(), config.APIServerID)
	prepared, err := aggregator.PrepareRun()
	if err != nil {
		return fmt.Errorf("prepare the aggregator: %w", err)
	}
	for _, made := range c.described {
		made.Definitions = nil // the libraries have built their documents
	}
	s.loopback.Serve(c.inside)
	c.run = func(ctx context.Context) error {
		warm(ctx, shared, custom.Informers, aggregator.APIRegistrationInformers)
		return prepared.Run(ctx)
	}
	return nil
}

// warm fills the caches the start hooks wait for. Each of them would look for it ten times a second, and some wait
// for one another.
func warm(ctx context.Context, factories ...interface {
	StartWithContext(ctx context.Context)
	WaitForCacheSyncWithContext(ctx context.Context) cache.SyncResult
}) {
	for _, f := range factories {
		f.StartWithContext(ctx)
	}
	for _, f := range factories {
		f.WaitForCacheSyncWithContext(ctx)
	}
}

// genericConfig is what the three servers have in common.
func (s *Server) genericConfig(ctx context.Context, c *chain, listener net.Listener, shared informers.SharedInformerFactory, resolver webhook.ServiceResolver) (*genericapiserver.Config, *access, *resource.Env, error) {
	config := genericapiserver.NewConfig(scheme.Codecs)
	config.EffectiveVersion = newEffectiveVersion()
	config.LoopbackClientConfig = s.client
	config.ExternalAddress = s.config.AdvertiseAddress.String()
	config.MergedResourceConfig = serverstorage.NewResourceConfig()
	config.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
	// Watches never end by themselves; a stopping server tells their clients to go elsewhere at once.
	config.ShutdownWatchTerminationGracePeriod = time.Second
	describe(config, definitionNames(), openapi.GetOpenAPIDefinitions)
	config.SkipOpenAPIInstallation = true                                          // see openapi.Serve
	config.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis") // one for the three servers

	serving, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving-cert", s.config.ServingCert, s.config.ServingKey)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("read the serving certificate: %w", err)
	}
	config.SecureServing = &genericapiserver.SecureServingInfo{Listener: listener, Cert: serving}

	access, err := newAccess(ctx, &s.config, c.client, shared)
	if err != nil {
		return nil, nil, nil, err
	}
	if config.Authentication, err = authentication(&s.config, access, config.SecureServing); err != nil {
		return nil, nil, nil, err
	}
	config.Authorization.Authorizer, config.RuleResolver = access.authorizer, access.rules
	c.followers = access.followers
	if err := audit.Apply(s.config.Audit, config); err != nil {
		return nil, nil, nil, err
	}

	config.RESTOptionsGetter = s.builtinStorage(c, config)
	config.AddHealthChecks(datastoreCheck(c.connection))
	config.AddHealthChecks(c.encryption.HealthChecks()...)
	config.FlowControl = utilflowcontrol.New(shared, c.client.FlowcontrolV1(), config.MaxRequestsInFlight+config.MaxMutatingRequestsInFlight)

	env := &resource.Env{
		Scheme:         scheme.Scheme,
		ParameterCodec: scheme.ParameterCodec,
		RESTOptions:    config.RESTOptionsGetter,
		Authenticator:  config.Authentication.Authenticator,
		Audiences:      access.audiences,
		Authorizer:     access.authorizer,
		Rules:          access.rules,
		Tokens:         access.issuer,
		NodePorts:      s.config.NodePorts,
	}
	for _, cidr := range s.config.ServiceCIDRs {
		env.ServiceCIDRs = append(env.ServiceCIDRs, cidr.String())
	}
	if env.Nodes, err = newAgents(&s.config, env); err != nil {
		return nil, nil, nil, err
	}
	env.Usage = usage.New(env.Nodes)
	if err := s.admission(c, config, access, shared, resolver, env); err != nil {
		return nil, nil, nil, err
	}
	return config, access, env, nil
}

// storage is what the resources of the three servers have in common; the factory knows how theirs are encoded.
func (c *chain) storage(config *genericapiserver.Config, factory serverstorage.StorageFactory) *persistence.Options {
	return &persistence.Options{
		Connection: c.connection, Factory: factory, Transformers: c.encryption, Counts: config.StorageObjectCountTracker,
	}
}

// builtinStorage encodes each group in its preferred version, as protobuf.
func (s *Server) builtinStorage(c *chain, config *genericapiserver.Config) *persistence.Options {
	factory := serverstorage.NewDefaultStorageFactory(
		persistence.BackendConfig(nil, config.StorageObjectCountTracker),
		runtime.ContentTypeProtobuf,
		scheme.Codecs,
		serverstorage.NewDefaultResourceEncodingConfigForEffectiveVersion(scheme.Scheme, config.EffectiveVersion),
		config.MergedResourceConfig,
		table.KeyPrefixes,
	)
	return c.storage(config, factory)
}

// libraryStorage encodes the one group of a library's server.
func libraryStorage(c *chain, config *genericapiserver.Config, codecs serializer.CodecFactory, version schema.GroupVersion) *persistence.Options {
	backend := persistence.BackendConfig(codecs.LegacyCodec(version), config.StorageObjectCountTracker)
	backend.EncodeVersioner = runtime.NewMultiGroupVersioner(version, schema.GroupKind{Group: version.Group})
	return c.storage(config, &options.SimpleStorageFactory{StorageConfig: backend})
}

// customStorage encodes custom resources, which have no Go types.
func customStorage(c *chain, config *genericapiserver.Config) *persistence.Options {
	backend := persistence.BackendConfig(unstructured.UnstructuredJSONScheme, config.StorageObjectCountTracker)
	return c.storage(config, &options.SimpleStorageFactory{StorageConfig: backend})
}

// derived is the common configuration for another server of the chain: start hooks and storage are its own.
func derived(config *genericapiserver.Config, storage *persistence.Options) genericapiserver.Config {
	d := *config
	d.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	d.RESTOptionsGetter = storage
	return d
}

func (s *Server) customResources(c *chain, config *genericapiserver.Config, shared informers.SharedInformerFactory, resolver webhook.ServiceResolver) (*apiextensionsapiserver.CustomResourceDefinitions, error) {
	generic := derived(config, libraryStorage(c, config, apiextensionsapiserver.Codecs, apiextensionsv1.SchemeGroupVersion))
	generic.MergedResourceConfig = apiextensionsapiserver.DefaultAPIResourceConfigSource()
	describe(&generic, definitionNames(), apiextensionsopenapi.GetOpenAPIDefinitions)
	generic.SkipOpenAPIInstallation = false
	c.described = append(c.described, generic.OpenAPIV3Config)
	library := apiextensionsapiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: generic, SharedInformerFactory: shared},
		ExtraConfig: apiextensionsapiserver.ExtraConfig{
			CRDRESTOptionsGetter: customStorage(c, config),
			MasterCount:          1, // more would make every new definition wait 5 s
			ServiceResolver:      resolver,
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, s.client, config.TracerProvider),
		},
	}
	server, err := library.Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("make the server of custom resources: %w", err)
	}
	return server, nil
}

func (s *Server) aggregator(c *chain, config *genericapiserver.Config, shared informers.SharedInformerFactory, resolver aggregatorapiserver.ServiceResolver, delegate *genericapiserver.GenericAPIServer) (*aggregatorapiserver.APIAggregator, error) {
	generic := derived(config, libraryStorage(c, config, aggregatorscheme.Codecs, apiregistrationv1.SchemeGroupVersion))
	describe(&generic, definitionNames(), aggregatoropenapi.GetOpenAPIDefinitions)
	c.described = append(c.described, generic.OpenAPIV3Config)
	generic.MergedResourceConfig = aggregatorapiserver.DefaultAPIResourceConfigSource()
	generic.BuildHandlerChainFunc = func(api http.Handler, made *genericapiserver.Config) http.Handler {
		api = answers.Compress(blamePatches(api), made.LongRunningFunc)
		c.inside = inside(api, made)
		return genericapiserver.DefaultBuildHandlerChain(api, made)
	}
	library := aggregatorapiserver.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: generic, SharedInformerFactory: shared},
		ExtraConfig: aggregatorapiserver.ExtraConfig{
			ProxyClientCertFile:       s.config.FrontProxyCert,
			ProxyClientKeyFile:        s.config.FrontProxyKey,
			ServiceResolver:           resolver,
			RejectForwardingRedirects: true,
		},
	}
	server, err := library.Complete().NewWithDelegate(delegate)
	if err != nil {
		return nil, fmt.Errorf("make the aggregator: %w", err)
	}
	return server, nil
}

// installTable serves every row of the table.
func installTable(server *genericapiserver.GenericAPIServer, env *resource.Env) error {
	built, err := resource.Build(env, table.Rows())
	if err != nil {
		return fmt.Errorf("build the API table: %w", err)
	}
	negotiated := answers.NewSerializer(scheme.Codecs)
	groups := map[string]*genericapiserver.APIGroupInfo{}
	for gv, paths := range built {
		info := groups[gv.Group]
		if info == nil {
			made := genericapiserver.NewDefaultAPIGroupInfo(gv.Group, scheme.Scheme, scheme.ParameterCodec, scheme.Codecs)
			made.NegotiatedSerializer = negotiated
			info, groups[gv.Group] = &made, &made
		}
		info.VersionedResourcesStorageMap[gv.Version] = map[string]rest.Storage(paths)
		for path, storage := range paths {
			background, ok := storage.(resource.Background)
			if !ok {
				continue
			}
			if err := server.AddPostStartHook("background-of-"+path, func(hook genericapiserver.PostStartHookContext) error {
				go background.Run(hook)
				return nil
			}); err != nil {
				return fmt.Errorf("start the background work of %s: %w", path, err)
			}
		}
	}
	if err := server.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, groups[""]); err != nil {
		return fmt.Errorf("install the core group: %w", err)
	}
	delete(groups, "")
	named := make([]*genericapiserver.APIGroupInfo, 0, len(groups))
	for _, group := range groupOrder {
		if info, ok := groups[group]; ok {
			named = append(named, info)
			delete(groups, group)
		}
	}
	for group := range groups {
		return fmt.Errorf("group %q is in the table but has no place in the order of groups", group)
	}
	if err := server.InstallAPIGroups(slices.Clip(named)...); err != nil {
		return fmt.Errorf("install groups: %w", err)
	}
	return nil
}
