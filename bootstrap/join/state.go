package join

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"knarr.dev/knarr/bootstrap/durable"
	"knarr.dev/knarr/bootstrap/pki"
)

// state is what a machine keeps of its cluster beside certificates.
type state struct {
	Server   string   `json:"server"`
	Settings Settings `json:"settings"`
}

// StateFile lies in the folder of keys of a machine that joined a cluster.
const StateFile = "cluster.json"

func (m *Member) statePath() string { return filepath.Join(m.dir, StateFile) }

func (m *Member) storeState() error {
	content, err := json.MarshalIndent(state{m.Server, m.Settings}, "", "  ")
	if err != nil {
		return fmt.Errorf("encode what is known of the cluster: %w", err)
	}
	return durable.Write(m.statePath(), append(content, '\n'), 0o600)
}

// load reads the stored place; false means that there is none, or none that still counts.
func (m *Member) load(now time.Time) (bool, error) {
	content, err := os.ReadFile(m.statePath())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read what is known of the cluster: %w", err)
	}
	var s state
	if err := json.Unmarshal(content, &s); err != nil {
		return false, fmt.Errorf("%s is damaged (%w): delete it and start with a join token", m.statePath(), err)
	}
	for _, file := range []string{pki.NodeClientFile, pki.NodeServerFile} {
		if err := finishPair(m.dir, file); err != nil {
			return false, err
		}
	}
	client := filepath.Join(m.dir, pki.NodeClientFile)
	pair, err := pki.LoadPair(client+".crt", client+".key")
	if err != nil {
		m.log.Warn("the node's certificate cannot be used; a token is needed to join again", "err", err)
		return false, nil
	}
	if name := pair.Cert.Subject.CommonName; name != pki.NodeUserPrefix+m.nodeName {
		return false, fmt.Errorf("this machine joined as %s and is now to be %s%s: set node-name to the old name, or run `knarr reset` and join again",
			name, pki.NodeUserPrefix, m.nodeName)
	}
	if now.After(pair.Cert.NotAfter) {
		m.log.Warn("the node's certificate has ended; a token is needed to join again", "ended", pair.Cert.NotAfter, "clock", now)
		return false, nil
	}
	m.Server, m.Settings = s.Server, s.Settings
	return true, nil
}
