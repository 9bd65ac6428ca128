// In place of containerd's module of that name: fifo.go says why. The go.mod at the root of the tree puts it there.
module github.com/containerd/fifo

go 1.26.0

require golang.org/x/sys v0.49.0
