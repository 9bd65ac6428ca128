package apiserver

import (
	"fmt"
	"net/http"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsapiserver "k8s.io/apiextensions-apiserver/pkg/apiserver"
	listers "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregatorapiserver "k8s.io/kube-aggregator/pkg/apiserver"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	apiregistrationinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"knarr.dev/knarr/appliance/apiserver/table"
)

// groupOrder is the order in which discovery lists groups, which is how clients choose between kinds of one name.
var groupOrder = []string{
	"apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io",
	"networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io",
	"apiextensions.k8s.io", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io",
	"flowcontrol.apiserver.k8s.io", "resource.k8s.io", "storagemigration.k8s.io", replaceable.Group,
}

// replaceable is what is served here unless somebody installs another server of it, such as the metrics server: an
// APIService of this name that is there is left as it is, and one that is not is ours.
var replaceable = metricsv1beta1.SchemeGroupVersion

const (
	coreGroupPriority   = 18000
	customGroupPriority = 1000
	// offerAgain is when an APIService that could not be written is tried again, the first time.
	offerAgain = 50 * time.Millisecond
	// customVersionPriority is the same for all versions of a group: their names decide then (v2, v1, v1beta1).
	customVersionPriority = 100
	// replaceablePriority is that of the metrics server's own manifest; its kinds share their names with core ones.
	replaceablePriority = 100
)

// builtinAPIServices are the group-versions this process serves itself, the most preferred version of a group first.
func builtinAPIServices() []*apiregistrationv1.APIService {
	seen := map[schema.GroupVersion]bool{}
	versions := []schema.GroupVersion{apiextensionsv1.SchemeGroupVersion}
	for _, row := range table.Rows() {
		versions = append(versions, append([]schema.GroupVersion{row.In}, row.AlsoIn...)...)
	}
	ofGroup := map[string]int32{}
	var services []*apiregistrationv1.APIService
	for _, gv := range versions {
		if seen[gv] || gv == replaceable {
			continue
		}
		seen[gv] = true
		group := int32(coreGroupPriority)
		for i, name := range groupOrder {
			if name == gv.Group {
				group = coreGroupPriority - 100*int32(i+1)
			}
		}
		services = append(services, apiService(gv, group, 30-15*ofGroup[gv.Group]))
		ofGroup[gv.Group]++
	}
	return services
}

func apiService(gv schema.GroupVersion, groupPriority, versionPriority int32) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group:                gv.Group,
			Version:              gv.Version,
			GroupPriorityMinimum: groupPriority,
			VersionPriority:      versionPriority,
		},
	}
}

// register keeps an APIService for everything that is served here: built-in groups once, custom ones as they come and go.
func register(aggregator *aggregatorapiserver.APIAggregator, custom *apiextensionsapiserver.CustomResourceDefinitions, client *rest.Config) error {
	apiServices, err := apiregistrationclient.NewForConfig(client)
	if err != nil {
		return fmt.Errorf("make a client of APIServices: %w", err)
	}
	informer := aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices()
	registrar := autoregister.NewAutoRegisterController(informer, apiServices)
	builtin := builtinAPIServices()
	for _, service := range builtin {
		registrar.AddAPIServiceToSyncOnStart(service)
	}
	if err := offer(aggregator, informer, apiServices); err != nil {
		return err
	}
	definitions := custom.Informers.Apiextensions().V1().CustomResourceDefinitions()
	groups := &customGroups{lister: definitions.Lister(), registrar: registrar}
	if _, err := definitions.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { groups.settle(obj) },
		UpdateFunc: func(old, obj any) { groups.settle(old); groups.settle(obj) },
		DeleteFunc: func(obj any) { groups.settle(obj) },
	}); err != nil {
		return fmt.Errorf("watch custom resource definitions: %w", err)
	}
	if err := aggregator.GenericAPIServer.AddPostStartHook("apiservice-autoregistration", func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			// Before all definitions are known, an APIService of a custom group would look left over.
			if cache.WaitForCacheSync(hook.Done(), definitions.Informer().HasSynced) {
				registrar.Run(5, hook.Done())
			}
		}()
		return nil
	}); err != nil {
		return fmt.Errorf("register APIServices: %w", err)
	}
	// A server is not ready while its groups are missing from discovery: clients would take them for unknown.
	return aggregator.GenericAPIServer.AddReadyzChecks(healthz.NamedCheck("apiservices", func(*http.Request) error {
		for _, service := range builtin {
			if _, err := informer.Lister().Get(service.Name); err != nil {
				return fmt.Errorf("APIService %s is not registered yet", service.Name)
			}
		}
		return nil
	}))
}

// offer keeps an APIService for what is replaceable, and does not touch one that is there already. Nobody else could make
// room for one later: the object left behind when the metrics server goes is none.
func offer(aggregator *aggregatorapiserver.APIAggregator, informer apiregistrationinformers.APIServiceInformer, client apiregistrationclient.APIServicesGetter) error {
	ours := apiService(replaceable, replaceablePriority, replaceablePriority)
	gone := make(chan struct{}, 1)
	gone <- struct{}{} // until we have looked
	if _, err := informer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if name, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err != nil || name != ours.Name {
			return
		}
		select {
		case gone <- struct{}{}:
		default:
		}
	}}); err != nil {
		return fmt.Errorf("watch APIServices: %w", err)
	}
	return aggregator.GenericAPIServer.AddPostStartHook("apiservice-"+ours.Name, func(hook genericapiserver.PostStartHookContext) error {
		go func() {
			again := offerAgain
			retry := (<-chan time.Time)(nil)
			for {
				select {
				case <-hook.Done():
					return
				case <-gone:
					again = offerAgain
				case <-retry:
				}
				retry = nil
				if _, err := client.APIServices().Create(hook, ours, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
					retry = time.After(again)
					again = min(2*again, time.Minute)
				}
			}
		}()
		return nil
	})
}

// customGroups derives the APIServices of custom groups.
type customGroups struct {
	lister    listers.CustomResourceDefinitionLister
	registrar interface {
		AddAPIServiceToSync(in *apiregistrationv1.APIService)
		RemoveAPIServiceToSync(name string)
	}
}

// settle looks again at every group-version a definition mentions.
func (g *customGroups) settle(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	definition, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return
	}
	all, err := g.lister.List(labels.Everything())
	if err != nil && !apierrors.IsNotFound(err) {
		return // a lister of a cache does not fail
	}
	for _, version := range definition.Spec.Versions {
		gv := schema.GroupVersion{Group: definition.Spec.Group, Version: version.Name}
		if service := apiService(gv, customGroupPriority, customVersionPriority); servedBy(all, gv) {
			g.registrar.AddAPIServiceToSync(service)
		} else {
			g.registrar.RemoveAPIServiceToSync(service.Name)
		}
	}
}

// servedBy says whether any definition serves the version.
func servedBy(definitions []*apiextensionsv1.CustomResourceDefinition, gv schema.GroupVersion) bool {
	for _, d := range definitions {
		if d.Spec.Group != gv.Group {
			continue
		}
		for _, v := range d.Spec.Versions {
			if v.Name == gv.Version && v.Served {
				return true
			}
		}
	}
	return false
}
