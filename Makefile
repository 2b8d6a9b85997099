# Agent Sandbox. `make help` lists the targets.

export CGO_ENABLED = 0
# One set of flags for builds and tests, so that both share what was compiled.
export GOFLAGS := $(GOFLAGS) -trimpath
GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -s -w -X main.version=$(VERSION)
GOFILES   = $(shell find . -name '*.go' -not -path './.cache/*')
AGENT     = internal/guest/assets/bin/agent
BIN       = bin/agentsandbox
LISTEN   ?= 127.0.0.1:8000
TOOLS     = .cache/tools
GOLANGCI  = $(TOOLS)/golangci-lint
GOLANGCI_VERSION = v2.5.0

.PHONY: help serve setup packages build test unit e2e bench lint generate verify conformance clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: setup ## set everything up and start the server on $(LISTEN)
	@exec $(BIN) serve --listen $(LISTEN)

setup: packages build ## install what is missing, build the binary and the default template
	@$(BIN) templates build

packages:
	@scripts/install-packages mmdebstrap:mmdebstrap

build: $(BIN) ## build bin/agentsandbox

$(BIN): $(AGENT) go.mod go.sum $(GOFILES) $(shell find internal api -type f -not -name '*.go' 2>/dev/null)
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./cmd/agentsandbox

$(AGENT): go.mod $(shell find internal/guest cmd/agentsandbox-guest -name '*.go' -not -name '*_test.go') $(wildcard *.go) internal/runtime/runtime.go
	$(GO) build -buildvcs=false -ldflags '-s -w -buildid=' -o $@ ./cmd/agentsandbox-guest

test: setup unit e2e ## run all tests, real sandboxes included

unit: setup ## run the Go tests; they need the default template
	$(GO) vet ./...
	AGENTSANDBOX_TEST_IMAGE="$$($(BIN) templates inspect default --json | sed -n 's/.*"path": *"\([^"]*\)".*/\1/p')" $(GO) test -count=1 ./...

e2e: setup ## run the published Python client and plain HTTP against the real binary
	test/e2e/run

bench: setup ## measure against bare Python and bubblewrap
	@scripts/install-packages bwrap:bubblewrap
	$(GO) run ./test/bench

lint: $(GOLANGCI) ## check style and the import rules
	$(GOLANGCI) run ./...

$(GOLANGCI):
	GOBIN=$(abspath $(TOOLS)) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

generate: $(AGENT) ## make the generated reference anew
	$(GO) generate ./...

verify: generate lint ## fail on stale generated files and lint
	git diff --exit-code -- api docs/reference

clean: ## remove what was built here; templates stay in the cache directory
	rm -rf bin .cache $(AGENT)
