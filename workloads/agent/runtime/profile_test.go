package runtime

import (
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// allows says whether a profile lets a process make a socket of a domain.
func allows(profile *specs.LinuxSeccomp, domain uint64) bool {
	holds := func(arg specs.LinuxSeccompArg) bool {
		switch arg.Op {
		case specs.OpEqualTo:
			return domain == arg.Value
		case specs.OpNotEqual:
			return domain != arg.Value
		case specs.OpLessThan:
			return domain < arg.Value
		case specs.OpLessEqual:
			return domain <= arg.Value
		case specs.OpGreaterThan:
			return domain > arg.Value
		case specs.OpGreaterEqual:
			return domain >= arg.Value
		case specs.OpMaskedEqual:
			return domain&arg.Value == arg.ValueTwo
		}
		return true // unknown ones count as a hole
	}
	return slices.ContainsFunc(profile.Syscalls, func(rule specs.LinuxSyscall) bool {
		return rule.Action == specs.ActAllow && slices.Contains(rule.Names, "socket") &&
			!slices.ContainsFunc(rule.Args, func(arg specs.LinuxSeccompArg) bool { return arg.Index == 0 && !holds(arg) })
	})
}

// A machine that gives out its cluster's secrets over AF_VSOCK must not give them to pods. The profile is containerd's: this
// tells when a newer one no longer says so.
func TestTheRuntimesProfileKeepsPodsOffTheHost(t *testing.T) {
	profile := seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_NET_RAW"}}}})
	for name, tc := range map[string]struct {
		domain uint64
		want   bool
	}{
		"AF_VSOCK is for the host": {unix.AF_VSOCK, false},
		"AF_INET is for everybody": {unix.AF_INET, true},
		"AF_UNIX is for everybody": {unix.AF_UNIX, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := allows(profile, tc.domain); got != tc.want {
				t.Errorf("a socket of domain %d is allowed: %v, want %v", tc.domain, got, tc.want)
			}
		})
	}
}
