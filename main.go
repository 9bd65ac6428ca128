// Command knarr is Kubernetes in one binary.
//
// In:       a command line.
// Out:      one subcommand run to its end, one exit code.
// Promise:  SIGINT and SIGTERM end it cleanly, a second one at once; an error is one line on stderr.
// Not here: everything else (appliance/command).
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"knarr.dev/knarr/appliance/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends what did not heed the first
	err := command.Run(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "knarr:", oneLine(err))
		os.Exit(1)
	}
}

// oneLine puts several causes, which errors.Join and others write on a line each, on one.
func oneLine(err error) string {
	var causes []string
	for line := range strings.Lines(err.Error()) {
		if line = strings.TrimSpace(line); line != "" {
			causes = append(causes, line)
		}
	}
	return strings.Join(causes, "; ")
}
