# The crash and fault tests of the block engine: tests/crash/, and docs/testing.md.

CRASH_SRC   := $(wildcard tests/crash/*.c)
CRASH_TESTS := $(BUILD)/tests/crash/crash

$(BUILD)/tests/crash/%.o: INC = $(INC_base) -Iblockdev/include -Iblockdev -Iimg -Itests/diff

# The files that the engine opens by name are those of disk.c; the system calls, those of short_io.c.
CRASH_WRAP := file_open_posix pread64 pwrite64 preadv64 pwritev64

$(BUILD)/tests/crash/crash: $(call obj,$(CRASH_SRC) tests/diff/tap.c) $(LIB_IMG)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) $(CRASH_WRAP:%=-Wl,--wrap=%) -o $@ $^ $(LIBS)

# Other seeds in each run; CRASH_FLAGS="--seed 5 --workload grow" and the like.
crash: $(CRASH_TESTS)
	@$(CRASH_TESTS) --endless --seed $$(date +%s) $(CRASH_FLAGS)

.PHONY: crash
