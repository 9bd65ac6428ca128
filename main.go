// Command knarr is Kubernetes in one binary.
//
// In:       a command line.
// Out:      one subcommand run to its end, one exit code.
// Promise:  SIGINT and SIGTERM end it cleanly; an error is one line on stderr.
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
	err := command.Run(ctx, os.Args)
	stop()
	if err != nil {
		// Several causes, which errors.Join puts on a line each, are still one error.
		fmt.Fprintln(os.Stderr, "knarr:", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}
