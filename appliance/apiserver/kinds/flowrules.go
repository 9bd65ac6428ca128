package kinds

import (
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/util/shufflesharding"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

// flowVerbs are those of requests for resources; others have the verbs of HTTP.
var flowVerbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

var flowMethods = []string{"connect", "delete", "get", "head", "options", "patch", "post", "put", "trace"}

// validateFlowRule wants a rule to say whose requests it is about, and which.
func validateFlowRule(r *flowcontrolv1.PolicyRulesWithSubjects, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(at.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateFlowSubject(&r.Subjects[i], at.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules)+len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(at, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i, rule := range r.ResourceRules {
		at := at.Child("resourceRules").Index(i)
		errs = append(errs, allOrSome(rule.Verbs, "verbs", flowVerbs, at)...)
		errs = append(errs, allOrSome(rule.APIGroups, "apiGroups", nil, at)...)
		errs = append(errs, allOrSome(rule.Resources, "resources", nil, at)...)
		switch namespaces := at.Child("namespaces"); {
		case len(rule.Namespaces) > 0:
			errs = append(errs, allOrSome(rule.Namespaces, "namespaces", nil, at)...)
			for j, name := range rule.Namespaces {
				if name != flowcontrolv1.NamespaceEvery {
					errs = append(errs, check.Text(namespaces.Index(j), name, check.Name(apivalidation.ValidateNamespaceName))...)
				}
			}
		case !rule.ClusterScope:
			errs = append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
		}
	}
	for i, rule := range r.NonResourceRules {
		at := at.Child("nonResourceRules").Index(i)
		errs = append(errs, allOrSome(rule.Verbs, "verbs", flowMethods, at)...)
		errs = append(errs, allOrSome(rule.NonResourceURLs, "nonResourceURLs", nil, at)...)
		for j, url := range rule.NonResourceURLs {
			if url != flowcontrolv1.NonResourceAll {
				errs = append(errs, validateFlowPath(url, at.Child("nonResourceURLs").Index(j))...)
			}
		}
	}
	return errs
}

// allOrSome wants a list that is not empty, and of which "*" is the only element or none.
func allOrSome(values []string, name string, known []string, at *field.Path) field.ErrorList {
	at = at.Child(name)
	switch {
	case len(values) == 0:
		return field.ErrorList{field.Required(at, name+" must contain at least one value")}
	case slices.Contains(values, "*") && len(values) > 1:
		return field.ErrorList{field.Invalid(at, values, "if '*' is present, must not specify other "+name)}
	case known == nil || values[0] == "*":
		return nil
	}
	if slices.ContainsFunc(values, func(value string) bool { return !slices.Contains(known, value) }) {
		return field.ErrorList{field.NotSupported(at, values, known)}
	}
	return nil
}

// validateFlowPath wants an absolute path, which may end in one "*" for all below it.
func validateFlowPath(path string, at *field.Path) field.ErrorList {
	var wrong string
	switch {
	case path == "":
		wrong = "must not be empty"
	case path == "/":
		return nil
	case !strings.HasPrefix(path, "/"):
		wrong = "must start with slash"
	case strings.Contains(path, " "):
		wrong = "must not contain white-space"
	case strings.Contains(path, "//"):
		wrong = "must not contain double slash"
	case strings.Contains(strings.TrimSuffix(path, "/*"), "*"):
		wrong = "wildcard can only do suffix matching"
	default:
		return nil
	}
	return field.ErrorList{field.Invalid(at, path, wrong)}
}

// validateFlowSubject wants what the subject's kind names, and nothing of the other two.
func validateFlowSubject(s *flowcontrolv1.Subject, at *field.Path) field.ErrorList {
	set := map[flowcontrolv1.SubjectKind]bool{
		flowcontrolv1.SubjectKindUser: s.User != nil, flowcontrolv1.SubjectKindGroup: s.Group != nil, flowcontrolv1.SubjectKindServiceAccount: s.ServiceAccount != nil,
	}
	names := map[flowcontrolv1.SubjectKind]string{
		flowcontrolv1.SubjectKindUser: "user", flowcontrolv1.SubjectKindGroup: "group", flowcontrolv1.SubjectKindServiceAccount: "serviceAccount",
	}
	kinds := []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}
	if !slices.Contains(kinds, s.Kind) {
		return field.ErrorList{field.NotSupported(at.Child("kind"), s.Kind, kinds)}
	}
	var errs field.ErrorList
	for _, kind := range kinds {
		switch {
		case kind == s.Kind && !set[kind]:
			errs = append(errs, field.Required(at.Child(names[kind]), fmt.Sprintf("%s is required when subject kind is '%s'", names[kind], kind)))
		case kind != s.Kind && set[kind]:
			errs = append(errs, field.Forbidden(at.Child(names[kind]), fmt.Sprintf("%s is forbidden when subject kind is not '%s'", names[kind], kind)))
		}
	}
	switch {
	case s.Kind == flowcontrolv1.SubjectKindUser && s.User != nil:
		errs = append(errs, check.Needed(at.Child("user", "name"), s.User.Name, nil)...)
	case s.Kind == flowcontrolv1.SubjectKindGroup && s.Group != nil:
		errs = append(errs, check.Needed(at.Child("group", "name"), s.Group.Name, nil)...)
	case s.Kind == flowcontrolv1.SubjectKindServiceAccount && s.ServiceAccount != nil:
		account, at := s.ServiceAccount, at.Child("serviceAccount")
		if account.Name != flowcontrolv1.NameAll {
			errs = append(errs, check.Needed(at.Child("name"), account.Name, check.Name(apivalidation.ValidateServiceAccountName))...)
		}
		errs = append(errs, check.Needed(at.Child("namespace"), account.Namespace, check.Name(apivalidation.ValidateNamespaceName))...)
	}
	return errs
}

// mostQueues a level can have.
const mostQueues = 10_000_000

func validateLimitedLevel(l *flowcontrolv1.LimitedPriorityLevelConfiguration, at *field.Path) field.ErrorList {
	errs := validateShares(l.NominalConcurrencyShares, l.LendablePercent, at)
	if p := l.BorrowingLimitPercent; p != nil && *p < 0 {
		errs = append(errs, field.Invalid(at.Child("borrowingLimitPercent"), *p, "if specified, must be a non-negative integer"))
	}
	q := l.LimitResponse.Queuing
	if q == nil {
		return errs
	}
	at = at.Child("limitResponse", "queuing")
	for _, size := range []struct {
		name  string
		value int32
	}{{"queues", q.Queues}, {"queueLengthLimit", q.QueueLengthLimit}, {"handSize", q.HandSize}} {
		if size.value <= 0 {
			errs = append(errs, field.Invalid(at.Child(size.name), size.value, "must be positive"))
		}
	}
	hand := at.Child("handSize")
	switch {
	case q.Queues > mostQueues:
		errs = append(errs, field.Invalid(at.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", mostQueues)))
	case q.HandSize > q.Queues:
		errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	case q.HandSize > 0: // what deals the hands has so many bits to do it with
		if bits := shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)); bits > shufflesharding.MaxHashBits {
			errs = append(errs, field.Invalid(hand, q.HandSize, fmt.Sprintf("required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
		}
	}
	return errs
}

func validateShares(shares, lendable *int32, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if shares != nil && *shares < 0 {
		errs = append(errs, field.Invalid(at.Child("nominalConcurrencyShares"), *shares, "must be a non-negative integer"))
	}
	if lendable != nil && (*lendable < 0 || *lendable > 100) {
		errs = append(errs, field.Invalid(at.Child("lendablePercent"), *lendable, "must be between 0 and 100, inclusive"))
	}
	return errs
}
