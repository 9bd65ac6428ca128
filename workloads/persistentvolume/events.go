package persistentvolume

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Reasons as users of Kubernetes know them.
const (
	reasonWaits              = "WaitForFirstConsumer"
	reasonWaitsForPod        = "WaitForPodScheduled"
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

// waiting says what a claim waits for that is bound where its pod runs. Which of several pods is placed first nobody knows.
func waiting(claim *corev1.PersistentVolumeClaim, pods []string) event {
	switch len(pods) {
	case 0:
		return normal(claim, reasonWaits, "waiting for first consumer to be created before binding")
	case 1:
		return normal(claim, reasonWaitsForPod, "waiting for pod %s to be scheduled", pods[0])
	}
	return normal(claim, reasonWaitsForPod, "waiting for pods %s to be scheduled", strings.Join(pods, ","))
}
