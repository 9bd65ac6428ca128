# What one does with this tree. `make up` is the whole product on this machine; `make test` is what CI runs.

export CGO_ENABLED = 0
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
# kubectl's own version; without it, it can't compare itself with a server.
KUBECTL   = k8s.io/component-base/version
LDFLAGS   = -s -w -X knarr.dev/knarr/appliance/command.version=$(VERSION) \
            -X $(KUBECTL).gitVersion=v1.37.2 -X $(KUBECTL).gitMajor=1 -X $(KUBECTL).gitMinor=37
BUNDLE    = packaging/bundle/assets/bundle.tar.zst
DEMO_DIR ?= /var/lib/knarr-demo
# The second is a module of its own, in place of containerd's (workloads/agent/fifo).
ALL         = ./... github.com/containerd/fifo
STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck

.PHONY: build bundle up down demo test lint bench generate need

build: $(BUNDLE)                     ## bin/knarr
	go build -ldflags '$(LDFLAGS)' -o bin/knarr .

# The helpers change when their versions or sources do.
$(BUNDLE) bin/helpers/runc &: packaging/bundle/runc/go.mod packaging/bundle/pause/pause.c $(wildcard packaging/bundle/cni/*.go netstack/cni/*.go packaging/bundle/shim/*.go workloads/agent/sandbox/*.go workloads/agent/sandbox/ends/*.go workloads/agent/fifo/*.go) packaging/bundle/build/main.go go.mod
	@packaging/need gcc libseccomp
	go run ./packaging/bundle/build
bundle: $(BUNDLE)

up: build                            ## a one-machine cluster in the background, with the demo application answering
	DEMO_DIR=$(DEMO_DIR) test/demo/up

demo: up

down:                                ## stop it and remove every trace
	DEMO_DIR=$(DEMO_DIR) test/demo/down

# One package at a time: several of them run whole machines, and the deadlines of tests are for a machine that has time.
test: build bin/helpers/runc         ## all tests, as CI runs them
	KNARR_BIN=$(CURDIR)/bin/knarr KNARR_HELPERS=$(CURDIR)/bin/helpers go test -timeout 30m -p 1 $(ALL)

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet $(ALL)
	$(STATICCHECK) $(ALL)

bench: build                         ## one table: start, memory, idle CPU, pods, API, size
	go run ./test/bench -knarr bin/knarr

generate:
	go generate ./...
