package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Allows reports whether one rule permits a request.
func Allows(rule *rbacv1.PolicyRule, request authorizer.Attributes) bool {
	if !has(rule.Verbs, request.GetVerb()) {
		return false
	}
	if !request.IsResourceRequest() {
		return slices.ContainsFunc(rule.NonResourceURLs, func(pattern string) bool { return urlMatches(pattern, request.GetPath()) })
	}
	return has(rule.APIGroups, request.GetAPIGroup()) &&
		resourceMatches(rule.Resources, request.GetResource(), request.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, request.GetName()))
}

// has takes * for everything.
func has(list []string, value string) bool {
	return slices.Contains(list, "*") || slices.Contains(list, value)
}

// resourceMatches takes "pods", "pods/log", "*/scale" for a subresource of anything, and "*" for all with all subresources.
func resourceMatches(list []string, resource, subresource string) bool {
	for _, pattern := range list {
		if pattern == "*" {
			return true
		}
		name, sub, _ := strings.Cut(pattern, "/")
		if sub == subresource && (name == resource || name == "*" && sub != "") {
			return true
		}
	}
	return false
}

// urlMatches takes a path, or the beginning of one with * behind it.
func urlMatches(pattern, path string) bool {
	if start, found := strings.CutSuffix(pattern, "*"); found {
		return strings.HasPrefix(path, start)
	}
	return pattern == path
}
