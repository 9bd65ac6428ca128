package table

import "k8s.io/apimachinery/pkg/runtime/schema"

// KeyPrefixes are where some resources are kept in the datastore. The others are under their plural name. They
// are what every Kubernetes cluster uses.
var KeyPrefixes = map[schema.GroupResource]string{
	{Resource: "replicationcontrollers"}:                "controllers",
	{Resource: "endpoints"}:                             "services/endpoints",
	{Resource: "services"}:                              "services/specs",
	{Resource: "nodes"}:                                 "minions",
	{Group: "networking.k8s.io", Resource: "ingresses"}: "ingress",
}
