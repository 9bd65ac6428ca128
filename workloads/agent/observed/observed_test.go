package observed

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStateOfAContainerCutShort(t *testing.T) {
	const exited, unknown = runtimeapi.ContainerState_CONTAINER_EXITED, runtimeapi.ContainerState_CONTAINER_UNKNOWN
	tests := map[string]struct {
		status *runtimeapi.ContainerStatus
		want   State
	}{
		"nothing was noted of it":                  {&runtimeapi.ContainerStatus{State: unknown}, Created},
		"it ran, and its shim is gone":             {&runtimeapi.ContainerStatus{State: unknown, CreatedAt: 1, StartedAt: 2}, Exited},
		"it was made, and its shim is gone":        {&runtimeapi.ContainerStatus{State: unknown, CreatedAt: 1}, Exited},
		"it was killed before it began":            {&runtimeapi.ContainerStatus{State: exited, CreatedAt: 1, ExitCode: 137, Reason: "Error"}, Created},
		"it ran and was killed":                    {&runtimeapi.ContainerStatus{State: exited, CreatedAt: 1, StartedAt: 2, ExitCode: 137, Reason: "Error"}, Exited},
		"it ended well before its start was noted": {&runtimeapi.ContainerStatus{State: exited, CreatedAt: 1, Reason: "Completed"}, Exited},
		"its program could not be started":         {&runtimeapi.ContainerStatus{State: exited, CreatedAt: 1, ExitCode: 128, Reason: "StartError"}, Exited},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := details(&runtimeapi.Container{}, tc.status).State; got != tc.want {
				t.Errorf("state = %s, want %s", got, tc.want)
			}
		})
	}
}
