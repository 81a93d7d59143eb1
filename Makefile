# minivmm - see README.md. `make help` lists the targets.
#
# One folder, one library, one direction: vmm -> virtio -> blockdev -> base and img -> the same. Each
# folder is compiled with only the include paths of what it may use, so a wrong include does not
# compile. A public header stands in LAYER/include; a header beside the sources is private.

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=

CC      ?= gcc
OPT     ?= -O2 -g
WARN    := -Wall -Wextra -Wshadow -Wvla -Wconversion -Wsign-conversion -Wstrict-prototypes \
           -Wmissing-prototypes -Wwrite-strings -Wformat=2 -Werror
HARDEN  ?= -D_FORTIFY_SOURCE=2 -fstack-protector-strong -fPIE
LDHARDEN ?= -pie -Wl,-z,relro,-z,now
SANITIZE ?=
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DMINIVMM_VERSION='"$(VERSION)"' \
             $(WARN) $(OPT) $(HARDEN) $(SANITIZE) -pthread -MMD -MP
LDFLAGS_ALL = $(LDHARDEN) $(SANITIZE) -pthread
# Programs carry their libraries along: a dynamic linker takes longer than making an overlay does. They
# are position-independent all the same. `make STATIC=` links them with shared libraries. The linker
# would warn of getpwnam() in a function of libgpg-error's that nothing calls.
STATIC  ?= $(if $(SANITIZE),,yes)
LDFLAGS_STATIC  = $(patsubst -pie,-static-pie,$(LDFLAGS_ALL)) -Wl,--no-warnings -Wl,-e,program_start
LDFLAGS_PROGRAM = $(if $(STATIC),$(LDFLAGS_STATIC),$(LDFLAGS_ALL))
LIBS     = -lz -ldeflate -lzstd -luring -lseccomp -ljansson -lgcrypt -lgpg-error

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:

BASE_SRC     := $(wildcard base/*.c)
BLOCKDEV_SRC := $(wildcard blockdev/*.c blockdev/crypto/*.c blockdev/qcow2/*.c)
VIRTIO_SRC   := $(wildcard virtio/*.c)
VMM_SRC      := $(filter-out vmm/main.c,$(wildcard vmm/*.c))
IO_SRC       := $(wildcard img/io_*.c)
IMG_SRC      := $(filter-out img/main.c $(IO_SRC),$(wildcard img/*.c))

# `make V=1` shows whole command lines.
V ?= 0
ifeq ($(V),0)
say = @printf '  %-6s %s\n' '$(1)' '$@';
else
say =
endif

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))

# ---- what each folder may include ----
INC_base     := -Ibase/include
INC_blockdev := $(INC_base) -Iblockdev/include -Iblockdev
INC_virtio   := $(INC_base) -Ivirtio/include
INC_vmm      := $(INC_base) -Ivirtio/include
INC_img      := $(INC_base) -Iblockdev/include -Ivirtio/include
INC_tests    := $(INC_base) -Iblockdev/include -Ivirtio/include -I. -Iblockdev -Ivirtio -Ivmm -Iimg

$(BUILD)/base/%.o:     INC = $(INC_base)
$(BUILD)/blockdev/%.o: INC = $(INC_blockdev)
$(BUILD)/virtio/%.o:   INC = $(INC_virtio)
$(BUILD)/vmm/%.o:      INC = $(INC_vmm)
$(BUILD)/img/%.o:      INC = $(INC_img)
$(BUILD)/tests/%.o:    INC = $(INC_tests)
# The only files of virtio/ and vmm/ that know the block engine: the block device is two files, its
# configuration and its requests.
$(BUILD)/virtio/blk.o $(BUILD)/virtio/blk_request.o: INC = $(INC_virtio) -Iblockdev/include
$(BUILD)/vmm/disks.o:  INC = $(INC_vmm) -Iblockdev/include

$(BUILD)/%.o: %.c Makefile
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(CFLAGS_ALL) $(INC) -c -o $@ $<

define LIBRARY
$(BUILD)/lib$(1).a: $(call obj,$(2))
	@rm -f $$@
	$$(call say,AR)$(AR) rcs $$@ $$^
endef
$(eval $(call LIBRARY,base,$(BASE_SRC)))
$(eval $(call LIBRARY,blockdev,$(BLOCKDEV_SRC)))
$(eval $(call LIBRARY,virtio,$(VIRTIO_SRC)))
$(eval $(call LIBRARY,vmm,$(VMM_SRC)))
$(eval $(call LIBRARY,img,$(IMG_SRC)))

LIB_BASE     := $(BUILD)/libbase.a
LIB_BLOCKDEV := $(BUILD)/libblockdev.a $(LIB_BASE)
LIB_VIRTIO   := $(BUILD)/libvirtio.a $(LIB_BLOCKDEV)
LIB_VMM      := $(BUILD)/libvmm.a $(LIB_VIRTIO)
LIB_IMG      := $(BUILD)/libimg.a $(LIB_VIRTIO)

all: $(BUILD)/minivmm $(BUILD)/minivmm-img $(BUILD)/minivmm-io

$(BUILD)/minivmm: $(BUILD)/vmm/main.o $(LIB_VMM)
	$(call say,LD)$(CC) $(LDFLAGS_PROGRAM) -o $@ $^ $(LIBS)

$(BUILD)/minivmm-img: $(BUILD)/img/main.o $(LIB_IMG)
	$(call say,LD)$(CC) $(LDFLAGS_PROGRAM) -o $@ $^ $(LIBS)

$(BUILD)/minivmm-io: $(call obj,$(IO_SRC)) $(LIB_IMG)
	$(call say,LD)$(CC) $(LDFLAGS_PROGRAM) -o $@ $^ $(LIBS)

# ---- unit tests: tests/unit/LAYER/test_X.c, each a cmocka program linked with its layer alone ----
unit_tests = $(patsubst %.c,$(BUILD)/%,$(wildcard tests/unit/$(1)/test_*.c))
UNIT_TESTS := $(foreach l,base blockdev virtio vmm img,$(call unit_tests,$(l)))

# What the tests of devices share stands before the libraries that it needs.
$(call unit_tests,virtio): $(patsubst %,$(BUILD)/tests/unit/virtio/%.o,harness disk toy back_end)
$(call unit_tests,virtio): $(BUILD)/tests/tools/front_end.o
$(BUILD)/tests/tools/front_end.o: INC = $(INC_tests)
$(call unit_tests,base):     $(BUILD)/%: $(BUILD)/%.o $(LIB_BASE)
$(call unit_tests,blockdev): $(BUILD)/%: $(BUILD)/%.o $(LIB_BLOCKDEV)
$(call unit_tests,virtio):   $(BUILD)/%: $(BUILD)/%.o $(LIB_VIRTIO)
$(call unit_tests,vmm):      $(BUILD)/%: $(BUILD)/%.o $(LIB_VMM)
$(call unit_tests,img):      $(BUILD)/%: $(BUILD)/%.o $(LIB_IMG)
$(UNIT_TESTS):
	$(call say,LD)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS) -lcmocka

unit-tests: $(UNIT_TESTS)

clean:
	rm -rf $(BUILD) build-asan build-tsan build-lint build-fuzz

-include $(wildcard tests/*.mk guest/*.mk)
-include $(shell find $(BUILD) -path '*/images' -prune -o -type f -name '*.d' -print 2>/dev/null)

.PHONY: all clean unit-tests
