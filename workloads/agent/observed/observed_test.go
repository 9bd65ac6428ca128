package observed

import (
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestStateOfAContainerCutShort(t *testing.T) {
	const exited, unknown = runtimeapi.ContainerState_CONTAINER_EXITED, runtimeapi.ContainerState_CONTAINER_UNKNOWN
	tests := map[string]struct {
		status *runtimeapi.ContainerStatus
		want   State
	}{
		"nothing was noted of it":                  {&runtimeapi.ContainerStatus{State: unknown}, Created},
		"it ran, and its shim is gone":             {&runtimeapi.ContainerStatus{State: unknown, CreatedAt: 1, StartedAt: 2}, Lost},
		"it was made, and its shim is gone":        {&runtimeapi.ContainerStatus{State: unknown, CreatedAt: 1}, Lost},
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

func TestAnEndIsSeenOnce(t *testing.T) {
	first, now := time.Unix(100, 0), time.Unix(200, 0)
	before := Pod{Containers: map[string][]Container{"a": {{ID: "ended", Name: "a", State: Exited, Ended: first}, {ID: "ran", Name: "a", State: Running}}}}
	tests := map[string]struct {
		of   Container
		want time.Time
	}{
		"one that runs has none":                      {of: Container{ID: "ran", Name: "a", State: Running}},
		"one that ran at the last look ended now":     {of: Container{ID: "ran", Name: "a", State: Exited}, want: now},
		"one that was not known ended now":            {of: Container{ID: "new", Name: "a", State: Exited}, want: now},
		"one that had ended keeps its time, whatever": {of: Container{ID: "ended", Name: "a", State: Exited, ExitCode: killed}, want: first},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := seen(tc.of, before, now).Ended; !got.Equal(tc.want) {
				t.Errorf("ended at %v, want %v", got, tc.want)
			}
		})
	}
}
