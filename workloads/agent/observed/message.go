package observed

import (
	"bytes"
	"io"
	"os"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"knarr.dev/knarr/workloads/agent/translate"
)

const (
	maxMessage   = 4096 // what the API documents for a termination message
	maxLogTail   = 2048
	maxLogLines  = 80
	rawTailBytes = 16 << 10 // the runtime's log has a prefix on each line
)

// lastWords is the message an ended container left in its file, or the end of its log if it failed silently and asked
// for that.
func lastWords(c Container, notes map[string]string) string {
	if c.Message != "" {
		return c.Message // the runtime could not start it
	}
	if c.MessageFile != "" {
		if words, err := head(c.MessageFile, maxMessage); err == nil && words != "" {
			return words
		}
	}
	if corev1.TerminationMessagePolicy(notes[translate.NoteMessagePolicy]) == corev1.TerminationMessageFallbackToLogsOnError && c.ExitCode != 0 && c.LogPath != "" {
		return logTail(c.LogPath)
	}
	return ""
}

func head(path string, limit int64) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit))
	return string(data), err
}

func logTail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if size, err := f.Seek(0, io.SeekEnd); err == nil {
		if _, err := f.Seek(max(0, size-rawTailBytes), io.SeekStart); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return ""
	}
	lines := bytes.Split(bytes.TrimRight(data, "\n"), []byte("\n"))
	var b strings.Builder
	for _, line := range lines[max(0, len(lines)-maxLogLines):] {
		// 2006-01-02T15:04:05.999999999Z stdout F text
		if parts := bytes.SplitN(line, []byte(" "), 4); len(parts) == 4 {
			b.Write(parts[3])
			if string(parts[2]) == "F" {
				b.WriteByte('\n')
			}
		}
	}
	tail := b.String()
	return tail[max(0, len(tail)-maxLogTail):]
}
