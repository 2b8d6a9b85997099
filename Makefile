# Agent Sandbox. `make help` lists the targets.

export CGO_ENABLED = 0
# One set of flags for builds and tests, so that both share what was compiled.
export GOFLAGS := $(GOFLAGS) -trimpath
GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# The entry point registers the process for membarrier: entry_amd64.s says why.
LDFLAGS   = -s -w -E=agentsandbox_entry -X main.version=$(VERSION)
GOFILES   = $(shell find . -name '*.go' -not -path './.cache/*')
AGENT     = internal/guest/assets/bin/agent
BIRTH     = internal/runtime/gvisor/bin/birth
BIN       = bin/agentsandbox
LISTEN   ?= 127.0.0.1:8000
FUZZTIME ?= 60s
TOOLS     = .cache/tools
GOLANGCI  = $(TOOLS)/golangci-lint
GOLANGCI_VERSION = v2.5.0

.PHONY: help serve setup packages build test unit test-fast race e2e abuse chaos sdk-test sdk-quick documents wheels bench compare cpython fuzz schemathesis soak flaky lint generate verify clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: setup ## set everything up and start the server on $(LISTEN)
	@exec $(BIN) serve --listen $(LISTEN)

setup: packages build ## install what is missing, build the binary and the default template
	@$(BIN) templates build

packages:
	@scripts/install-packages mmdebstrap:mmdebstrap

build: $(BIN) ## build bin/agentsandbox

$(BIN): $(AGENT) $(BIRTH) go.mod go.sum $(GOFILES) $(shell find internal api -type f -not -name '*.go' 2>/dev/null)
	$(GO) build -ldflags '$(LDFLAGS)' -o $@ ./cmd/agentsandbox

$(AGENT): go.mod $(shell find internal/guest internal/posture/inside cmd/agentsandbox-guest -name '*.go' -not -name '*_test.go') $(wildcard *.go) internal/runtime/runtime.go
	$(GO) build -buildvcs=false -ldflags '-s -w -buildid=' -o $@ ./cmd/agentsandbox-guest

$(BIRTH): go.mod $(shell find internal/runtime/gvisor/birth cmd/agentsandbox-birth -name '*.go' -not -name '*_test.go')
	$(GO) build -buildvcs=false -ldflags '-s -w -buildid=' -o $@ ./cmd/agentsandbox-birth

test: setup unit e2e sdk-quick documents ## run all tests, real sandboxes included

unit: setup ## run the Go tests; they need the default template, and root for network namespaces
	@scripts/install-packages ip:iproute2
	$(GO) vet ./...
	AGENTSANDBOX_TEST_IMAGE="$$($(BIN) templates inspect default --json | sed -n 's/.*"path": *"\([^"]*\)".*/\1/p')" $(GO) test -count=1 -timeout 30m ./...

# What is concurrent. SQLite is C translated to Go, which the detector takes ten times as
# long for, and which one connection uses at a time: it is compiled without. httpapi/v1
# is not in the list yet: its tests did not end within six minutes with the detector.
RACED = ./client ./internal/audit ./internal/blob ./internal/egress/... ./internal/engine/... ./internal/eventlog ./internal/guest/... \
	./internal/httpapi/edge ./internal/httpapi/input ./internal/httpapi/ports ./internal/httpserver ./internal/idempotency ./internal/keys ./internal/mcp ./internal/pool ./internal/store/...

race: $(AGENT) $(BIRTH) ## run the tests of what is concurrent, with the race detector; some need root
	@scripts/install-packages gcc:gcc gcc:libc6-dev ip:iproute2
	CGO_ENABLED=1 $(GO) test -race '-gcflags=modernc.org/...=-race=false' -count=1 -timeout 30m $(RACED)

test-fast: $(AGENT) $(BIRTH) ## format, vet and the tests that need neither root nor sandboxes
	@unformatted="$$(gofmt -l $(GOFILES))"; [ -z "$$unformatted" ] || { echo "not formatted: $$unformatted"; exit 1; }
	$(GO) vet ./...
	$(GO) test -short ./...
	sdk/python/tests/run fast

e2e: setup ## run the published Python client and plain HTTP against the real binary
	test/e2e/run

abuse: setup ## run every abusive program against the real binary, with what must hold after each
	ABUSE=full test/e2e/run -m abuse

chaos: setup ## kill a real server at random under load: CHAOS="-seed N -kills N"
	test/chaos/run $(CHAOS)

sdk-test: setup ## type checks and all tests of the Python packages, beside the published one
	sdk/python/tests/run

sdk-quick: setup ## the tests of the Python packages, without type checks and the published one
	sdk/python/tests/run quick

documents: setup ## run every code block of the documentation, and compare what it prints with what it promises
	test/docs/run

wheels: .cache/wheels-venv/done ## build the wheels of both Python packages into dist/
	sdk/python/scripts/wheels .cache/wheels-venv/bin/python

.cache/wheels-venv/done: sdk/python/tests/requirements.txt
	@scripts/install-packages python3:python3
	rm -rf $(@D)
	python3 -m venv $(@D) || { scripts/install-packages no-such-command:python3-venv && rm -rf $(@D) && python3 -m venv $(@D); }
	$(@D)/bin/pip install --quiet --disable-pip-version-check $$(grep -E '^(build|hatchling)==' $<) && touch $@

bench: setup .cache/bench-venv/done ## measure against bare Python and bubblewrap
	@scripts/install-packages bwrap:bubblewrap
	$(GO) run ./test/bench -data-python .cache/bench-venv/bin/python3 $(BENCH)

compare: build ## compare latencies with those of another commit: make compare BASE=COMMIT
	@scripts/install-packages bwrap:bubblewrap
	scripts/build-commit $(BASE) .cache/compare
	$(GO) run ./test/bench -only latency -against .cache/compare/agentsandbox $(BENCH)

# The host's own Python with the libraries of the template, for the comparison.
.cache/bench-venv/done: internal/template/requirements.lock
	@scripts/install-packages no-such-command:python3-venv
	rm -rf $(@D) && /usr/bin/python3 -m venv $(@D)
	$(@D)/bin/pip install --quiet --require-hashes --no-deps -r $< && touch $@

schemathesis: setup ## compare the server with its OpenAPI description, at length
	SCHEMA_EXAMPLES=50 SCHEMA_SECONDS=600 test/e2e/run -k test_schemathesis

cpython: setup ## CPython's own tests, in interpreters that waited and in those that did not; CPYTHON="test_gc" for some
	test/cpython/run $(CPYTHON)

soak: setup ## ten minutes of mixed abuse and work; SOAK="--seconds 60" for less
	test/soak/run $(SOAK)

flaky: setup ## the suites over and over beside a load: FLAKY="--minutes 60 --load 4 --suites unit,e2e"
	python3 test/flaky/flaky.py $(FLAKY)

FUZZERS = .:FuzzNames ./internal/config:FuzzLoad ./internal/guest/wire:FuzzReader ./internal/guest:FuzzEvents \
	./internal/guest:FuzzClient ./internal/guest:FuzzDocument ./internal/httpapi/v1:FuzzUpload ./internal/httpapi/v1:FuzzExecute \
	./internal/httpapi/v1:FuzzRequest ./internal/httpapi/v1:FuzzDecoder ./internal/store:FuzzRows ./internal/egress:FuzzFrames \
	./internal/egress/firewall:FuzzQuery ./internal/egress/firewall:FuzzFirstBytes

fuzz: ## fuzz names, settings, requests, uploads, the protocol and the store, FUZZTIME each
	@for f in $(FUZZERS); do \
		echo "$${f#*:}"; $(GO) test -run '^$$' -fuzz "^$${f#*:}$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 2s "$${f%%:*}" || exit 1; \
	done

lint: $(GOLANGCI) ## check style and the import rules
	$(GOLANGCI) run --allow-parallel-runners ./...

$(GOLANGCI):
	GOBIN=$(abspath $(TOOLS)) $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)

generate: $(AGENT) $(BIRTH) ## make the generated reference anew
	$(GO) generate ./...
	python3 sdk/python/scripts/unasync.py

verify: generate lint ## fail on stale generated files and lint
	git diff --exit-code -- api docs/reference internal/runtime/gvisor/filter sdk/python

clean: ## remove what was built here; templates stay in the cache directory
	rm -rf bin dist .cache $(AGENT) $(BIRTH)
