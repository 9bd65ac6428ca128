package plugins

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
)

// Rules are all rules in the order they are asked: cheap ones, and ones that refuse for good, first. Their weights are
// upstream's.
func Rules() []Rule {
	return []Rule{
		plain(Unschedulable{}, 0),
		plain(NodeName{}, 0),
		plain(Taints{}, 3),
		configured(NodeAffinity{}.Name(), 2, newNodeAffinity),
		plain(Ports{}, 0),
		configured(Resources{}.Name(), 1, newResources),
		plain(Declared{}, 0),
		plain(SoleUse{}, 0),
		configured(Volumes{}.Name(), 1, newVolumes),
		plain(VolumeZones{}, 0),
		plain(VolumeLimits{}, 0),
		configured(Devices{}.Name(), 0, newDevices),
		configured(Spread{}.Name(), 2, newSpread),
		configured(PodAffinity{}.Name(), 2, newPodAffinity),
		configured(Balance{}.Name(), 1, newBalance),
		plain(Images{}, 1),
	}
}

// plain is a rule without arguments.
func plain(p Plugin, weight int64) Rule {
	return Rule{Name: p.Name(), Weight: weight, New: func(args runtime.Object) (Plugin, error) {
		if args != nil {
			return nil, fmt.Errorf("%s takes no arguments", p.Name())
		}
		return p, nil
	}}
}

// configured is a rule made from arguments, whose zero value means upstream's defaults.
func configured[A any, P interface {
	*A
	runtime.Object
}](name string, weight int64, make func(P) (Plugin, error)) Rule {
	return Rule{Name: name, Weight: weight, New: func(args runtime.Object) (Plugin, error) {
		if args == nil {
			return make(new(A))
		}
		typed, ok := args.(P)
		if !ok {
			return nil, fmt.Errorf("%s takes %T, not %T", name, new(A), args)
		}
		return make(typed)
	}}
}
