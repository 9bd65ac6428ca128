package nodettl

import "math"

// step is for how long, in seconds, clusters of a size may use what they have read. Neighbours overlap, so that a node
// that comes and goes does not rewrite all the others.
type step struct {
	fewest, most int // nodes
	seconds      int
}

// steps are upstream's, which clients that read the annotation were sized by.
var steps = []step{
	{fewest: 0, most: 100, seconds: 0},
	{fewest: 90, most: 500, seconds: 15},
	{fewest: 450, most: 1000, seconds: 30},
	{fewest: 900, most: 2000, seconds: 60},
	{fewest: 1800, most: 10000, seconds: 300},
	{fewest: 9000, most: math.MaxInt, seconds: 600},
}

// judge is the step, by its place, of a cluster that was at one and has that many nodes now.
func judge(at, nodes int) int {
	for nodes > steps[at].most {
		at++
	}
	for nodes < steps[at].fewest {
		at--
	}
	return at
}
