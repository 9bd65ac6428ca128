# What one does with this tree. `make up` is the whole product on this machine; `make test` is what CI runs.

export CGO_ENABLED = 0
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   = -s -w -X knarr.dev/knarr/appliance/command.version=$(VERSION)
BUNDLE    = packaging/bundle/assets/bundle.tar.zst
DEMO_DIR ?= /var/lib/knarr-demo
STATICCHECK = go run honnef.co/go/tools/cmd/staticcheck

.PHONY: build bundle up down demo test lint bench generate need

build: $(BUNDLE)                     ## bin/knarr
	go build -ldflags '$(LDFLAGS)' -o bin/knarr .

# The helpers change when their versions or sources do.
$(BUNDLE): packaging/bundle/runc/go.mod packaging/bundle/pause/pause.c $(wildcard packaging/bundle/cni/*.go) packaging/bundle/build/main.go go.mod
	@packaging/need gcc libseccomp
	go run ./packaging/bundle/build
bundle: $(BUNDLE)

up: build                            ## a one-machine cluster in the background, with the demo application answering
	DEMO_DIR=$(DEMO_DIR) test/demo/up

demo: up

down:                                ## stop it and remove every trace
	DEMO_DIR=$(DEMO_DIR) test/demo/down

test: build                          ## everything CI runs
	go vet ./...
	KNARR_BIN=$(CURDIR)/bin/knarr go test -timeout 30m -p 1 ./...

lint:
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./...
	$(STATICCHECK) ./...

bench: build                         ## one table: start, memory, idle CPU, pods, API, size
	KNARR_BIN=$(CURDIR)/bin/knarr go run ./test/bench

generate:
	go generate ./...
