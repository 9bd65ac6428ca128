// Command build writes the archive of the test application's images into a folder and prints its path.
//
// In:       a folder.
// Out:      app.tar in it.
// Promise:  nothing else is left there.
// Not here: the application (test/images/app).
package main

import (
	"context"
	"fmt"
	"os"

	"knarr.dev/knarr/test/images"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run ./test/images/build DIR")
		os.Exit(2)
	}
	archive, err := images.WriteApp(context.Background(), os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "build images:", err)
		os.Exit(1)
	}
	fmt.Println(archive)
}
