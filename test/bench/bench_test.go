package main

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(i+1)*time.Millisecond)
	}
	tests := map[string]struct {
		of   []time.Duration
		q    float64
		want time.Duration
	}{
		"the median of a hundred":           {d, 0.5, 51 * time.Millisecond},
		"p99 of a hundred is the highest":   {d, 0.99, 100 * time.Millisecond},
		"the highest is within the range":   {d, 1, 100 * time.Millisecond},
		"one figure is each of its quarter": {d[:1], 0.99, time.Millisecond},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if got := quantile(tc.of, tc.q); got != tc.want {
				t.Errorf("quantile(%v) = %v; want %v", tc.q, got, tc.want)
			}
		})
	}
}

func TestTicksReadsPastANameWithBlanksAndBrackets(t *testing.T) {
	stat := []byte("42 (a) b) c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 9 0 1 2 3")
	if got := ticks(stat); got != 200 {
		t.Errorf("ticks() = %d; want 200", got)
	}
}
