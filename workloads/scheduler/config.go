package scheduler

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	configv1 "k8s.io/kube-scheduler/config/v1"

	"knarr.dev/knarr/workloads/scheduler/plugins"
)

// What upstream has plugins for and this scheduler does itself.
const (
	prioritySort     = "PrioritySort"
	schedulingGates  = "SchedulingGates"
	defaultBinder    = "DefaultBinder"
	defaultPreempter = "DefaultPreemption"
)

// Config is how pods are placed, from a KubeSchedulerConfiguration.
type Config struct {
	profiles            []*profile
	firstRest, longRest time.Duration
}

// ReadConfig reads a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1, the scheduler configuration reference)
// from a file; without a path it is the ordinary configuration.
func ReadConfig(path string) (*Config, error) {
	if path == "" {
		return ParseConfig(nil)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the scheduler's configuration: %w", err)
	}
	c, err := ParseConfig(data)
	if err != nil {
		return nil, fmt.Errorf("scheduler configuration %s: %w", path, err)
	}
	return c, nil
}

// ParseConfig reads a KubeSchedulerConfiguration, YAML or JSON. Unknown and repeated fields are errors, and so is what
// could not be done as asked. What is about a process of its own (clientConnection, leaderElection, profiling,
// parallelism, delayCacheUntilActive) means nothing here and is not looked at.
func ParseConfig(data []byte) (*Config, error) {
	from := &configv1.KubeSchedulerConfiguration{}
	if len(data) > 0 {
		if err := decode(data, from); err != nil {
			return nil, err
		}
	}
	var errs field.ErrorList
	c := &Config{firstRest: seconds(from.PodInitialBackoffSeconds), longRest: seconds(from.PodMaxBackoffSeconds)}
	for path, value := range map[string]*int64{"podInitialBackoffSeconds": from.PodInitialBackoffSeconds, "podMaxBackoffSeconds": from.PodMaxBackoffSeconds} {
		if value != nil && *value <= 0 {
			errs = append(errs, field.Invalid(field.NewPath(path), *value, "must be greater than 0"))
		}
	}
	if c.firstRest > 0 && c.longRest > 0 && c.longRest < c.firstRest {
		errs = append(errs, field.Invalid(field.NewPath("podMaxBackoffSeconds"), *from.PodMaxBackoffSeconds, "must not be less than podInitialBackoffSeconds"))
	}
	share, more := percentage(field.NewPath("percentageOfNodesToScore"), from.PercentageOfNodesToScore, 0)
	errs = append(errs, more...)
	extenders, more := newExtenders(field.NewPath("extenders"), from.Extenders)
	errs = append(errs, more...)
	if len(from.Profiles) == 0 {
		from.Profiles = []configv1.KubeSchedulerProfile{{}}
	}
	names := map[string]bool{}
	for i := range from.Profiles {
		path := field.NewPath("profiles").Index(i)
		p, more := newProfile(path, &from.Profiles[i], share, ignoredResources(from.Extenders))
		errs = append(errs, more...)
		if p == nil {
			continue
		}
		if names[p.name] {
			errs = append(errs, field.Duplicate(path.Child("schedulerName"), p.name))
		}
		names[p.name] = true
		p.extenders = extenders
		c.profiles = append(c.profiles, p)
	}
	return c, errs.ToAggregate()
}

func decode(data []byte, into *configv1.KubeSchedulerConfiguration) error {
	scheme := runtime.NewScheme()
	if err := configv1.AddToScheme(scheme); err != nil {
		return err
	}
	strict := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	object, kind, err := strict.Decode(data, nil, nil)
	if err != nil {
		return err
	}
	from, ok := object.(*configv1.KubeSchedulerConfiguration)
	if !ok {
		return fmt.Errorf("kind: want KubeSchedulerConfiguration, not %s", kind.Kind)
	}
	*into = *from
	return into.DecodeNestedObjects(strict)
}

func seconds(n *int64) time.Duration {
	if n == nil {
		return 0
	}
	return time.Duration(*n) * time.Second
}

// percentage is how many of the fitting nodes are compared; 0 lets the size of the cluster decide.
func percentage(path *field.Path, value *int32, otherwise int) (int, field.ErrorList) {
	if value == nil {
		return otherwise, nil
	}
	if *value < 0 || *value > 100 {
		return 0, field.ErrorList{field.Invalid(path, *value, "must be between 0 and 100")}
	}
	return int(*value), nil
}

// choice is a plugin a profile asks for, and the weight of its scores.
type choice struct {
	name   string
	weight int64
}

// stage is what a profile says about one or more of upstream's extension points, which are one here.
type stage struct {
	name string // as in the file
	set  *configv1.PluginSet
	// with is the stage this one cannot be told apart from, "" for none.
	with string
}

func stages(p *configv1.Plugins) []stage {
	return []stage{
		{name: "filter", set: &p.Filter}, {name: "score", set: &p.Score}, {name: "reserve", set: &p.Reserve}, {name: "postFilter", set: &p.PostFilter},
		{name: "preFilter", set: &p.PreFilter, with: "filter"}, {name: "preScore", set: &p.PreScore, with: "score"},
		{name: "permit", set: &p.Permit, with: "reserve"}, {name: "preBind", set: &p.PreBind, with: "reserve"},
		{name: "preEnqueue", set: &p.PreEnqueue}, {name: "queueSort", set: &p.QueueSort}, {name: "bind", set: &p.Bind}, {name: "postBind", set: &p.PostBind},
		{name: "placementGenerate", set: &p.PlacementGenerate}, {name: "placementScore", set: &p.PlacementScore}, {name: "podGroupPostFilter", set: &p.PodGroupPostFilter},
	}
}

// newProfile makes a profile as the file says, from the rules there are.
func newProfile(path *field.Path, from *configv1.KubeSchedulerProfile, share int, ignored []string) (*profile, field.ErrorList) {
	p := &profile{name: corev1.DefaultSchedulerName}
	if from.SchedulerName != nil {
		p.name = *from.SchedulerName
	}
	var errs, more field.ErrorList
	if p.name == "" {
		errs = append(errs, field.Required(path.Child("schedulerName"), ""))
	}
	p.share, more = percentage(path.Child("percentageOfNodesToScore"), from.PercentageOfNodesToScore, share)
	errs = append(errs, more...)
	args, more := argsOf(path.Child("pluginConfig"), from.PluginConfig)
	errs = append(errs, more...)
	if len(ignored) > 0 {
		args.ignore(ignored)
	}
	p.candidates, more = args.candidates()
	errs = append(errs, more...)
	made, more := args.make()
	if errs = append(errs, more...); len(errs) > 0 {
		return nil, errs
	}
	if from.Plugins == nil {
		from.Plugins = &configv1.Plugins{}
	}
	path = path.Child("plugins")
	all, errs := everywhereChosen(path.Child("multiPoint"), &from.Plugins.MultiPoint)
	asked := map[string][]choice{}
	for _, s := range stages(from.Plugins) {
		asked[s.name], more = chosen(path.Child(s.name), s.set, all)
		errs = append(errs, more...)
	}
	for _, s := range stages(from.Plugins) {
		errs = append(errs, inseparable(path.Child(s.name), s, asked)...)
	}
	p.assemble(asked, made)
	return p, errs
}

// arguments are a profile's, by plugin.
type arguments struct {
	path    *field.Path
	at      map[string]*field.Path
	objects map[string]runtime.Object
}

func argsOf(path *field.Path, configs []configv1.PluginConfig) (*arguments, field.ErrorList) {
	var errs field.ErrorList
	a := &arguments{path: path, at: map[string]*field.Path{}, objects: map[string]runtime.Object{}}
	for i := range configs {
		c := &configs[i]
		switch {
		case a.at[c.Name] != nil:
			errs = append(errs, field.Duplicate(path.Index(i).Child("name"), c.Name))
		case !slices.Contains(pluginNames(), c.Name):
			errs = append(errs, unknown(path.Index(i).Child("name"), c.Name))
		case c.Args.Object == nil && len(c.Args.Raw) > 0:
			errs = append(errs, field.Forbidden(path.Index(i).Child("args"), c.Name+" takes none"))
		}
		a.at[c.Name] = path.Index(i).Child("args")
		if c.Args.Object != nil {
			a.objects[c.Name] = c.Args.Object
		}
	}
	return a, errs
}

// ignore tells the rule about resources which of them extenders look after alone.
func (a *arguments) ignore(resources []string) {
	name := plugins.Resources{}.Name()
	args := &configv1.NodeResourcesFitArgs{}
	if given, ok := a.objects[name].(*configv1.NodeResourcesFitArgs); ok {
		args = given.DeepCopy()
	}
	args.IgnoredResources = append(args.IgnoredResources, resources...)
	a.objects[name] = args
}

// candidates are DefaultPreemptionArgs, by default upstream's.
func (a *arguments) candidates() (candidates, field.ErrorList) {
	c := candidates{percent: 10, least: 100}
	args, ok := a.objects[defaultPreempter].(*configv1.DefaultPreemptionArgs)
	if !ok {
		return c, nil
	}
	var errs field.ErrorList
	path := a.at[defaultPreempter]
	if n := args.MinCandidateNodesPercentage; n != nil {
		if c.percent = int(*n); c.percent < 0 || c.percent > 100 {
			errs = append(errs, field.Invalid(path.Child("minCandidateNodesPercentage"), *n, "must be between 0 and 100"))
		}
	}
	if n := args.MinCandidateNodesAbsolute; n != nil {
		if c.least = int(*n); c.least < 0 {
			errs = append(errs, field.Invalid(path.Child("minCandidateNodesAbsolute"), *n, "must not be negative"))
		}
	}
	if c.percent == 0 && c.least == 0 {
		errs = append(errs, field.Invalid(path, 0, "minCandidateNodesPercentage and minCandidateNodesAbsolute must not both be 0"))
	}
	return c, errs
}

// make makes every rule from its arguments.
func (a *arguments) make() (map[string]plugins.Plugin, field.ErrorList) {
	var errs field.ErrorList
	made := map[string]plugins.Plugin{}
	for _, rule := range plugins.Rules() {
		plugin, err := rule.New(a.objects[rule.Name])
		if err != nil {
			errs = append(errs, field.Invalid(cmp.Or(a.at[rule.Name], a.path), rule.Name, err.Error()))
			continue
		}
		made[rule.Name] = plugin
	}
	return made, errs
}

// everywhereChosen are the plugins used wherever they have a say: all but those disabled, with the weights given.
func everywhereChosen(path *field.Path, set *configv1.PluginSet) ([]choice, field.ErrorList) {
	errs := known(path, set)
	given, more := enabled(path, set)
	errs = append(errs, more...)
	var all []choice
	for _, ours := range ordinaryChoices() {
		i := slices.IndexFunc(given, func(c choice) bool { return c.name == ours.name })
		switch {
		case i >= 0:
			all = append(all, given[i])
			given = slices.Delete(given, i, i+1)
		case !disables(set, ours.name):
			all = append(all, ours)
		}
	}
	return append(all, given...), errs
}

// chosen are the plugins of one stage: those it names, then those used everywhere that it does not disable.
func chosen(path *field.Path, set *configv1.PluginSet, all []choice) ([]choice, field.ErrorList) {
	errs := known(path, set)
	asked, more := enabled(path, set)
	for _, c := range all {
		if !disables(set, c.name) && !slices.ContainsFunc(asked, func(other choice) bool { return other.name == c.name }) {
			asked = append(asked, c)
		}
	}
	return asked, append(errs, more...)
}

func enabled(path *field.Path, set *configv1.PluginSet) (asked []choice, errs field.ErrorList) {
	for i, p := range set.Enabled {
		if slices.ContainsFunc(asked, func(c choice) bool { return c.name == p.Name }) {
			errs = append(errs, field.Duplicate(path.Child("enabled").Index(i).Child("name"), p.Name))
			continue
		}
		c := choice{p.Name, 1}
		if p.Weight != nil && *p.Weight != 0 {
			if c.weight = int64(*p.Weight); c.weight < 0 {
				errs = append(errs, field.Invalid(path.Child("enabled").Index(i).Child("weight"), *p.Weight, "must not be negative"))
			}
		}
		asked = append(asked, c)
	}
	return asked, errs
}

func disables(set *configv1.PluginSet, name string) bool {
	return slices.ContainsFunc(set.Disabled, func(p configv1.Plugin) bool { return p.Name == name || p.Name == "*" })
}

func known(path *field.Path, set *configv1.PluginSet) (errs field.ErrorList) {
	for i, p := range set.Enabled {
		if !slices.Contains(pluginNames(), p.Name) {
			errs = append(errs, unknown(path.Child("enabled").Index(i).Child("name"), p.Name))
		}
	}
	for i, p := range set.Disabled {
		at := path.Child("disabled").Index(i).Child("name")
		switch {
		case p.Name == prioritySort || p.Name == schedulingGates || p.Name == defaultBinder:
			errs = append(errs, field.Forbidden(at, p.Name+" cannot be replaced here"))
		case p.Name != "*" && !slices.Contains(pluginNames(), p.Name):
			errs = append(errs, unknown(at, p.Name))
		}
	}
	return errs
}

func unknown(path *field.Path, name string) *field.Error {
	return field.NotSupported(path, name, pluginNames())
}

// inseparable says where a file tells apart what is one here: a rule's preFilter and its filter, for instance.
func inseparable(path *field.Path, s stage, asked map[string][]choice) (errs field.ErrorList) {
	if s.with == "" {
		return nil
	}
	in := func(stage, name string) bool {
		return slices.ContainsFunc(asked[stage], func(c choice) bool { return c.name == name })
	}
	for _, p := range slices.Concat(s.set.Enabled, s.set.Disabled) {
		if p.Name != "*" && in(s.name, p.Name) != in(s.with, p.Name) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("%s of %s goes with its %s: enable or disable both", s.name, p.Name, s.with)))
		}
	}
	return errs
}

// ordinaryChoices are the plugins of a profile that says nothing.
func ordinaryChoices() []choice {
	all := []choice{{name: prioritySort}, {name: schedulingGates}, {name: defaultBinder}, {name: defaultPreempter}}
	for _, rule := range plugins.Rules() {
		all = append(all, choice{rule.Name, rule.Weight})
	}
	return all
}

func pluginNames() []string {
	var all []string
	for _, c := range ordinaryChoices() {
		all = append(all, c.name)
	}
	return all
}

// assemble puts the plugins where they were asked for.
func (p *profile) assemble(asked map[string][]choice, made map[string]plugins.Plugin) {
	followers := map[string]bool{}
	use := func(stage string, as func(plugin plugins.Plugin, weight int64)) {
		for _, c := range asked[stage] {
			plugin := made[c.name]
			if plugin == nil {
				p.preempts = p.preempts || c.name == defaultPreempter && stage == "postFilter"
				continue
			}
			as(plugin, c.weight)
			if f, ok := plugin.(plugins.Follower); ok && !followers[c.name] {
				followers[c.name] = true
				p.followers = append(p.followers, f)
			}
		}
	}
	use("filter", func(plugin plugins.Plugin, _ int64) {
		if f, ok := plugin.(plugins.Filterer); ok {
			p.filters = append(p.filters, f)
		}
	})
	use("score", func(plugin plugins.Plugin, weight int64) {
		if s, ok := plugin.(plugins.Scorer); ok {
			p.scorers = append(p.scorers, weighed{s, weight})
		}
	})
	use("reserve", func(plugin plugins.Plugin, _ int64) {
		if r, ok := plugin.(plugins.Reserver); ok {
			p.reservers = append(p.reservers, r)
		}
	})
	use("postFilter", func(plugin plugins.Plugin, _ int64) {
		if f, ok := plugin.(plugins.PostFilterer); ok {
			p.postFilters = append(p.postFilters, f)
		}
	})
	p.split()
}
