# Bare-metal test programs: guest/programs/NAME.c becomes build/guest/NAME, an ELF file with a PVH
# note. They are built for the guest alone: none of the host's flags, headers or libraries.
GUEST_CFLAGS = -std=gnu17 $(WARN) -O1 -g -m64 -ffreestanding -nostdlib -static -fno-pie -fno-pic \
               -mno-red-zone -mgeneral-regs-only -fno-stack-protector -fcf-protection=none \
               -fno-asynchronous-unwind-tables -MMD -MP -Iguest/lib
GUEST_LDFLAGS = -nostdlib -static -Wl,-T,guest/lib/link.ld -Wl,--build-id=none \
                -Wl,--no-warn-rwx-segments -Wl,-z,max-page-size=4096

GUEST_PROGRAMS := $(patsubst guest/programs/%.c,$(BUILD)/guest/%,$(wildcard guest/programs/*.c))
GUEST_LIB_OBJ  := $(patsubst %.c,$(BUILD)/%.o,$(wildcard guest/lib/*.c)) $(BUILD)/guest/lib/trampoline.o

$(BUILD)/guest/%.o: guest/%.c Makefile guest/guest.mk
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(BUILD)/guest/%.o: guest/%.S guest/guest.mk
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(GUEST_CFLAGS) -c -o $@ $<

$(BUILD)/guest/libguest.a: $(GUEST_LIB_OBJ)
	@rm -f $@
	$(call say,AR)$(AR) rcs $@ $^

$(GUEST_PROGRAMS): $(BUILD)/guest/%: $(BUILD)/guest/lib/start.o $(BUILD)/guest/programs/%.o \
		$(BUILD)/guest/libguest.a guest/lib/link.ld
	$(call say,LD)$(CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o %.a,$^)

# The same program by the other two ways into a kernel: the 64-bit entry of an ELF file that has no PVH
# note, and a bzImage.
$(BUILD)/guest/boot_info.elf64: $(BUILD)/guest/lib/start_linux.o $(BUILD)/guest/programs/boot_info.o \
		$(BUILD)/guest/libguest.a guest/lib/link.ld
	$(call say,LD)$(CC) $(GUEST_LDFLAGS) -o $@ $(filter %.o %.a,$^)

$(BUILD)/guest/boot_info.bzimage.elf: $(BUILD)/guest/lib/setup.o $(BUILD)/guest/lib/start_bzimage.o \
		$(BUILD)/guest/programs/boot_info.o $(BUILD)/guest/libguest.a guest/lib/bzimage.ld
	$(call say,LD)$(CC) $(subst link.ld,bzimage.ld,$(GUEST_LDFLAGS)) -o $@ $(filter %.o %.a,$^)

$(BUILD)/guest/boot_info.bzimage: $(BUILD)/guest/boot_info.bzimage.elf
	$(call say,COPY)objcopy -O binary $< $@

$(BUILD)/guest/lib/start_linux.o: guest/lib/start.S guest/guest.mk
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(GUEST_CFLAGS) -DNO_PVH -c -o $@ $<

$(BUILD)/guest/lib/start_bzimage.o: guest/lib/start.S guest/guest.mk
	@mkdir -p $(@D)
	$(call say,CC)$(CC) $(GUEST_CFLAGS) -DNO_PVH -DBZIMAGE -c -o $@ $<

guests: $(GUEST_PROGRAMS) $(BUILD)/guest/boot_info.elf64 $(BUILD)/guest/boot_info.bzimage
test-e2e test-rig: guests

.PHONY: guests
