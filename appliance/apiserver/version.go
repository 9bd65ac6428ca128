package apiserver

import (
	goruntime "runtime"

	"k8s.io/apimachinery/pkg/version"
	"k8s.io/apiserver/pkg/util/compatibility"
	basecompatibility "k8s.io/component-base/compatibility"
)

// Version is the Kubernetes version whose API is served, marked as ours.
const Version = "v1.37.2+knarr"

// effectiveVersion answers /version, whatever the build set in the library.
type effectiveVersion struct {
	basecompatibility.EffectiveVersion
}

func newEffectiveVersion() basecompatibility.EffectiveVersion {
	return effectiveVersion{compatibility.DefaultBuildEffectiveVersion()}
}

func (v effectiveVersion) Info() *version.Info {
	return &version.Info{
		Major:                 "1",
		Minor:                 "37",
		EmulationMajor:        "1",
		EmulationMinor:        "37",
		MinCompatibilityMajor: "1",
		MinCompatibilityMinor: "36",
		GitVersion:            Version,
		GitTreeState:          "clean",
		GoVersion:             goruntime.Version(),
		Compiler:              goruntime.Compiler,
		Platform:              goruntime.GOOS + "/" + goruntime.GOARCH,
	}
}
