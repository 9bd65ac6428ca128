package scheme

import (
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// selectable are the fields clients may select by beside metadata.name and metadata.namespace. A kind's
// Hooks.Fields must give a value for each of them.
var selectable = map[schema.GroupVersionKind][]string{
	corev1.SchemeGroupVersion.WithKind("Pod"): {
		"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
		"status.phase", "status.podIP", "status.nominatedNodeName",
	},
	corev1.SchemeGroupVersion.WithKind("Node"):                  {"spec.unschedulable"},
	corev1.SchemeGroupVersion.WithKind("Namespace"):             {"status.phase"},
	corev1.SchemeGroupVersion.WithKind("Secret"):                {"type"},
	corev1.SchemeGroupVersion.WithKind("Service"):               {"spec.clusterIP", "spec.type"},
	corev1.SchemeGroupVersion.WithKind("ReplicationController"): {"status.replicas"},
	corev1.SchemeGroupVersion.WithKind("Event"): {
		"involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid",
		"involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath",
		"reason", "reportingComponent", "source", "type",
	},
	appsv1.SchemeGroupVersion.WithKind("ReplicaSet"):                        {"status.replicas"},
	batchv1.SchemeGroupVersion.WithKind("Job"):                              {"status.successful"},
	certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"): {"spec.signerName"},
	certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"):        {"spec.signerName"},
	certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"):     {"spec.signerName", "spec.nodeName"},
	resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"):                 {"spec.nodeName", "spec.driver", "spec.pool.name"},
}

// renamed are selectable fields that have other names in another version.
var renamed = map[schema.GroupVersionKind]map[string]string{
	corev1.SchemeGroupVersion.WithKind("Pod"): {"spec.host": "spec.nodeName"},
	eventsv1.SchemeGroupVersion.WithKind("Event"): {
		"regarding.kind":            "involvedObject.kind",
		"regarding.namespace":       "involvedObject.namespace",
		"regarding.name":            "involvedObject.name",
		"regarding.uid":             "involvedObject.uid",
		"regarding.apiVersion":      "involvedObject.apiVersion",
		"regarding.resourceVersion": "involvedObject.resourceVersion",
		"regarding.fieldPath":       "involvedObject.fieldPath",
		"reportingController":       "reportingComponent",
		"reason":                    "reason",
		"type":                      "type",
	},
}

func addFieldLabels(s *runtime.Scheme) error {
	kinds := map[schema.GroupVersionKind]bool{}
	for kind := range selectable {
		kinds[kind] = true
	}
	for kind := range renamed {
		kinds[kind] = true
	}
	for kind := range kinds {
		convert := func(label, value string) (string, string, error) {
			if label == "metadata.name" || label == "metadata.namespace" || slices.Contains(selectable[kind], label) {
				return label, value, nil
			}
			if name, ok := renamed[kind][label]; ok {
				return name, value, nil
			}
			return "", "", fmt.Errorf("%q is not a known field selector: only %q, %q and %q", label, "metadata.name", "metadata.namespace", selectable[kind])
		}
		if err := s.AddFieldLabelConversionFunc(kind, convert); err != nil {
			return fmt.Errorf("register selectable fields of %s: %w", kind, err)
		}
	}
	return nil
}
