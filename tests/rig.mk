# What runs stock kernels: the demo. (The tests in tests/rig are run by tests.mk.)

##> Seeing it
##  make demo            boots Debian from a snapshot, step by step; ends with a verdict a step
demo: deps
	@$(MAKE) --no-print-directory -j$(shell nproc) all
	@BUILD=$(abspath $(BUILD)) guest/demo/run.sh

.PHONY: demo
