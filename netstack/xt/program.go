package xt

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// ErrNoProgram is that the program that writes ip_tables is not installed.
var ErrNoProgram = errors.New("no iptables program for ip_tables is installed")

// patience with others who hold the lock that all of them share, in seconds.
const patience = 10

// Program is iptables or ip6tables, in the kind that writes ip_tables.
type Program struct {
	*iptables.IPTables
	path string
}

// Find looks for the program of a family. Where distributions have both kinds, the name without "legacy" usually means the
// one that writes nftables.
func Find(v6 bool) (*Program, error) {
	name, family := "iptables", iptables.ProtocolIPv4
	if v6 {
		name, family = "ip6tables", iptables.ProtocolIPv6
	}
	for _, name := range []string{name + "-legacy", name} {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		if version, err := exec.Command(path, "--version").Output(); err != nil || strings.Contains(string(version), "nf_tables") {
			continue
		}
		p, err := iptables.New(iptables.IPFamily(family), iptables.Path(path), iptables.Timeout(patience))
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", path, err)
		}
		if !p.HasRandomFully() { // as old: iptables-restore that waits for the lock
			return nil, fmt.Errorf("%s is older than 1.6.2: install a newer one", path)
		}
		return &Program{p, path}, nil
	}
	return nil, fmt.Errorf("%w: install %s in the kind called legacy (Debian and Ubuntu: package iptables; Fedora: iptables-legacy)", ErrNoProgram, name)
}

// Dump is all of a table: the rules of its chains, without "-A CHAIN", and the policies of the kernel's own.
func (p *Program) Dump(table string) (chains map[string][]string, policies map[string]string, err error) {
	t, err := p.read(table)
	return t.chains, t.policies, err
}

func (p *Program) read(table string) (table, error) {
	list, err := p.run(nil, p.path+"-save", "-t", table)
	if err != nil {
		return parse(""), fmt.Errorf("list table %s: %w", table, err)
	}
	return parse(list), nil
}

func (p *Program) restore(text string) error {
	if _, err := p.run(strings.NewReader(text), p.path+"-restore", "--noflush", "--wait", strconv.Itoa(patience)); err != nil {
		return fmt.Errorf("write rules: %w", err)
	}
	return nil
}

func (p *Program) run(in *strings.Reader, name string, args ...string) (string, error) {
	var out, complaint bytes.Buffer
	cmd := exec.Command(name, args...)
	if in != nil {
		cmd.Stdin = in
	}
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.Join(strings.Fields(complaint.String()), " "))
	}
	return out.String(), nil
}
