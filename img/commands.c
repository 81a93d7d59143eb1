/*
 * commands.c - the table of commands, and the help that is made from it.
 */
#include "img.h"
#include "log.h"

const struct img_command img_commands[] = {
    {"amend", cmd_amend, "[--force] [-p] [-q] [-f fmt] [-t cache] -o options filename"},
    {"bench", cmd_bench,
     "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] "
     "[-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] "
     "filename"},
    {"bitmap", cmd_bitmap,
     "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F "
     "source_fmt]] [-g granularity] [-f fmt] filename bitmap"},
    {"check", cmd_check,
     "[-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename"},
    {"commit", cmd_commit, "[-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] filename"},
    {"compare", cmd_compare,
     "[-f fmt] [-F fmt] [-T src_cache] [-p] [-q] [-s] [-U] filename1 filename2"},
    {"convert", cmd_convert,
     "[--target-is-zero] [--bitmaps [--skip-broken-bitmaps]] [-U] [-C] [-c] [-p] [-q] [-n] [-f "
     "fmt] "
     "[-t cache] [-T src_cache] [-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] "
     "[-l "
     "snapshot_param] [-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] [--salvage] "
     "filename [filename2 [...]] output_filename"},
    {"create", cmd_create,
     "[-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]"},
    {"dd", cmd_dd,
     "[-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] [skip=blocks] if=input "
     "of=output"},
    {"info", cmd_info, "[-f fmt] [--output=ofmt] [--backing-chain] [--limits] [-U] filename"},
    {"map", cmd_map,
     "[-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename"},
    {"measure", cmd_measure,
     "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [-f fmt] [-l snapshot_param] [-U] "
     "filename]"},
    {"rebase", cmd_rebase,
     "[-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [-u] [-c] -b backing_file [-F backing_fmt] "
     "filename"},
    {"resize", cmd_resize, "[-f fmt] [--preallocation=mode] [-q] [--shrink] filename [+ | -]size"},
    {"serve", cmd_serve,
     "(--vhost-user-blk socket | --fd number)... [--queues number] "
     "filename[,format=fmt][,readonly=on][,ephemeral=on | ram]..."},
    {"snapshot", cmd_snapshot,
     "[-f fmt] [-U] [-q] [-l | -a snapshot | -c snapshot | -d snapshot] filename"},
    {NULL, NULL, NULL},
};

void img_print_version(void)
{
    printf("%s version %s\n", log_program_name(), MINIVMM_VERSION);
}

void img_print_help(void)
{
    static const char head[] = "    -h, --help       display this help and exit\n"
                               "    -V, --version    output version information and exit\n"
                               "    -T, --trace [[enable=]PATTERN][,events=FILE][,file=FILE]\n"
                               "                     is taken; there are no trace events\n"
                               "    --backing-root DIR\n"
                               "                     refuse backing and data files outside of DIR\n"
                               "\n"
                               "Command syntax:\n";
    static const char parameters[] =
        "\n"
        "Command parameters:\n"
        "  'filename' is a disk image filename\n"
        "  'fmt' is the disk image format. It is guessed automatically in most cases\n"
        "  'cache' is the cache mode used to write the output disk image, the valid\n"
        "    options are: 'none', 'writeback' (default, except for convert), 'writethrough',\n"
        "    'directsync' and 'unsafe' (default for convert)\n"
        "  'src_cache' is the cache mode used to read input disk images, the valid\n"
        "    options are the same as for the 'cache' option\n"
        "  'size' is the disk image size in bytes. Optional suffixes\n"
        "    'k' or 'K' (kilobyte, 1024), 'M' (megabyte, 1024k), 'G' (gigabyte, 1024M),\n"
        "    'T' (terabyte, 1024G), 'P' (petabyte, 1024T) and 'E' (exabyte, 1024P)  are\n"
        "    supported. 'b' is ignored.\n"
        "  'output_filename' is the destination disk image filename\n"
        "  'output_fmt' is the destination format\n"
        "  'options' is a comma separated list of format specific options in a\n"
        "    name=value format. Use -o help for an overview of the options supported by\n"
        "    the used format\n"
        "  'snapshot_param' is param used for internal snapshot, format\n"
        "    is 'snapshot.id=[ID],snapshot.name=[NAME]', or\n"
        "    '[ID_OR_NAME]'\n"
        "  '-u' allows unsafe backing chains. For rebasing, it is assumed that old and\n"
        "       new backing file match exactly. The image doesn't need a working\n"
        "       backing file before rebasing in this case (useful for renaming the\n"
        "       backing file). For image creation, allow creating without attempting\n"
        "       to open the backing file.\n"
        "  '-h' with or without a command shows this help and lists the supported formats\n"
        "  '-p' show progress of command (only certain commands)\n"
        "  '-q' use Quiet mode - do not print any output (except errors)\n"
        "  '-S' indicates the consecutive number of bytes (defaults to 4k) that must\n"
        "       contain only zeros to leave a hole in the output. If the number of bytes\n"
        "       is 0, the source is not scanned and the output is fully allocated\n"
        "  '--output' takes the format in which the output must be done (human or json)\n"
        "  '-n' skips the target volume creation (useful if the volume is created\n"
        "       prior to running this program)\n"
        "  '-r' limits how many bytes a second are written\n"
        "  '-c' writes compressed clusters\n"
        "  '--limits' shows what requests to the image should look like\n"
        "\n"
        "Parameters to convert subcommand:\n"
        "  '--bitmaps' copies the persistent bitmaps as well; with '--skip-broken-bitmaps' all "
        "but\n"
        "       the inconsistent ones\n"
        "  '--target-is-zero' says that an existing output reads as zeros\n"
        "  '--salvage' makes zeros of what cannot be read, and goes on\n"
        "  '-C' lets the kernel copy, and file systems share blocks, where that is possible\n"
        "\n"
        "Keys of encrypted images, for every command:\n"
        "  '--key-file path' or '--key-fd n' is tried on all of them\n"
        "  '--object secret,id=id,file=path[,format=raw|base64]' with '--image-opts' and\n"
        "       driver=qcow2,file.filename=path,encrypt.key-secret=id as 'filename';\n"
        "       '--target-image-opts' for that of an output\n"
        "\n"
        "Parameters to check subcommand:\n"
        "  '-r' tries to repair any inconsistencies that are found during the check.\n"
        "       '-r leaks' repairs only cluster leaks, whereas '-r all' fixes all\n"
        "       kinds of errors, with a higher risk of choosing the wrong fix or\n"
        "       hiding corruption that has already occurred.\n"
        "\n"
        "Parameters to compare subcommand:\n"
        "  '-f' first image format\n"
        "  '-F' second image format\n"
        "  '-s' run in Strict mode - fail on different image size or sector allocation\n"
        "\n"
        "Parameters to serve subcommand:\n"
        "  '--vhost-user-blk' serves the image to whoever connects to this socket, as a disk;\n"
        "       '--fd' is a listening socket that was opened already. One for each image, in "
        "order\n"
        "  '--queues' is how many queues a disk has at most (default: as many as there are\n"
        "       processors, at most 8)\n"
        "  'filename' has options behind it, a comma in a value is doubled:\n"
        "       format=qcow2|raw  readonly=on|off  serial=TEXT  discard=on|off\n"
        "       cache=writeback|direct|unsafe  aio=auto|io_uring|threads\n"
        "       ephemeral=off|on|ram (nothing is kept)\n"
        "       poll-us=N (how long an idle queue looks before it sleeps; default: 32)\n"
        "       fixed-files=on|off (the image's files are registered with io_uring; default: off)\n"
        "       inflight=on|off (the guest outlives a server that is killed; default: on)\n"
        "\n"
        "Parameters to snapshot subcommand:\n"
        "  'snapshot' is the name of the snapshot to create, apply or delete\n"
        "  '-a' applies a snapshot (revert disk to saved state)\n"
        "  '-c' creates a snapshot\n"
        "  '-d' deletes a snapshot\n"
        "  '-l' lists all snapshots in the given image\n"
        "\n"
        "Parameters to dd subcommand:\n"
        "  'bs=BYTES' read and write up to BYTES bytes at a time (default: 512)\n"
        "  'count=N' copy only N input blocks\n"
        "  'if=FILE' read from FILE\n"
        "  'of=FILE' write to FILE\n"
        "  'skip=N' skip N bs-sized blocks at the start of input\n"
        "\n"
        "Supported formats: qcow2 raw\n";

    img_print_version();
    printf("usage: %s [standard options] command [command options]\n"
           "Disk image utility\n"
           "\n",
           log_program_name());
    fputs(head, stdout);
    for (const struct img_command *c = img_commands; c->name != NULL; c++)
        printf("  %s %s\n", c->name, c->syntax);
    fputs(parameters, stdout);
}
