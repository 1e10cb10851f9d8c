# Everything from a clone: `make demo` and `make test` do their own set-up in .venv (Debian with Python 3.11 or newer).
# No recipe uses an absolute path or a script of .venv/bin with a #! line, so the clone may lie anywhere, spaces included.
# Other interpreter: `make demo PYTHON=python3.12`. torch without CUDA (a 10 times smaller download):
# `PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo`.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV = .venv/bin/python
# Processes that run tests; each takes one thread and about 1.5 GB.
WORKERS ?= 2

.PHONY: demo test check wheel setup clean
.DELETE_ON_ERROR:

demo: setup
	$(VENV) -m peft_stilts recipe squad --method full,lora --targets xquad,mlqa,tydiqa,tatoeba

test: check
	$(VENV) -m pytest -n $(WORKERS) --dist loadfile

check: setup
	$(VENV) -m ruff check .
	$(VENV) tools/check_layers.py

wheel: setup
	$(VENV) -m build --wheel --outdir dist .

setup: .venv/installed

# Runs again only when the dependencies or their tested versions change. torch goes first, alone and pinned, so that
# nothing else can choose its version.
.venv/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found. Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) is older than Python 3.11. Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing python$$version-venv, which Debian keeps apart from Python ..."; \
			apt-get update -qq && apt-get install -y -qq "python$$version-venv"; \
		else \
			echo "Python's venv module is missing. Install it, then run make again:" >&2; \
			echo "    sudo apt-get install python$$version-venv" >&2; exit 1; \
		fi; }
	@$(VENV) -m pip --version >/dev/null 2>&1 || "$(PYTHON)" -m venv --clear .venv
	@echo "Installing into .venv (the first time this takes some minutes) ..."
	$(VENV) -m pip install --quiet --constraint constraints.txt torch
	$(VENV) -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch .venv/installed

clean:
	rm -rf .venv build dist
