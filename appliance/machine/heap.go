package machine

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"time"
)

// heap lets garbage pile up while much of it is made, and gives back what a load has left when it is over.
//
// What a collection costs depends on what is alive, not on what it frees. A small cluster keeps some 60 MB, so by the
// runtime's rule (collect when as much again was allocated) a load of lists collects several times a second, which takes
// a fifth of the machine from those who wait for an answer; with more garbage between them, a few percent. At rest little is
// allocated, and half as much garbage costs one collection more in minutes.
//
// A load, and the start is the first one, also runs through code and tables of all the libraries in this binary. The kernel
// would count those pages as ours until it is short of memory, which on a small machine is when a pod needs it.
type heap struct{}

// pace is how fast garbage is made.
type pace int

const (
	atRest pace = iota
	usual
	piling
)

const (
	restGarbage  = 50                     // percent of what is alive
	usualGarbage = 100                    // the runtime's default
	mostGarbage  = 192 << 20              // bytes; more of it hardly makes the rest of a small heap faster
	mostPercent  = 200                    // of a large one: what a collection costs grows with what is alive
	hurried      = 500 * time.Millisecond // between two collections: together they take more than a tenth of a processor
	lively       = 5 * time.Second        // between two collections: somebody is at work
	started      = 10 * time.Second       // and nothing more of the start is expected to run
	// restful is how long nothing was collected when a load is over. It is so much longer than lively that what is no rest with
	// half the garbage is none with all of it either: otherwise it would change again and again.
	restful = 30 * time.Second
)

// follow is the pace after a collection. It rises at once, and falls when all is calm.
func (p pace) follow(since time.Duration) pace {
	switch {
	case since < hurried:
		return piling
	case since < lively:
		return max(p, usual)
	}
	return p
}

func (heap) Name() string { return "heap" }

func (heap) Run(ctx context.Context, ready func()) error {
	collected := make(chan struct{}, 1)
	tellCollections(ctx, collected)
	defer debug.SetGCPercent(debug.SetGCPercent(usualGarbage))
	ready()
	calm := time.NewTimer(started)
	defer calm.Stop()
	now, last := usual, time.Now()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-collected:
			since := time.Since(last)
			last = last.Add(since)
			switch now = now.follow(since); now {
			case piling:
				// Each time, because a share of what was alive once would be many times as much of what is alive now.
				debug.SetGCPercent(garbage(liveBytes(), availableBytes()))
				calm.Reset(restful)
			case usual:
				debug.SetGCPercent(usualGarbage)
				calm.Reset(restful)
			}
		case <-calm.C:
			now = atRest
			debug.SetGCPercent(restGarbage)
			debug.FreeOSMemory()
			if err := dropFilePages(); err != nil {
				return err
			}
		}
	}
}

// garbage is the percentage of what is alive that may be garbage before it is collected: a quarter of the memory the
// machine has left, and no more than helps.
func garbage(live, available uint64) int {
	if live == 0 {
		return usualGarbage
	}
	helps := max(mostGarbage, live*mostPercent/100)
	return max(usualGarbage, int(100*min(helps, available/4)/live))
}

// tellCollections sends after each collection until ctx ends: each one finds an object that nobody holds.
func tellCollections(ctx context.Context, to chan<- struct{}) {
	runtime.AddCleanup(&struct{ self *int }{}, func(struct{}) {
		if ctx.Err() != nil {
			return
		}
		select {
		case to <- struct{}{}:
		default: // the last one was not heard yet
		}
		tellCollections(ctx, to)
	}, struct{}{})
}

func liveBytes() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return sample[0].Value.Uint64()
}

// availableBytes is what the kernel could still hand out without swapping; 0 if it does not say.
func availableBytes() uint64 {
	content, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0
	}
	return memAvailable(content)
}

func memAvailable(meminfo []byte) uint64 {
	lines := bufio.NewScanner(bytes.NewReader(meminfo))
	for lines.Scan() {
		fields := bytes.Fields(lines.Bytes())
		if len(fields) == 3 && string(fields[0]) == "MemAvailable:" {
			kib, err := strconv.ParseUint(string(fields[1]), 10, 64)
			if err != nil {
				return 0
			}
			return kib << 10
		}
	}
	return 0
}
