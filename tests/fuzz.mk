# The fuzzers of the block engine. The targets are built twice: with Clang and libFuzzer (make fuzz), and
# with the everyday compiler into one program that runs the regression inputs and generated ones.

FUZZ_KINDS := open write compress check snapshot header bitmap chain
FUZZ_LIB   := $(filter-out tests/fuzz/fuzzer.c tests/fuzz/replay.c tests/fuzz/damage%.c,$(wildcard tests/fuzz/*.c))
DAMAGED    := $(wildcard tests/fuzz/damage*.c) $(addprefix tests/fuzz/,image_build.c image_luks.c image_damage.c image_walk.c memfile.c)
FUZZ_LINK  := -Wl,--wrap=file_open_posix
FUZZERS    := $(FUZZ_KINDS:%=$(BUILD)/tests/fuzz/fuzz-%)
FUZZ_BUILD := BUILD=build-fuzz CC=clang FUZZ_PLAIN=-fno-sanitize=fuzzer-no-link OPT="-O2 -g" HARDEN= LDHARDEN= \
	SANITIZE="-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined"

# Coverage guides by the engine's branches, not by those of the targets (FUZZ_PLAIN, with Clang alone).
$(BUILD)/tests/fuzz/%.o: INC = $(INC_base) -Iblockdev/include -Iblockdev -Itests/diff $(FUZZ_PLAIN)

$(BUILD)/tests/fuzz/fuzzer-%.o: tests/fuzz/fuzzer.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(CFLAGS_ALL) $(INC) -DFUZZ_KIND=kind_$* -c -o $@ $<

$(BUILD)/tests/fuzz/fuzz-%: $(BUILD)/tests/fuzz/fuzzer-%.o $(call obj,$(FUZZ_LIB)) $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -fsanitize=fuzzer $(FUZZ_LINK) -o $@ $^ $(LIBS) -lcrypto

$(BUILD)/tests/fuzz/replay: $(call obj,tests/fuzz/replay.c $(FUZZ_LIB) tests/diff/tap.c) $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) $(FUZZ_LINK) -o $@ $^ $(LIBS) -lcrypto

$(BUILD)/tests/fuzz/damaged: $(call obj,$(DAMAGED)) $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -lcrypto

fuzzers: $(FUZZERS)
build-fuzz: $(BUILD)/tests/fuzz/replay
	@$(MAKE) --no-print-directory $(JOBS) $(FUZZ_BUILD) fuzzers

##> Fuzzing
##  make fuzz            the kind KIND (all of them) for TIME seconds each (600); see docs/testing.md
##  make fuzz-smoke      400 inputs a kind, two minutes at most; a part of make check
KIND ?= $(FUZZ_KINDS)
TIME ?= 600

fuzz: build-fuzz
	BUILD=$(abspath $(BUILD)) tests/fuzz/fuzz.sh $(TIME) $(KIND)
fuzz-smoke: build-fuzz
	BUILD=$(abspath $(BUILD)) tests/fuzz/fuzz.sh

CHECK_fuzz = tests/fuzz/fuzz.sh
test-fuzz: build-fuzz

.PHONY: fuzzers build-fuzz fuzz fuzz-smoke test-fuzz
.SECONDARY: $(FUZZ_KINDS:%=$(BUILD)/tests/fuzz/fuzzer-%.o)
