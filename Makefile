# The two commands of a newcomer are `make demo` and `make test`; both set up what they need.
.PHONY: demo test check format

demo: .venv/.installed
	.venv/bin/mutoscope demo

test: .venv/.installed-dev
	scripts/test

check: .venv/.installed-dev
	scripts/check

format: .venv/.installed-dev
	scripts/format

# Installed again only when what is to be installed has changed.
.venv/.installed: pyproject.toml constraints.txt
	scripts/install
	touch $@

.venv/.installed-dev: pyproject.toml constraints.txt
	scripts/install dev
	touch $@ .venv/.installed
