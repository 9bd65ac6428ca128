package machine

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"knarr.dev/knarr/bootstrap/config"
	"knarr.dev/knarr/bootstrap/durable"
)

// State is what a running machine tells local commands about itself.
type State struct {
	PID        int           `json:"pid"`
	Version    string        `json:"version"`
	Role       config.Role   `json:"role"`
	Node       string        `json:"node"`
	Since      time.Time     `json:"since"`
	Ready      time.Duration `json:"ready"` // from the start until the machine served; 0 while it is starting
	Components []Started     `json:"components"`
	Kubeconfig string        `json:"kubeconfig,omitempty"` // the administrator's, on servers
	Runtime    string        `json:"runtime,omitempty"`    // endpoint of the container runtime used instead of ours
	Encryption string        `json:"encryption,omitempty"` // the operator's EncryptionConfiguration, where one rules
}

// stateName is the first file in a run directory. It stays when knarr ends: ReadState asks the lock whether it counts.
const stateName = "state.json"

func stateFile(paths config.Paths) string { return filepath.Join(paths.Run, stateName) }

// ReadState of the knarr that runs from these folders; nil when none does.
func ReadState(paths config.Paths) (*State, error) {
	content, err := os.ReadFile(stateFile(paths))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state of this machine: %w", err)
	}
	var s State
	if err := json.Unmarshal(content, &s); err != nil {
		return nil, fmt.Errorf("read state of this machine in %s: %w", stateFile(paths), err)
	}
	if pid, err := Holder(paths.Data); err != nil || pid != s.PID {
		return nil, err // left by one that ended
	}
	return &s, nil
}

func (s *State) write(paths config.Paths) error {
	content, err := json.Marshal(s)
	if err != nil {
		return err
	}
	return durable.Replace(stateFile(paths), content, 0o600)
}
