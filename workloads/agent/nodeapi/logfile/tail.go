package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

const (
	tailBlock = 64 << 10
	// headLength holds time, stream and tag of any record.
	headLength = 64
)

// tailStart finds where the last n lines begin, reading backwards: a log of a gigabyte costs what its tail costs.
// A line is what the container wrote up to its newline, however many records hold it.
func tailStart(file *os.File, n int64) (int64, error) {
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, fmt.Errorf("measure log: %w", err)
	}
	if n == 0 || size == 0 {
		return size, nil
	}
	block := make([]byte, tailBlock)
	// end is where the record under inspection ends, behind its newline. The last one may lack its newline still.
	lines, end := int64(0), int64(-1)
	for to := size; to > 0; {
		from := max(to-tailBlock, 0)
		part := block[:to-from]
		if _, err := file.ReadAt(part, from); err != nil && !errors.Is(err, io.EOF) {
			return 0, fmt.Errorf("read log backwards: %w", err)
		}
		for i := bytes.LastIndexByte(part, '\n'); i >= 0; i = bytes.LastIndexByte(part[:i], '\n') {
			begin := from + int64(i) + 1 // of the record that ends at end
			if end >= 0 {
				whole, err := endsLine(file, begin)
				if err != nil {
					return 0, err
				}
				if whole {
					if lines++; lines > n {
						return end, nil
					}
				}
			}
			end = begin
		}
		to = from
	}
	if end >= 0 { // the very first record of the file
		whole, err := endsLine(file, 0)
		if err != nil {
			return 0, err
		}
		if whole && lines+1 > n {
			return end, nil
		}
	}
	return 0, nil
}

// endsLine looks at the head of the record at an offset: is it the last of its line?
func endsLine(file *os.File, at int64) (bool, error) {
	var buffer [headLength]byte
	n, err := file.ReadAt(buffer[:], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read log backwards: %w", err)
	}
	head, _, _ := bytes.Cut(buffer[:n], []byte("\n"))
	fields := bytes.SplitN(head, []byte(" "), 4)
	return len(fields) < 3 || !bytes.HasPrefix(fields[2], []byte("P")), nil
}
