# make run | test | model | lint | bench
.PHONY: run test model lint bench

run: ## start a broker in ./cairn-data
	go run ./cmd/cairn serve

test: ## everything: lint, unit and whole-system tests, both engines
	./test/all.sh

model: ## a million random runs of POP against its models (MODEL_RUNS=… for more or fewer)
	MODEL_RUNS=$${MODEL_RUNS:-1000000} ./test/all.sh model

lint: ## gofmt, vet, staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go tool staticcheck ./...

bench: ## beside the Java reference (docs/performance.md says what it needs)
	./bench/compare.sh
