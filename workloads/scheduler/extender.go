package scheduler

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/rest"
	configv1 "k8s.io/kube-scheduler/config/v1"
	extenderv1 "k8s.io/kube-scheduler/extender/v1"

	"knarr.dev/knarr/workloads/scheduler/plugins"
	"knarr.dev/knarr/workloads/scheduler/snapshot"
)

const (
	// extenderPatience is how long an extender may take unless configured, and largestAnswer what it may say.
	extenderPatience = 5 * time.Second
	largestAnswer    = 64 << 20
	// byExtender stands for all extenders among the rules that refused a pod: any change may change their mind.
	byExtender = "Extender"
)

// extender is a program that has a say in decisions over HTTP (k8s.io/kube-scheduler/extender/v1). It is asked on the
// deciding goroutine, as upstream's does: everybody waits for it.
type extender struct {
	configv1.Extender
	client  *http.Client
	managed map[corev1.ResourceName]bool // it is asked about pods that ask for any of these; about all if there are none
}

func newExtenders(path *field.Path, configs []configv1.Extender) (all []*extender, errs field.ErrorList) {
	binders := 0
	for i := range configs {
		c, at := &configs[i], path.Index(i)
		if _, err := url.ParseRequestURI(c.URLPrefix); err != nil {
			errs = append(errs, field.Invalid(at.Child("urlPrefix"), c.URLPrefix, "must be the URL of an extender"))
		}
		if c.PrioritizeVerb != "" && c.Weight <= 0 {
			errs = append(errs, field.Invalid(at.Child("weight"), c.Weight, "must be positive where there is a prioritizeVerb"))
		}
		if c.BindVerb != "" {
			if binders++; binders > 1 {
				errs = append(errs, field.Forbidden(at.Child("bindVerb"), "another extender binds already"))
			}
		}
		e := &extender{Extender: *c, managed: map[corev1.ResourceName]bool{}}
		for j, managed := range c.ManagedResources {
			if managed.Name == "" {
				errs = append(errs, field.Required(at.Child("managedResources").Index(j).Child("name"), ""))
			}
			e.managed[corev1.ResourceName(managed.Name)] = true
		}
		transport, err := rest.TransportFor(&rest.Config{Host: c.URLPrefix, TLSClientConfig: tlsOf(c)})
		if err != nil {
			errs = append(errs, field.Invalid(at.Child("tlsConfig"), c.URLPrefix, err.Error()))
			continue
		}
		e.client = &http.Client{Transport: transport, Timeout: cmp.Or(c.HTTPTimeout.Duration, extenderPatience)}
		all = append(all, e)
	}
	return all, errs
}

func tlsOf(c *configv1.Extender) rest.TLSClientConfig {
	if c.TLSConfig == nil {
		return rest.TLSClientConfig{}
	}
	t := c.TLSConfig
	return rest.TLSClientConfig{
		Insecure: t.Insecure, ServerName: t.ServerName,
		CertFile: t.CertFile, KeyFile: t.KeyFile, CAFile: t.CAFile, CertData: t.CertData, KeyData: t.KeyData, CAData: t.CAData,
	}
}

// ignoredResources are those extenders look after alone.
func ignoredResources(configs []configv1.Extender) (names []string) {
	for _, c := range configs {
		for _, managed := range c.ManagedResources {
			if managed.IgnoredByScheduler {
				names = append(names, managed.Name)
			}
		}
	}
	return names
}

// concerns says whether the extender has a say about a pod.
func (e *extender) concerns(pod *corev1.Pod) bool {
	if len(e.managed) == 0 {
		return true
	}
	for _, containers := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			for _, list := range []corev1.ResourceList{containers[i].Resources.Requests, containers[i].Resources.Limits} {
				for name := range list {
					if e.managed[name] {
						return true
					}
				}
			}
		}
	}
	return false
}

// concerned are the extenders with a verb that have a say about a pod.
func (p *profile) concerned(pod *corev1.Pod, verb func(*extender) string) (all []*extender) {
	for _, e := range p.extenders {
		if verb(e) != "" && e.concerns(pod) {
			all = append(all, e)
		}
	}
	return all
}

// filter are the nodes an extender leaves of some, and why not the others.
func (e *extender) filter(ctx context.Context, pod *corev1.Pod, nodes []*snapshot.Node) (left []*snapshot.Node, refused map[string]*plugins.Refusal, err error) {
	var answer extenderv1.ExtenderFilterResult
	if err := e.post(ctx, e.FilterVerb, e.about(pod, nodes), &answer); err != nil {
		return nil, nil, err
	}
	if answer.Error != "" {
		return nil, nil, fmt.Errorf("extender %s: %s", e.URLPrefix, answer.Error)
	}
	keeps := map[string]bool{}
	switch {
	case e.NodeCacheCapable && answer.NodeNames != nil:
		for _, name := range *answer.NodeNames {
			keeps[name] = true
		}
	case answer.Nodes != nil:
		for i := range answer.Nodes.Items {
			keeps[answer.Nodes.Items[i].Name] = true
		}
	}
	refused = map[string]*plugins.Refusal{}
	for _, n := range nodes {
		if keeps[n.Name] {
			left = append(left, n)
			continue
		}
		why, final := answer.FailedAndUnresolvableNodes[n.Name]
		refused[n.Name] = &plugins.Refusal{Reasons: []string{cmp.Or(why, answer.FailedNodes[n.Name], "node(s) didn't satisfy an extender")}, Final: final}
	}
	return left, refused, nil
}

// prioritize adds an extender's scores, which go from 0 to 10, to those of the rules.
func (e *extender) prioritize(ctx context.Context, pod *corev1.Pod, nodes []*snapshot.Node, totals []int64) error {
	var answer extenderv1.HostPriorityList
	if err := e.post(ctx, e.PrioritizeVerb, e.about(pod, nodes), &answer); err != nil {
		return err
	}
	for _, given := range answer {
		i := slices.IndexFunc(nodes, func(n *snapshot.Node) bool { return n.Name == given.Host })
		if i >= 0 {
			totals[i] += given.Score * e.Weight * (plugins.MaxScore / extenderv1.MaxExtenderPriority)
		}
	}
	return nil
}

func (e *extender) about(pod *corev1.Pod, nodes []*snapshot.Node) *extenderv1.ExtenderArgs {
	args := &extenderv1.ExtenderArgs{Pod: pod}
	if e.NodeCacheCapable {
		names := make([]string, len(nodes))
		for i, n := range nodes {
			names[i] = n.Name
		}
		args.NodeNames = &names
		return args
	}
	args.Nodes = &corev1.NodeList{Items: make([]corev1.Node, len(nodes))}
	for i, n := range nodes {
		args.Nodes.Items[i] = *n.Object
	}
	return args
}

// bind gives a pod its node.
func (e *extender) bind(ctx context.Context, pod *corev1.Pod, node string) error {
	var answer extenderv1.ExtenderBindingResult
	args := &extenderv1.ExtenderBindingArgs{PodName: pod.Name, PodNamespace: pod.Namespace, PodUID: pod.UID, Node: node}
	if err := e.post(ctx, e.BindVerb, args, &answer); err != nil {
		return err
	}
	if answer.Error != "" {
		return fmt.Errorf("extender %s: %s", e.URLPrefix, answer.Error)
	}
	return nil
}

// preempt are the clearings an extender agrees to, with the victims it names.
func (e *extender) preempt(ctx context.Context, pod *corev1.Pod, found []*clearing) ([]*clearing, error) {
	args := &extenderv1.ExtenderPreemptionArgs{Pod: pod}
	if e.NodeCacheCapable {
		args.NodeNameToMetaVictims = map[string]*extenderv1.MetaVictims{}
	} else {
		args.NodeNameToVictims = map[string]*extenderv1.Victims{}
	}
	for _, c := range found {
		meta := &extenderv1.MetaVictims{NumPDBViolations: int64(c.violations)}
		whole := &extenderv1.Victims{NumPDBViolations: int64(c.violations)}
		for _, v := range c.victims {
			meta.Pods = append(meta.Pods, &extenderv1.MetaPod{UID: string(v.Object.UID)})
			whole.Pods = append(whole.Pods, v.Object)
		}
		if e.NodeCacheCapable {
			args.NodeNameToMetaVictims[c.node] = meta
		} else {
			args.NodeNameToVictims[c.node] = whole
		}
	}
	var answer extenderv1.ExtenderPreemptionResult
	if err := e.post(ctx, e.PreemptVerb, args, &answer); err != nil {
		return nil, err
	}
	var left []*clearing
	for _, c := range found {
		agreed := answer.NodeNameToMetaVictims[c.node]
		if agreed == nil {
			continue
		}
		named := map[string]bool{}
		for _, v := range agreed.Pods {
			named[v.UID] = true
		}
		kept := &clearing{node: c.node, violations: int(agreed.NumPDBViolations)}
		for _, v := range c.victims {
			if named[string(v.Object.UID)] {
				kept.victims = append(kept.victims, v)
			}
		}
		if len(kept.victims) != len(named) {
			return nil, fmt.Errorf("extender %s: it names victims on %s it was not told of", e.URLPrefix, c.node)
		}
		left = append(left, kept)
	}
	return left, nil
}

// post asks an extender.
func (e *extender) post(ctx context.Context, verb string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode a question to an extender: %w", err)
	}
	at := strings.TrimRight(e.URLPrefix, "/") + "/" + verb
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask an extender: %w", err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := e.client.Do(request)
	if err != nil {
		return fmt.Errorf("ask an extender: %w", err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("extender %s answers %s", at, response.Status)
	}
	if err := json.NewDecoder(io.LimitReader(response.Body, largestAnswer)).Decode(answer); err != nil {
		return errors.Join(fmt.Errorf("read the answer of extender %s", at), err)
	}
	return nil
}
