# Everything a clone needs: Python >= 3.11, make and git. `make demo` and `make test` set up by themselves.
PYTHON ?= python3
BIN := .venv/bin
UV := VIRTUAL_ENV=.venv $(BIN)/uv

# `make test CPU=1`: torch and torchvision without CUDA, at the versions of the lock. They are other files than those
# whose hashes the lock has: they come from PyTorch's own index, which uv knows.
LEFT_OUT := ^$$
INSTALL_TORCH := true
ifdef CPU
LEFT_OUT := ^(torch|torchvision|triton)==|^(nvidia|cuda)-
INSTALL_TORCH := $(UV) pip install --quiet --no-deps --compile-bytecode --torch-backend cpu $$(sed -nE 's/^((torch|torchvision)==[^ ]+).*/\1/p' requirements.lock)
endif

.PHONY: install bytecode demo test docs format lock lowest clean

install: .venv/installed

# uv itself comes from the lock too, checked by hash; pip is used for nothing else.
# Byte-code is written at once: otherwise every process compiles for itself where PYTHONDONTWRITEBYTECODE is set.
.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "expected Python 3.11 or newer, found $$($(PYTHON) --version 2>&1); set PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@awk '/^[^ #]/ {keep = /^uv==/} keep' requirements.lock > .venv/uv.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r .venv/uv.lock
	@awk '/^[^ #]/ {keep = !/$(LEFT_OUT)/} keep' requirements.lock > .venv/packages.lock
	@$(UV) pip sync --quiet --compile-bytecode --require-hashes .venv/packages.lock
	@$(INSTALL_TORCH)
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Of our own files too, where they have changed.
bytecode: install
	@$(BIN)/python -m compileall -q src benchmarks

demo: bytecode
	$(BIN)/chartray demo demo

test: bytecode
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(MAKE) --no-print-directory docs
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# The site in site/, which opens offline; a broken link or an unknown name ends it.
docs: install
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict --config-file mkdocs.yml

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock:
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --upgrade -o requirements.lock

# The lower bounds of pyproject.toml, held to: the oldest versions that they allow, and the tests on them. By hand; about 6 GB.
lowest: install
	$(PYTHON) -m venv --clear .venv-lowest
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --extra bench --resolution lowest-direct --python-version 3.11 --no-emit-index-url --no-header -o .venv-lowest/requirements.txt
	@VIRTUAL_ENV=.venv-lowest $(BIN)/uv pip sync --quiet --compile-bytecode .venv-lowest/requirements.txt
	@VIRTUAL_ENV=.venv-lowest $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	.venv-lowest/bin/pytest

clean:
	rm -rf .venv .venv-lowest demo site .pytest_cache .mypy_cache .ruff_cache
