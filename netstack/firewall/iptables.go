package firewall

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"knarr.dev/knarr/netstack/xt"
)

// filter is the table in which firewalls drop.
const filter = "filter"

// needed are the links that chains of ip_tables must let pass: what comes in by ours, and what goes out.
var needed = map[string][]string{"FORWARD": {"-i", "-o"}, "INPUT": {"-i"}, "OUTPUT": {"-o"}}

// endsAll is a rule that lets nothing pass.
var endsAll = regexp.MustCompile(`^(-m comment --comment ("[^"]*"|\S+) )?-j (DROP|REJECT)\b`)

// wantedInTables is wanted for a chain of ip_tables.
func wantedInTables(policy string, rules []string) bool {
	return policy == "DROP" || len(rules) > 0 && endsAll.MatchString(rules[len(rules)-1])
}

// settleTables is settle for the chains of ip_tables.
func settleTables(wants func(policy string, rules []string) bool) (opened []string, err error) {
	var errs []error
	for _, v6 := range []bool{false, true} {
		if !slices.Contains(xt.InUse(v6), filter) {
			continue
		}
		program, err := xt.Find(v6)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		chains, policies, err := program.Dump(filter)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(needed)) {
			changed, err := settleTable(program, name, policies[name], chains[name], wants)
			if err != nil {
				errs = append(errs, fmt.Errorf("chain %s of ip_tables: %w", name, err))
			}
			if changed {
				opened = append(opened, "ip_tables "+name)
			}
		}
	}
	return opened, errors.Join(errs...)
}

func settleTable(program *xt.Program, chain, policy string, present []string, wants func(string, []string) bool) (opened bool, err error) {
	var others, marked []string
	for _, rule := range present {
		if strings.Contains(rule, `--comment "`+comment+`"`) {
			marked = append(marked, rule)
		} else {
			others = append(others, rule)
		}
	}
	want := wants(policy, others)
	if want && len(marked) == len(needed[chain]) || !want && len(marked) == 0 {
		return false, nil
	}
	for _, rule := range marked {
		option, _, _ := strings.Cut(rule, " ")
		if err := program.Delete(filter, chain, acceptBy(option)...); err != nil {
			return false, err
		}
	}
	if !want {
		return false, nil
	}
	// Services that nobody answers for are refused before anything is accepted.
	position := 1
	for position <= len(others) && xt.Ours(xt.Target(others[position-1])) {
		position++
	}
	for _, option := range needed[chain] {
		if err := program.Insert(filter, chain, position, acceptBy(option)...); err != nil {
			return false, err
		}
	}
	return true, nil
}

// acceptBy accepts what comes in (-i) or goes out (-o) by one of our links.
func acceptBy(option string) []string {
	return []string{option, links + "+", "-m", "comment", "--comment", comment, "-j", "ACCEPT"}
}
