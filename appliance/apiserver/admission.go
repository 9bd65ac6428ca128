package apiserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/options"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"

	"knarr.dev/knarr/appliance/apiserver/admission"
	"knarr.dev/knarr/appliance/apiserver/authz/node"
	"knarr.dev/knarr/appliance/apiserver/authz/noderestriction"
	"knarr.dev/knarr/appliance/apiserver/authz/rbac"
	"knarr.dev/knarr/appliance/apiserver/configfile"
	"knarr.dev/knarr/appliance/apiserver/resource"
)

// admission puts our plugins and the library's in the order in which requests pass them.
func (s *Server) admission(c *chain, config *genericapiserver.Config, access *access, shared informers.SharedInformerFactory, resolver webhook.ServiceResolver, env *resource.Env) error {
	dynamicClient, err := dynamic.NewForConfig(s.client)
	if err != nil {
		return fmt.Errorf("make the admission plugins' client: %w", err)
	}
	wrapper := webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, s.client, config.TracerProvider)
	plugins := options.NewAdmissionOptions()
	plugins.Plugins.Register(rbac.PluginName, rbac.NewEscalation(access.roles, access.authorizer, c.client.RbacV1()).Factory())
	plugins.Plugins.Register(noderestriction.PluginName, noderestriction.New(node.Client{Interface: c.client}, access.audiences).Factory())
	var names []string
	fixed := []string{rbac.PluginName}
	for _, plugin := range admission.Plugins(env) {
		plugins.Plugins.Register(plugin.Name, plugin.New)
		names = append(names, plugin.Name)
		switch plugin.Use {
		case admission.Always:
			fixed = append(fixed, plugin.Name)
		case admission.Off:
			plugins.DefaultOffPlugins.Insert(plugin.Name)
		}
	}
	resourcequota.Register(plugins.Plugins)
	plugins.RecommendedPluginOrder = pluginOrder(plugins.RecommendedPluginOrder, names)
	plugins.EnablePlugins, plugins.DisablePlugins = s.config.EnablePlugins, s.config.DisablePlugins
	if err := checkSwitches(plugins.RecommendedPluginOrder, fixed, plugins.EnablePlugins, plugins.DisablePlugins); err != nil {
		return err
	}
	if plugins.ConfigFile = s.config.AdmissionConfig; plugins.ConfigFile != "" {
		if err := checkAdmission(plugins.RecommendedPluginOrder, plugins.ConfigFile); err != nil {
			return err
		}
	}
	if err := plugins.ApplyTo(config, shared, c.client, dynamicClient, utilfeature.DefaultFeatureGate, config.EffectiveVersion,
		webhookinit.NewPluginInitializer(wrapper, resolver), quotaRules{}); err != nil {
		if plugins.ConfigFile != "" {
			return fmt.Errorf("make admission plugins by %s: %w", plugins.ConfigFile, err)
		}
		return fmt.Errorf("make admission plugins: %w", err)
	}
	return nil
}

// checkSwitches refuses what an operator cannot mean. Who turns on what is on anyway is right.
func checkSwitches(known, fixed, enable, disable []string) error {
	var errs []error
	for key, names := range map[string][]string{"enable-admission-plugins": enable, "disable-admission-plugins": disable} {
		for _, name := range names {
			if !slices.Contains(known, name) {
				errs = append(errs, fmt.Errorf("%s: there is no plugin %q; there are %s", key, name, strings.Join(known, ", ")))
			}
		}
	}
	for _, name := range disable {
		if slices.Contains(fixed, name) {
			errs = append(errs, fmt.Errorf("disable-admission-plugins: %s is a part of storing objects and stays on; remove it from the list", name))
		}
		if slices.Contains(enable, name) {
			errs = append(errs, fmt.Errorf("%s is in enable-admission-plugins and in disable-admission-plugins; remove it from one of them", name))
		}
	}
	return errors.Join(errs...)
}

// checkAdmission refuses a configuration of plugins there are not, which the library would ignore without a word, and files
// that cannot be read, over which it would end the process.
func checkAdmission(known []string, file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read the admission configuration: %w", err)
	}
	config, err := configfile.Decode[*apiserver.AdmissionConfiguration](content)
	if err != nil {
		return fmt.Errorf("read the admission configuration %s: %w", file, err)
	}
	for _, plugin := range config.Plugins {
		if !slices.Contains(known, plugin.Name) {
			return fmt.Errorf("read the admission configuration %s: there is no plugin %q; there are %s", file, plugin.Name, strings.Join(known, ", "))
		}
		if path := plugin.Path; path != "" {
			if !filepath.IsAbs(path) {
				path = filepath.Join(filepath.Dir(file), path)
			}
			if _, err := os.ReadFile(path); err != nil {
				return fmt.Errorf("read the configuration of plugin %s, which %s names: %w", plugin.Name, file, err)
			}
		}
	}
	return nil
}

// pluginOrder is the one of Kubernetes. The library's first is NamespaceLifecycle; its webhooks and policies see what
// all others made of the object. Escalation, which is a part of storing elsewhere, refuses early. Quotas come last:
// what somebody else refuses must not be counted.
func pluginOrder(library, ours []string) []string {
	order := append(library[:1:1], rbac.PluginName)
	for _, name := range ours {
		order = append(order, name)
		if name == "ServiceAccount" {
			order = append(order, noderestriction.PluginName)
		}
	}
	return append(append(order, library[1:]...), resourcequota.PluginName)
}
