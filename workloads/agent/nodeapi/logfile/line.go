package logfile

import (
	"bytes"
	"fmt"
	"time"
)

// Stream of a container's output.
type Stream string

const (
	All    Stream = "" // both
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// line is one record of a log: a whole line of output, or a part of a long one.
//
//	2026-11-23T05:06:07.123456789Z stdout F hello
//	time                           stream tag text
type line struct {
	time    time.Time
	stamp   []byte // the time as written
	stream  Stream
	partial bool // tag P: the next record continues the line
	text    []byte
}

// parse splits a record, given without its newline. The parts point into raw.
func parse(raw []byte) (line, error) {
	stamp, rest, ok := bytes.Cut(raw, []byte(" "))
	if !ok {
		return line{}, fmt.Errorf("a record without a stream: %.40q", raw)
	}
	stream, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return line{}, fmt.Errorf("a record without a tag: %.40q", raw)
	}
	tags, text, _ := bytes.Cut(rest, []byte(" ")) // an empty line may have lost its last space
	at, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return line{}, fmt.Errorf("a record without a time: %.40q", raw)
	}
	out := line{time: at, stamp: stamp, stream: Stream(stream), text: text}
	if out.stream != Stdout && out.stream != Stderr {
		return line{}, fmt.Errorf("a record of unknown stream: %.60q", raw)
	}
	first, _, _ := bytes.Cut(tags, []byte(":")) // more tags may follow one day
	out.partial = len(first) == 1 && first[0] == 'P'
	return out, nil
}
