package job

import (
	"slices"
	"strconv"
	"strings"
)

// indexSet holds completion indexes as sorted spans that neither overlap nor touch: a job of a hundred thousand
// indexes that finish about in order stays a handful of spans.
type indexSet []span

type span struct{ first, last int }

// parseIndexes reads "1,3-5,7" and leaves out what is not below limit. A text nobody but us writes and the API
// server checks is not worth an error: what cannot be read is not in the set.
func parseIndexes(text string, limit int) indexSet {
	var set indexSet
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		if !ranged {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err != nil || err2 != nil || from >= limit || to < from {
			continue
		}
		set = append(set, span{from, min(to, limit-1)})
	}
	return set.tidy()
}

// with is the set and more.
func (s indexSet) with(more ...int) indexSet {
	set := slices.Clone(s)
	for _, i := range more {
		set = append(set, span{i, i})
	}
	return set.tidy()
}

func (s indexSet) tidy() indexSet {
	slices.SortFunc(s, func(a, b span) int { return a.first - b.first })
	var set indexSet
	for _, next := range s {
		if n := len(set); n > 0 && next.first <= set[n-1].last+1 {
			set[n-1].last = max(set[n-1].last, next.last)
			continue
		}
		set = append(set, next)
	}
	return set
}

func (s indexSet) has(i int) bool {
	_, found := slices.BinarySearchFunc(s, i, func(p span, i int) int {
		switch {
		case p.last < i:
			return -1
		case p.first > i:
			return 1
		}
		return 0
	})
	return found
}

func (s indexSet) len() int {
	n := 0
	for _, p := range s {
		n += p.last - p.first + 1
	}
	return n
}

// shared counts the indexes that are in both sets.
func (s indexSet) shared(other indexSet) int {
	n := 0
	for _, a := range s {
		for _, b := range other {
			n += max(0, min(a.last, b.last)-max(a.first, b.first)+1)
		}
	}
	return n
}

// String writes three and more neighbours as a range.
func (s indexSet) String() string {
	var parts []string
	for _, p := range s {
		switch p.last - p.first {
		case 0:
			parts = append(parts, strconv.Itoa(p.first))
		case 1:
			parts = append(parts, strconv.Itoa(p.first), strconv.Itoa(p.last))
		default:
			parts = append(parts, strconv.Itoa(p.first)+"-"+strconv.Itoa(p.last))
		}
	}
	return strings.Join(parts, ",")
}
