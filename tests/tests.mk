# Dependencies, tests, lint and installation. docs/testing.md describes the layers of tests.

# Jobs for the recursive makes, where the user gave no -j.
JOBS = $(if $(filter -j%,$(MAKEFLAGS)),,-j$(shell nproc))

DOCS     := README.md CHANGELOG.md CONTRIBUTING.md LICENSE
MAN1     = $(wildcard docs/man/*.1)
BINARIES = $(BUILD)/minivmm $(BUILD)/minivmm-img
# bash looks there for what a command's name is.
COMPLETIONS = $(DESTDIR)$(PREFIX)/share/bash-completion/completions

##> Building
##  make                 builds build/minivmm, build/minivmm-img and, for tests, build/minivmm-io
##  make deps            installs the Debian packages of packages.txt that are missing (as root)
##  make install         installs below PREFIX (/usr/local), staged into DESTDIR
##  make uninstall       removes what install put there
##  make clean           removes everything that was built
help:
	@sed -n 's/^##> \(.*\)/\n\1:/p; s/^##  /  /p' $(MAKEFILE_LIST)

deps:
	@tests/deps

##> Testing
##  make check           deps, build, every test; ends with "N passed, N failed, N skipped"
##  make check-unit      unit tests alone; check-diff, check-crash, check-fuzz, check-e2e and check-rig likewise
##  make crash           power cuts and failing I/O with new seeds, until something is found
##  make check-asan      unit, diff, crash and e2e tests under AddressSanitizer and UBSan (build-asan/)
##  make check-tsan      the same under ThreadSanitizer (build-tsan/)
##  make lint            formatters and static checkers

# Every shell script is a test but for *_lib.sh, which tests source.
scripts = $(sort $(filter-out %_lib.sh,$(wildcard tests/$(1)/*.sh)))

CHECK_unit = $(UNIT_TESTS)
# DIFF_TESTS is tests/diff.mk's.
CHECK_diff = $(DIFF_TESTS) $(call scripts,diff)
# CRASH_TESTS is tests/crash.mk's.
CHECK_crash = $(CRASH_TESTS)
CHECK_e2e  = $(call scripts,e2e)
CHECK_rig  = $(call scripts,rig)
LAYERS    ?= unit diff crash fuzz e2e rig
RUN_FLAGS ?=

# What the layers need built; other .mk files add to it.
test-unit: $(UNIT_TESTS)
test-diff: all $(DIFF_TESTS)
test-crash: $(CRASH_TESTS)
test-e2e: all
test-rig: all

check: deps
	@$(MAKE) --no-print-directory $(JOBS) $(addprefix test-,$(LAYERS))
	@$(MAKE) --no-print-directory run-tests

check-unit check-diff check-crash check-fuzz check-e2e check-rig: check-%:
	@$(MAKE) --no-print-directory check LAYERS=$*

check-asan: export ASAN_OPTIONS = detect_leaks=1:detect_stack_use_after_return=1
check-asan: export UBSAN_OPTIONS = print_stacktrace=1:halt_on_error=1
check-asan: SANITIZED = BUILD=build-asan SANITIZE="-fsanitize=address,undefined"
check-tsan: export TSAN_OPTIONS = second_deadlock_stack=1
check-tsan: SANITIZED = BUILD=build-tsan SANITIZE=-fsanitize=thread
check-asan check-tsan:
	@$(MAKE) --no-print-directory $(SANITIZED) OPT="-O1 -g" HARDEN= LDHARDEN= \
		LAYERS="unit diff crash e2e" RUN_FLAGS="--scale 5" check

run-tests:
	@BUILD=$(abspath $(BUILD)) tests/run $(RUN_FLAGS) $(foreach l,$(LAYERS),$(CHECK_$(l)))

lint: deps
	@$(MAKE) --no-print-directory -nB V=1 BUILD=build-lint OPT=-O1 HARDEN= \
		test-unit test-diff test-crash test-e2e | \
		tests/lint build-lint

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/doc/minivmm \
		$(DESTDIR)$(PREFIX)/share/man/man1 $(COMPLETIONS)
	install -m 755 $(BINARIES) $(DESTDIR)$(PREFIX)/bin
	install -m 644 $(wildcard $(DOCS)) $(DESTDIR)$(PREFIX)/share/doc/minivmm
	$(if $(MAN1),install -m 644 $(MAN1) $(DESTDIR)$(PREFIX)/share/man/man1)
	install -m 644 completion/minivmm.bash $(COMPLETIONS)/minivmm
	ln -sf minivmm $(COMPLETIONS)/minivmm-img

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(notdir $(BINARIES)))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/man/man1/,$(notdir $(MAN1)))
	rm -f $(COMPLETIONS)/minivmm $(COMPLETIONS)/minivmm-img
	rm -rf $(DESTDIR)$(PREFIX)/share/doc/minivmm

.PHONY: help deps check check-unit check-diff check-crash check-fuzz check-e2e check-rig check-asan check-tsan \
	test-unit test-diff test-crash test-e2e test-rig run-tests lint install uninstall
