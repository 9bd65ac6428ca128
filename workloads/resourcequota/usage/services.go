package usage

import (
	corev1 "k8s.io/api/core/v1"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

// Services measures services: what they take of the nodes' ports and of load balancers.
func Services(list List) quota.Evaluator {
	return &evaluator[*corev1.Service]{
		resource: corev1.Resource("services"), list: list, on: []string{"create", "update"},
		concerns: func(name corev1.ResourceName) bool {
			switch name {
			case "count/services", corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers:
				return true
			}
			return false
		},
		measure: measureService,
	}
}

func measureService(service *corev1.Service) corev1.ResourceList {
	used := corev1.ResourceList{
		"count/services": whole(1), corev1.ResourceServices: whole(1),
		corev1.ResourceServicesNodePorts: whole(0), corev1.ResourceServicesLoadBalancers: whole(0),
	}
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		used[corev1.ResourceServicesNodePorts] = whole(int64(len(service.Spec.Ports)))
	case corev1.ServiceTypeLoadBalancer:
		ports := len(service.Spec.Ports)
		if allocate := service.Spec.AllocateLoadBalancerNodePorts; allocate != nil && !*allocate {
			ports = 0
			for _, p := range service.Spec.Ports {
				if p.NodePort != 0 {
					ports++
				}
			}
		}
		used[corev1.ResourceServicesNodePorts] = whole(int64(ports))
		used[corev1.ResourceServicesLoadBalancers] = whole(1)
	}
	return used
}
