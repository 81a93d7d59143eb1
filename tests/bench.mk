# `make bench` prints a table of measurements. Nothing here is a test.

BENCH_TOOLS := $(BUILD)/tests/bench/enginebench $(BUILD)/tests/bench/measure

$(BUILD)/tests/bench/%.o: INC = $(INC_base) -Iblockdev/include

$(BENCH_TOOLS): $(BUILD)/%: $(BUILD)/%.o $(LIB_BLOCKDEV)
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS)

##> Measuring
##  make bench           speed and memory beside QEMU and the machine's own limit; QUICK=1: roughly;
##                       ROWS=TEXT: the rows whose names hold it
bench: all guests $(BENCH_TOOLS)
	@QUICK=$(QUICK) python3 tests/bench/bench.py $(abspath $(BUILD)) '$(ROWS)'

.PHONY: bench
