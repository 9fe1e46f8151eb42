# Every target works on a fresh checkout with Go, gcc and git; `make help` lists them.
GO      ?= go
BIN     := bin
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
# where berth-oci begins: oci/launch/quick
ENTRY   := $(if $(filter amd64,$(shell $(GO) env GOARCH)),-E _berth_entry)
MODULES := . test/images test/e2e test/ocitest

.PHONY: build
build: ## static binaries in bin/
	CGO_ENABLED=0 $(GO) build -trimpath -tags grpcnotrace -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/...
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS) $(ENTRY)' -o $(BIN)/ ./cmd/berth-oci

.PHONY: demo
demo: ## see a pod run; KEEP=1 leaves it running
	@hack/demo.sh

.PHONY: test
test: ## all tests, critest's conformance specs, and a check that nothing is left; one line of totals
	@hack/test.sh

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, in every module
	@hack/tools.sh lint
	@hack/lint.sh $(MODULES)

.PHONY: race
race: ## unit tests under the race detector (needs gcc)
	@hack/race.sh

.PHONY: critest
critest: ## only critest; ARGS="--all --parallel 4", ARGS="--peer containerd", ...
	@hack/critest.sh $(ARGS)

.PHONY: deb
deb: build ## a Debian package, in .cache/deb
	@hack/deb.sh '$(VERSION)'

.PHONY: vm-shell
vm-shell: ## a shell in a virtual node with systemd, cgroup v2 and AppArmor; ARGS="--release bookworm"
	@hack/vm.sh shell $(ARGS)

.PHONY: vm-test
vm-test: ## critest, tests and the package in virtual nodes, on two kernels; writes docs/vm-results.md
	@hack/vm.sh test $(ARGS)

.PHONY: clean
clean: ## removes bin/ and .cache/
	rm -rf $(BIN) .cache

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):[a-z ]* ## /\1\t/p' Makefile | sort | expand -t 12
