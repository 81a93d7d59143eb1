/*
 * setup.S - the setup part of a bzImage: two sectors with nothing but the header that a boot loader
 * reads (Documentation/arch/x86/boot.rst, protocol 2.12). There is no real-mode code: only the 64-bit
 * entry is offered. The payload (start.S with BZIMAGE) follows at the next sector.
 */
#define XLF_KERNEL_64 1
#define LOADED_HIGH   1

    .section .setup, "a"
    .org 0x1f1
    .byte 1               /* setup_sects: one behind the boot sector */
    .word 0               /* root_flags */
    .long _syssize /* syssize */
    .word 0               /* ram_size */
    .word 0xffff          /* vid_mode */
    .word 0               /* root_dev */
    .word 0xaa55          /* boot_flag */
    .byte 0xeb, header_end - 1f /* jump: its operand says where the header ends */
1:  .ascii "HdrS"
    .word 0x020c          /* version */
    .long 0               /* realmode_swtch */
    .word 0               /* start_sys_seg */
    .word 0               /* kernel_version */
    .byte 0               /* type_of_loader */
    .byte LOADED_HIGH     /* loadflags */
    .word 0               /* setup_move_size */
    .long 0x100000        /* code32_start */
    .long 0, 0            /* ramdisk_image, ramdisk_size */
    .long 0               /* bootsect_kludge */
    .word 0               /* heap_end_ptr */
    .byte 0, 0            /* ext_loader_ver, ext_loader_type */
    .long 0               /* cmd_line_ptr */
    .long 0x7fffffff      /* initrd_addr_max */
    .long 0x1000          /* kernel_alignment */
    .byte 0               /* relocatable_kernel */
    .byte 12              /* min_alignment */
    .word XLF_KERNEL_64   /* xloadflags */
    .long 2047            /* cmdline_size */
    .long 0               /* hardware_subarch */
    .quad 0               /* hardware_subarch_data */
    .long 0, 0            /* payload_offset, payload_length */
    .quad 0               /* setup_data */
    .quad 0x100000        /* pref_address */
    .long _init_size      /* init_size */
    .long 0               /* handover_offset */
header_end:
    .org 0x400
    .section .note.GNU-stack, "", @progbits
