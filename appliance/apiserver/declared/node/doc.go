// Package node holds the rules that the types of k8s.io/api/node/v1 declare.
//
// In:       the types' +k8s: markers, at the version in go.mod.
// Out:      AddToScheme, generated and committed (make generate).
// Promise:  what a marker says is checked; see declared.
// Not here: rules that no marker says (appliance/apiserver/kinds).
//
// +k8s:validation-gen=TypesWithField=TypeMeta
// +k8s:validation-gen-input=k8s.io/api/node/v1
package node

import "k8s.io/apimachinery/pkg/runtime"

var localSchemeBuilder runtime.SchemeBuilder // the generated file adds to it

// AddToScheme registers the rules of the package's types.
func AddToScheme(s *runtime.Scheme) error { return localSchemeBuilder.AddToScheme(s) }
