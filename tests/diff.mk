# The differential tests of the block engine, and the small tools that shell tests use.
# DIFF_TESTS: programs that speak TAP; `make check` runs them.

ORACLE_SRC := $(wildcard tests/diff/*.c)
DIFF_TESTS := $(BUILD)/tests/diff/oracle $(BUILD)/tests/fuzz/replay
TEST_TOOLS := $(BUILD)/tests/tools/blkio $(BUILD)/tests/tools/outlive $(BUILD)/tests/fuzz/damaged

$(BUILD)/tests/diff/%.o: INC = $(INC_base) -Iblockdev/include
$(BUILD)/tests/tools/%.o: INC = $(INC_base) -Iblockdev/include

$(BUILD)/tests/diff/oracle: $(call obj,$(ORACLE_SRC)) $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/tests/tools/blkio: $(call obj,tests/tools/blkio.c tests/tools/journal.c) $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(BUILD)/tests/tools/outlive.o: INC = $(INC_tests)
$(BUILD)/tests/tools/outlive: $(call obj,tests/tools/outlive.c tests/tools/front_end.c) $(LIB_BASE)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

test-tools: $(TEST_TOOLS)
test-diff test-e2e: test-tools

.PHONY: test-tools
