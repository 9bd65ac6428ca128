package pressure

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
)

// Threshold is how little of something may be left. One of bytes and percent is set.
type Threshold struct {
	Bytes   uint64  // or a count, for inodes and process ids
	Percent float64 // of all there is
}

// Of is the threshold where there is so much in all.
func (t Threshold) Of(total uint64) uint64 {
	if t.Percent == 0 {
		return t.Bytes
	}
	return uint64(float64(total) / 100 * t.Percent)
}

// String is how a threshold is written in a configuration.
func (t Threshold) String() string {
	if t.Percent != 0 {
		return strconv.FormatFloat(t.Percent, 'g', -1, 64) + "%"
	}
	return resource.NewQuantity(int64(t.Bytes), resource.BinarySI).String()
}

// Thresholds below which a machine has too little; a signal without one is not watched.
type Thresholds map[Signal]Threshold

// Usual are upstream's defaults. Upstream has none for process ids; the last hundredth is kept, because a machine without
// a single one left cannot even be logged into.
func Usual() Thresholds {
	return Thresholds{
		MemoryAvailable:    {Bytes: 100 << 20},
		NodeAvailable:      {Percent: 10},
		NodeInodesFree:     {Percent: 5},
		ImagesAvailable:    {Percent: 15},
		ImagesInodesFree:   {Percent: 5},
		ProcessesAvailable: {Percent: 1},
	}
}

// ParseThresholds reads evictionHard of a KubeletConfiguration. Signals that are not named have no threshold, or with
// merge their usual one.
func ParseThresholds(text map[string]string, merge bool) (Thresholds, error) {
	out := Thresholds{}
	if merge {
		out = Usual()
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(text)) {
		signal := Signal(key)
		if !slices.ContainsFunc(signals, func(s signalRoom) bool { return s.signal == signal }) {
			errs = append(errs, fmt.Errorf("%q is not a signal this node watches: remove it", key))
			continue
		}
		threshold, err := parseThreshold(text[key])
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
			continue
		}
		out[signal] = threshold
	}
	return out, errors.Join(errs...)
}

func parseThreshold(text string) (Threshold, error) {
	if number, isShare := strings.CutSuffix(text, "%"); isShare {
		percent, err := strconv.ParseFloat(number, 64)
		if err != nil || !(percent >= 0 && percent < 100) {
			return Threshold{}, fmt.Errorf("%q is not a share: give one from 0%% to less than 100%%", text)
		}
		return Threshold{Percent: percent}, nil
	}
	amount, err := resource.ParseQuantity(text)
	if err != nil || amount.Sign() < 0 {
		return Threshold{}, fmt.Errorf("%q is neither an amount such as 200Mi nor a share such as 10%%", text)
	}
	return Threshold{Bytes: uint64(amount.Value())}, nil
}
