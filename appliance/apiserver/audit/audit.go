// Package audit keeps a record of who changed what.
//
// In:       every request, after it was answered; a policy.
// Out:      lines of JSON (audit.k8s.io/v1 Event) in a file that is turned over when it is full.
// Promise:  the files stay within 50 MB and 0600; with our own policy no line holds a body, and none is written while
// nobody changes anything. A disk that is full does not refuse requests.
// Not here: events of the cluster (kind Event), the log of this process (appliance/command).
package audit

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"gopkg.in/natefinch/lumberjack.v2"
	auditinternal "k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
	"k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/plugin/pkg/audit/log"
)

// Bounds of the log: some 70,000 changes. Small disks are our users; who needs more sends it away from the machine.
const (
	megabytes = 10
	backups   = 4
	days      = 30
)

// Config of the record.
type Config struct {
	Log    string // file; "" means: nothing is recorded
	Policy string // file of the operator (audit.k8s.io/v1 Policy); "" means: policy.yaml
}

//go:embed policy.yaml
var ownPolicy []byte

// Apply has a server keep the record.
func Apply(config Config, to *server.Config) error {
	if config.Log == "" {
		return nil
	}
	rules, err := load(config.Policy)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(config.Log), 0o700); err != nil {
		return fmt.Errorf("make folder for the audit log: %w", err)
	}
	file := &lumberjack.Logger{Filename: config.Log, MaxSize: megabytes, MaxBackups: backups, MaxAge: days} // makes files 0600
	to.AuditPolicyRuleEvaluator = policy.NewPolicyRuleEvaluator(rules)
	to.AuditBackend = &backend{Backend: log.NewBackend(file, log.FormatJson, auditv1.SchemeGroupVersion), file: file}
	return nil
}

func load(path string) (*auditinternal.Policy, error) {
	if path == "" {
		rules, err := policy.LoadPolicyFromBytes(ownPolicy)
		if err != nil {
			return nil, fmt.Errorf("read our audit policy: %w", err)
		}
		return rules, nil
	}
	rules, err := policy.LoadPolicyFromFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the audit policy: %w", err)
	}
	if len(rules.Rules) == 0 {
		return nil, errors.New("the audit policy " + path + " has no rules: add one, or leave audit-policy out")
	}
	return rules, nil
}

// backend writes lines before requests are answered. That is a copy into the kernel's memory: a buffer of our own would
// lose lines with the process and save nothing, since the kernel takes its time to write them to disk as well.
type backend struct {
	audit.Backend
	file *lumberjack.Logger
}

// ProcessEvents never fails a request: lines that cannot be written are counted and logged by the library.
func (b *backend) ProcessEvents(events ...*auditinternal.Event) bool {
	b.Backend.ProcessEvents(events...)
	return true
}

// Shutdown comes after the last request.
func (b *backend) Shutdown() {
	b.Backend.Shutdown()
	_ = b.file.Close() // nothing is buffered
}
