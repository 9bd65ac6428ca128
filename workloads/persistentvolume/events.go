package persistentvolume

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Reasons as users of Kubernetes know them.
const (
	reasonWaits              = "WaitForFirstConsumer"
	reasonFailedBinding      = "FailedBinding"
	reasonExternal           = "ExternalProvisioning"
	reasonProvisioningFailed = "ProvisioningFailed"
	reasonMismatch           = "VolumeMismatch"
	reasonLost               = "ClaimLost"
	reasonMisbound           = "ClaimMisbound"
	reasonFailedRecycle      = "VolumeFailedRecycle"
	reasonFailedDelete       = "VolumeFailedDelete"
)

// event is something to tell the users of an object.
type event struct {
	about                 client.Object
	kind, reason, message string
}

func normal(about client.Object, reason, format string, args ...any) event {
	return event{about, corev1.EventTypeNormal, reason, fmt.Sprintf(format, args...)}
}

func warning(about client.Object, reason, format string, args ...any) event {
	return event{about, corev1.EventTypeWarning, reason, fmt.Sprintf(format, args...)}
}
