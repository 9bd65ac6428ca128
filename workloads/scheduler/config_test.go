package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const header = "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n"

func indented(text string) string {
	return strings.ReplaceAll(strings.TrimSpace(text), "\t", "  ") + "\n"
}

// outline is a profile in a few words.
func (p *profile) outline() string {
	var filters, scorers []string
	for _, f := range p.filters {
		filters = append(filters, f.Name())
	}
	for _, s := range p.scorers {
		scorers = append(scorers, fmt.Sprintf("%s*%d", s.Name(), s.weight))
	}
	return fmt.Sprintf("%s: filters %v, scorers %v, share %d, preempts %v", p.name, filters, scorers, p.share, p.preempts)
}

func TestParseConfigChoosesRules(t *testing.T) {
	all := func(without ...string) (filters string) {
		var names []string
		for _, f := range ordinary().filters {
			if !slices.Contains(without, f.Name()) {
				names = append(names, f.Name())
			}
		}
		return fmt.Sprint(names)
	}
	weights := func(changed map[string]int64) string {
		var names []string
		for _, s := range ordinary().scorers {
			weight, is := changed[s.Name()]
			if !is {
				weight = s.weight
			}
			if weight > 0 {
				names = append(names, fmt.Sprintf("%s*%d", s.Name(), weight))
			}
		}
		return fmt.Sprint(names)
	}
	tests := map[string]struct {
		file string
		want []string
	}{
		"no profile is the ordinary one": {
			want: []string{"default-scheduler: filters " + all() + ", scorers " + weights(nil) + ", share 0, preempts true"},
		},
		"a rule disabled everywhere has no say": {
			file: `
profiles:
- plugins:
		multiPoint:
			disabled: [{name: NodePorts}, {name: ImageLocality}]`,
			want: []string{"default-scheduler: filters " + all("NodePorts") + ", scorers " + weights(map[string]int64{"ImageLocality": 0}) + ", share 0, preempts true"},
		},
		"a rule can be disabled as a filter and stay a preference": {
			file: `
profiles:
- plugins:
		preFilter:
			disabled: [{name: NodeAffinity}]
		filter:
			disabled: [{name: NodeAffinity}]`,
			want: []string{"default-scheduler: filters " + all("NodeAffinity") + ", scorers " + weights(nil) + ", share 0, preempts true"},
		},
		"a star leaves what is named": {
			file: `
profiles:
- plugins:
		preScore:
			disabled: [{name: "*"}]
		score:
			disabled: [{name: "*"}]
			enabled: [{name: ImageLocality, weight: 7}, {name: TaintToleration}]
		postFilter:
			disabled: [{name: "*"}]`,
			want: []string{"default-scheduler: filters " + all() + ", scorers [ImageLocality*7 TaintToleration*1], share 0, preempts false"},
		},
		"a weight for everywhere is that of the scores": {
			file: `
profiles:
- plugins:
		multiPoint:
			enabled: [{name: ImageLocality, weight: 5}]`,
			want: []string{"default-scheduler: filters " + all() + ", scorers " + weights(map[string]int64{"ImageLocality": 5}) + ", share 0, preempts true"},
		},
		"several schedulers in one, each with its share": {
			file: `
percentageOfNodesToScore: 30
profiles:
- schedulerName: first
- schedulerName: second
	percentageOfNodesToScore: 70`,
			want: []string{
				"first: filters " + all() + ", scorers " + weights(nil) + ", share 30, preempts true",
				"second: filters " + all() + ", scorers " + weights(nil) + ", share 70, preempts true",
			},
		},
		"what is about a process of its own is let pass": {
			file: `
parallelism: 4
leaderElection: {leaderElect: true}
clientConnection: {kubeconfig: /etc/scheduler.conf, qps: 50}
profiles:
- schedulerName: first`,
			want: []string{"first: filters " + all() + ", scorers " + weights(nil) + ", share 0, preempts true"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			c, err := ParseConfig([]byte(header + indented(tc.file)))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, p := range c.profiles {
				got = append(got, p.outline())
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("profiles (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseConfigNamesWhatIsWrong(t *testing.T) {
	tests := map[string]struct{ file, want string }{
		"an unknown field":           {"podMaxBackof: 3", `unknown field "podMaxBackof"`},
		"a field said twice":         {"parallelism: 3\nparallelism: 4", `"parallelism" already set`},
		"an unknown field of a rule": {"profiles:\n- pluginConfig:\n\t- name: NodeResourcesFit\n\t\targs: {scoring: x}", `unknown field "scoring"`},
		"an unknown rule":            {"profiles:\n- plugins:\n\t\tfilter:\n\t\t\tenabled: [{name: Mine}]", `profiles[0].plugins.filter.enabled[0].name: Unsupported value: "Mine"`},
		"arguments of an unknown rule": {"profiles:\n- pluginConfig:\n\t- name: Mine\n\t\targs: {a: b}",
			`profiles[0].pluginConfig[0].name: Unsupported value: "Mine"`},
		"a share beyond all":   {"percentageOfNodesToScore: 101", "percentageOfNodesToScore: Invalid value: 101: must be between 0 and 100"},
		"two of one name":      {"profiles: [{schedulerName: a}, {schedulerName: a}]", `profiles[1].schedulerName: Duplicate value: "a"`},
		"rests that shrink":    {"podInitialBackoffSeconds: 5\npodMaxBackoffSeconds: 1", "podMaxBackoffSeconds: Invalid value: 1: must not be less than podInitialBackoffSeconds"},
		"no rest at all":       {"podInitialBackoffSeconds: 0", "podInitialBackoffSeconds: Invalid value: 0: must be greater than 0"},
		"the order is our own": {"profiles:\n- plugins:\n\t\tqueueSort:\n\t\t\tdisabled: [{name: PrioritySort}]", "profiles[0].plugins.queueSort.disabled[0].name: Forbidden: PrioritySort cannot be replaced here"},
		"half a rule": {"profiles:\n- plugins:\n\t\tpreFilter:\n\t\t\tdisabled: [{name: NodePorts}]",
			"profiles[0].plugins.preFilter: Forbidden: preFilter of NodePorts goes with its filter"},
		"an extender without an address": {"extenders: [{filterVerb: filter}]", "extenders[0].urlPrefix: Invalid value"},
		"an extender whose scores weigh nothing": {"extenders: [{urlPrefix: 'http://127.0.0.1:1/', prioritizeVerb: p}]",
			"extenders[0].weight: Invalid value: 0: must be positive where there is a prioritizeVerb"},
		"two extenders that bind": {"extenders: [{urlPrefix: 'http://127.0.0.1:1/', bindVerb: b}, {urlPrefix: 'http://127.0.0.1:2/', bindVerb: b}]",
			"extenders[1].bindVerb: Forbidden: another extender binds already"},
		"no time to look for devices": {"profiles:\n- pluginConfig:\n\t- name: DynamicResources\n\t\targs: {filterTimeout: -1s}", "filterTimeout: -1s is negative"},
		"no time to make devices ready": {"profiles:\n- pluginConfig:\n\t- name: DynamicResources\n\t\targs: {bindingTimeout: 10ms}",
			"bindingTimeout: 10ms is less than a second"},
		"no candidates for preemption": {"profiles:\n- pluginConfig:\n\t- name: DefaultPreemption\n\t\targs: {minCandidateNodesPercentage: 101}",
			"profiles[0].pluginConfig[0].args.minCandidateNodesPercentage: Invalid value: 101: must be between 0 and 100"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := ParseConfig([]byte(header + indented(tc.file)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error\n%v\nwant\n%s", err, tc.want)
			}
		})
	}
	if _, err := ParseConfig([]byte("apiVersion: kubescheduler.config.k8s.io/v1beta3\nkind: KubeSchedulerConfiguration\n")); err == nil {
		t.Error("an old version is accepted")
	}
}
