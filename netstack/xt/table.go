package xt

import (
	"slices"
	"strings"
)

// Ours tells chains of knarr from other people's, whoever of us owns them.
func Ours(chain string) bool { return strings.HasPrefix(chain, "KNARR-") }

// table is what iptables-save tells of one table.
type table struct {
	chains   map[string][]string // rules in their order, without "-A CHAIN "
	policies map[string]string   // of the kernel's own chains: ACCEPT, DROP
}

// parse reads the list of one table.
func parse(list string) table {
	t := table{chains: map[string][]string{}, policies: map[string]string{}}
	for line := range strings.Lines(list) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, ":"): // ":FORWARD DROP [0:0]"
			if words := strings.Fields(line[1:]); len(words) > 1 {
				t.chains[words[0]] = nil
				if words[1] != "-" {
					t.policies[words[0]] = words[1]
				}
			}
		case strings.HasPrefix(line, "-A "):
			name, rule, _ := strings.Cut(line[len("-A "):], " ")
			t.chains[name] = append(t.chains[name], rule)
		}
	}
	return t
}

// of is what an owner has in the table.
func (t table) of(owner string) Rules {
	r := Rules{Chains: map[string][]string{}}
	for name, rules := range t.chains {
		if belongs(name, owner) {
			r.Chains[name] = rules
			continue
		}
		for _, rule := range rules {
			if belongs(Target(rule), owner) {
				r.Hooks = append(r.Hooks, Hook{name, rule})
			}
		}
	}
	return r
}

// hold tells whether an owner's chains are there with as many rules, and its hooks before the rules of strangers: what a
// stranger accepts nobody judges any more.
func (t table) hold(want Rules, owner string) bool {
	for name, rules := range want.Chains {
		there, exists := t.chains[name]
		if !exists || len(there) != len(rules) {
			return false
		}
	}
	hooks := map[string]int{}
	for _, hook := range want.Hooks {
		hooks[hook.Chain]++
	}
	for chain, n := range hooks {
		for _, rule := range t.chains[chain] {
			target := Target(rule)
			if belongs(target, owner) {
				n--
			}
			if !Ours(target) {
				break
			}
		}
		if n != 0 {
			return false
		}
	}
	return true
}

// belongs tells whether a chain is the owner's: of its name, or of its name and more.
func belongs(chain, owner string) bool {
	rest, is := strings.CutPrefix(chain, owner)
	return is && (rest == "" || rest[0] == '-')
}

// Target is what a rule does with what it matches: "" for nothing.
func Target(rule string) string {
	words := strings.Fields(rule)
	for _, option := range []string{"-j", "-g"} {
		if i := slices.Index(words, option); i >= 0 && i+1 < len(words) {
			return words[i+1]
		}
	}
	return ""
}
