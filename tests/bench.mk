# `make bench` prints a table of measurements. Nothing here is a test.

BENCH_TOOLS := $(addprefix $(BUILD)/tests/bench/,enginebench measure)
UNCHECKED   := $(BUILD)/tests/bench/enginebench-unchecked

$(BUILD)/tests/bench/%.o: INC = $(INC_base) -Iblockdev/include

$(BENCH_TOOLS): $(BUILD)/%: $(BUILD)/%.o $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

$(UNCHECKED): $(call obj,tests/bench/enginebench.c tests/bench/unchecked.c) $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -Wl,--wrap=qcow2_check_overlap -o $@ $^ $(LIBS)

BLKBENCH := $(BUILD)/tests/bench/blkbench
$(BLKBENCH).o: INC = $(INC_tests)
$(BLKBENCH): $(call obj,tests/bench/blkbench.c tests/tools/front_end.c) $(LIB_BASE)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^

##> Measuring
##  make bench           speed and memory beside QEMU and the machine's own limit; QUICK=1: roughly;
##                       ROWS=TEXT: the rows whose names hold it
bench: all guests $(BENCH_TOOLS) $(UNCHECKED) $(BLKBENCH)
	@QUICK=$(QUICK) python3 tests/bench/bench.py $(abspath $(BUILD)) '$(ROWS)'

.PHONY: bench
