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
		plain(NodeAffinity{}, 2),
		plain(Ports{}, 0),
		plain(Resources{}, 1),
		plain(SoleUse{}, 0),
		plain(Volumes{}, 0),
		plain(Spread{}, 2),
		plain(PodAffinity{}, 2),
		plain(Balance{}, 1),
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
