# The two commands of the README are `make demo` and `make test`; each sets up what it needs by itself.
# Everything else is meson's: build/ is the usual build, `make BUILD=dir` another.

BUILD ?= build
CACHE ?= $(or $(GODWIT_CACHE),$(CURDIR)/.cache)

.PHONY: all build setup setup-build demo test bench fuzz lint install clean help

all: build

help:
	@echo 'make          build godwit into $(BUILD)/'
	@echo 'make demo     set up, build, and show a stock guest that grows, is saved and moves'
	@echo 'make test     set up, build, and run all tests (a part: make test PARTS="unit mini")'
	@echo 'make bench    compare with QEMU on this machine'
	@echo 'make fuzz     run each fuzz target for FUZZ_SECONDS (60)'
	@echo 'make lint     formatting, static checks'
	@echo 'make install  install into PREFIX (/usr/local), below DESTDIR'

setup:
	@tools/setup

setup-build:
	@tools/setup build

$(BUILD)/build.ninja: | setup-build
	meson setup --buildtype=debugoptimized $(BUILD)

build: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

demo: setup build
	@GODWIT_BUILD=$(abspath $(BUILD)) tools/demo

test: setup
	@tests/run --build $(BUILD) $(PARTS)

bench: setup build
	@GODWIT_BUILD=$(abspath $(BUILD)) bench/run

fuzz: setup-build
	@fuzz/run

lint: setup
	@tests/run --build $(BUILD) lint

install: build
	$(if $(PREFIX),meson configure -Dprefix=$(abspath $(PREFIX)) $(BUILD) && ninja -C $(BUILD) --quiet)
	DESTDIR=$(DESTDIR) meson install -C $(BUILD) --no-rebuild --quiet

clean:
	rm -rf $(BUILD) build-*
