/* The command line and JSON files: what they set, and one clear line for what they refuse. */
#include "checked.h"
#include "config.h"
#include "options.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { MAX_ARGUMENTS = 80 };

struct parsed {
    struct vm_config config;
    enum options_action action;
    struct err err;
    int rc;
};

static void parse(struct parsed *parsed, char **arguments)
{
    char *argv[MAX_ARGUMENTS + 2] = {(char *)"minivmm"};
    int argc = 1;

    while (arguments[argc - 1] != NULL) {
        assert_true(argc <= MAX_ARGUMENTS);
        argv[argc] = arguments[argc - 1];
        argc++;
    }
    parsed->err.text[0] = '\0';
    config_init(&parsed->config);
    parsed->rc = options_parse(argc, argv, &parsed->config, &parsed->action, &parsed->err);
}

/* Parses the words, which hold no spaces of their own. */
static void parse_words(struct parsed *parsed, const char *words)
{
    char copy[1024];
    char *arguments[MAX_ARGUMENTS + 1] = {NULL};
    unsigned count = 0;

    (void)snprintf(copy, sizeof(copy), "%s", words);
    for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " "))
        arguments[count++] = word;
    parse(parsed, arguments);
}

static void expect_refused(const struct parsed *parsed, const char *words, const char *said)
{
    if (parsed->rc >= 0 || strstr(parsed->err.text, said) == NULL)
        fail_msg("'%s': %d '%s' does not say '%s'", words, parsed->rc, parsed->err.text, said);
    if (strpbrk(parsed->err.text, "\n\r\t\033") != NULL)
        fail_msg("'%s': more than one plain line", words);
}

static void defaults(void **state)
{
    struct parsed p;

    (void)state;
    parse_words(&p, "--kernel bzImage");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.action, OPTIONS_RUN);
    assert_string_equal(p.config.kernel, "bzImage");
    assert_null(p.config.initrd);
    assert_null(p.config.append);
    assert_int_equal(p.config.disk_count, 0);
    assert_int_equal(p.config.memory, 256 << 20);
    assert_int_equal(p.config.cpus, 1);
    assert_int_equal(p.config.console, CONSOLE_STDIO);
    assert_true(p.config.console_escape);
    assert_true(p.config.sandbox);
    assert_int_equal(p.config.timeout, 0);
    assert_false(p.config.restart_on_reboot);
    assert_int_equal(p.config.log_level, LOG_LEVEL_WARN);
    assert_false(p.config.quiet || p.config.hugepages || p.config.test_device);
    assert_null(p.config.backing_root);
    config_destroy(&p.config);
}

static void everything_set(void **state)
{
    struct parsed p;

    (void)state;
    parse_words(&p,
                "--kernel=k --initrd i --append root=/dev/vda,,x --memory 64M --cpus 64"
                " --hugepages --console file:a,b --console-escape off --timeout 77"
                " --on-reboot restart --log-level debug --quiet --backing-root /srv"
                " --debug-exit --sandbox off"
                " --disk a,,b.img,format=raw,readonly=on,serial=S1,queues=3,discard=off,"
                "cache=direct,aio=threads,rerror=stop,werror=enospc --disk path=c=d,cache=unsafe "
                "--disk x.qcow2,readonly --tmpdir /scratch --stats /s.json --disk "
                "y,ephemeral=ram,iops=500,iops-burst=9,bps=8M,poll-us=0 "
                "--disk z.qcow2,ephemeral=on,fixed-buffers=on "
                "--disk w.qcow2,fixed-files=on");
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.config.initrd, "i");
    assert_string_equal(p.config.append, "root=/dev/vda,,x"); /* no list: nothing is doubled */
    assert_int_equal(p.config.memory, 64 << 20);
    assert_int_equal(p.config.cpus, 64);
    assert_true(p.config.hugepages && p.config.quiet && p.config.test_device);
    assert_int_equal(p.config.console, CONSOLE_FILE);
    assert_string_equal(p.config.console_path, "a,b");
    assert_false(p.config.console_escape || p.config.sandbox);
    assert_int_equal(p.config.timeout, 77);
    assert_true(p.config.restart_on_reboot);
    assert_int_equal(p.config.log_level, LOG_LEVEL_DEBUG);
    assert_string_equal(p.config.backing_root, "/srv");
    assert_string_equal(p.config.tmpdir, "/scratch");
    assert_string_equal(p.config.stats, "/s.json");
    assert_int_equal(p.config.disk_count, 6);
    assert_int_equal(p.config.disks[0].ephemeral, DISK_EPHEMERAL_OFF);
    assert_int_equal(p.config.disks[3].ephemeral, DISK_EPHEMERAL_RAM);
    assert_int_equal(p.config.disks[0].poll_us, 32);
    assert_int_equal(p.config.disks[3].poll_us, 0);
    assert_int_equal(p.config.disks[3].requests.per_second, 500);
    assert_int_equal(p.config.disks[3].requests.burst, 9);
    assert_int_equal(p.config.disks[3].bytes.per_second, 8 << 20);
    assert_int_equal(p.config.disks[3].bytes.burst, 0);
    assert_int_equal(p.config.disks[4].ephemeral, DISK_EPHEMERAL_FILE);
    assert_true(p.config.disks[4].fixed_buffers);
    assert_false(p.config.disks[3].fixed_buffers || p.config.disks[5].fixed_buffers);
    assert_true(p.config.disks[5].fixed_files);
    assert_false(p.config.disks[4].fixed_files);
    assert_string_equal(p.config.disks[0].path, "a,b.img");
    assert_string_equal(p.config.disks[0].format, "raw");
    assert_string_equal(p.config.disks[0].serial, "S1");
    assert_true(p.config.disks[0].readonly);
    assert_false(p.config.disks[0].discard);
    assert_int_equal(p.config.disks[0].queues, 3);
    assert_int_equal(p.config.disks[0].cache, DISK_CACHE_DIRECT);
    assert_int_equal(p.config.disks[0].aio, DISK_AIO_THREADS);
    assert_int_equal(p.config.disks[1].aio, DISK_AIO_AUTO);
    assert_int_equal(p.config.disks[0].rerror, DISK_ERROR_STOP);
    assert_int_equal(p.config.disks[0].werror, DISK_ERROR_ENOSPC);
    assert_int_equal(p.config.disks[1].rerror, DISK_ERROR_REPORT);
    assert_int_equal(p.config.disks[1].werror, DISK_ERROR_REPORT);
    assert_string_equal(p.config.disks[1].path, "c=d");
    assert_null(p.config.disks[1].format);
    assert_null(p.config.disks[1].serial);
    assert_true(p.config.disks[1].discard);
    assert_false(p.config.disks[1].readonly);
    assert_int_equal(p.config.disks[1].queues, 0);
    assert_int_equal(p.config.disks[1].cache, DISK_CACHE_UNSAFE);
    assert_true(p.config.disks[2].readonly);
    config_destroy(&p.config);
}

static void last_one_counts(void **state)
{
    struct parsed p;

    (void)state;
    parse_words(&p, "--kernel a --kern b --cpus 2 --cpus=3 --quiet --quiet=off --console null"
                    " --console pty --mem 32M");
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.config.kernel, "b");
    assert_int_equal(p.config.cpus, 3);
    assert_false(p.config.quiet);
    assert_int_equal(p.config.console, CONSOLE_PTY);
    assert_int_equal(p.config.memory, 32 << 20);
    config_destroy(&p.config);
}

static void help_and_version_end_the_parsing(void **state)
{
    struct parsed p;

    (void)state;
    parse_words(&p, "--help --nonsense");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.action, OPTIONS_HELP);
    config_destroy(&p.config);
    parse_words(&p, "--cpus 9999 --version");
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.action, OPTIONS_VERSION);
    config_destroy(&p.config);
}

static void refused_options(void **state)
{
    static const struct {
        const char *words, *said;
    } rows[] = {
        {"", "no kernel"},
        {"--disk a", "no kernel"},
        {"--kernel", "'--kernel' needs a value"},
        {"--kernel=", "--kernel : expected the path"},
        {"--kernal x", "did you mean '--kernel'?"},
        {"--memroy=1G", "did you mean '--memory'?"},
        {"-memory 1G", "did you mean '--memory'?"},
        {"-m 1G", "unknown option '-m'"},
        {"--frobnicate", "unknown option '--frobnicate' (see --help)"},
        {"--con x", "could mean several"},
        {"--help=yes", "'--help' takes no value"},
        {"--version=1", "'--version' takes no value"},
        {"--kernel k disk.img", "unexpected argument 'disk.img'"},
        {"disk.img --kernel k", "unexpected argument 'disk.img'"},
        {"--kernel k -- x", "unexpected argument 'x'"},
        {"--memory 0", "32M"},
        {"--memory 31M", "32M"},
        {"--memory 512", "write M or G"},
        {"--memory -1", "expected a size"},
        {"--memory 1X", "expected a size"},
        {"--memory 1e9", "expected a size"},
        {"--memory 9999999999999999999999", "expected a size"},
        {"--memory 16E", "expected a size"},
        {"--memory 33555456", "multiple of 4K"},
        {"--kernel k --memory 4E", "this host has"},
        {"--kernel k --memory 34M --memory 33M --hugepages", "multiple of 2M"},
        {"--cpus 0", "1 to 64"},
        {"--cpus 65", "1 to 64"},
        {"--cpus -1", "1 to 64"},
        {"--cpus 2x", "1 to 64"},
        {"--cpus 4294967297", "1 to 64"},
        {"--cpus 99999999999999999999999", "1 to 64"},
        {"--timeout -5", "expected a number"},
        {"--timeout 1.5", "expected a number"},
        {"--timeout 1000000001", "expected a number"},
        {"--console tty", "'stdio', 'null', 'file:PATH' or 'pty'"},
        {"--console file:", "file:PATH"},
        {"--console FILE:x", "file:PATH"},
        {"--console-escape maybe", "'on' or 'off'"},
        {"--quiet=1", "'on' or 'off'"},
        {"--sandbox=yes", "'on' or 'off'"},
        {"--on-reboot loop", "'exit' or 'restart'"},
        {"--log-level loud", "'error', 'warn', 'info' or 'debug'"},
        {"--log-level 3", "'error', 'warn', 'info' or 'debug'"},
        {"--backing-root=", "path of a directory"},
        {"--disk=", "path of a disk image"},
        {"--disk ,format=raw", "path of a disk image"},
        {"--disk a,format=vmdk", "format=vmdk: expected 'qcow2' or 'raw'"},
        {"--disk a,fromat=raw", "did you mean 'format'?"},
        {"--disk a,bogus=1", "unknown key 'bogus'"},
        {"--disk a,readonly=2", "readonly=2"},
        {"--disk a,queues=0", "from 1 to 64"},
        {"--disk a,queues=65", "from 1 to 64"},
        {"--disk a,queues=-1", "queues=-1"},
        {"--disk a,metadata-cache=-1", "metadata-cache"},
        {"--disk a,poll-us=1001", "from 0 to 1000"},
        {"--disk a,poll-us=x", "poll-us=x"},
        {"--disk a,iops=-1", "iops=-1"},
        {"--disk a,iops-burst=5", "without iops"},
        {"--disk a,bps=x", "bps=x"},
        {"--disk a,bps=2T", "bytes a second"},
        {"--disk a,bps-burst=1M", "without bps"},
        {"--stats=", "path of a file"},
        {"--tmpdir=", "path of a directory"},
        {"--disk a,ephemeral=yes", "ephemeral=yes: expected 'off', 'on' or 'ram'"},
        {"--disk a,ephemeral=on,readonly=on", "exclude each other"},
        {"--disk a,ephemeral=on,key-file=/proc/self/cmdline", "ephemeral=ram"},
        {"--disk a,cache=none", "'writeback', 'direct' or 'unsafe'"},
        {"--disk a,aio=native", "'auto', 'io_uring' or 'threads'"},
        {"--disk a,fixed-buffers=1G", "fixed-buffers=1G: expected 'on' or 'off'"},
        {"--disk a,fixed-buffers=on,aio=threads", "fixed-buffers=on and aio=threads exclude each"},
        {"--disk a,fixed-files=1", "fixed-files=1: expected 'on' or 'off'"},
        {"--disk a,fixed-files=on,aio=threads", "fixed-files=on and aio=threads exclude each"},
        {"--disk a,key-file=/missing/key", "/missing/key"},
        {"--disk a,key-fd=x", "key-fd"},
        {"--disk a,key-file=k,key-fd=3", "exclude each other"},
        {"--disk a,werror=ignore", "werror=ignore: expected 'report', 'stop' or 'enospc'"},
        {"--disk a,rerror=enospc", "rerror=enospc: expected 'report' or 'stop'"},
        {"--disk a,serial=123456789012345678901", "longer than 20"},
        {"--disk a,=x", "not of the form"},
        {"--config /nonexistent.json", "cannot open /nonexistent.json"},
        {"--config /", "cannot read /: Is a directory"},
        {"--config /dev/zero", "File too large"},
        {"--config", "'--config' needs a value"},
        {"--kernel k --bad\033[31mname", "unknown option '--bad?[31mname'"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct parsed p;

        parse_words(&p, rows[i].words);
        expect_refused(&p, rows[i].words, rows[i].said);
        config_destroy(&p.config);
    }
}

static void too_many_disks(void **state)
{
    char *arguments[MAX_ARGUMENTS] = {(char *)"--kernel", (char *)"k"};
    struct parsed p;

    (void)state;
    for (unsigned i = 0; i < CONFIG_MAX_DISKS; i++) {
        arguments[2 + 2 * i] = (char *)"--disk";
        arguments[3 + 2 * i] = (char *)"d.img";
    }
    parse(&p, arguments);
    assert_int_equal(p.rc, 0);
    assert_int_equal(p.config.disk_count, CONFIG_MAX_DISKS);
    config_destroy(&p.config);
    arguments[2 + 2 * CONFIG_MAX_DISKS] = (char *)"--disk";
    arguments[3 + 2 * CONFIG_MAX_DISKS] = (char *)"d.img";
    parse(&p, arguments);
    expect_refused(&p, "31 disks", "more than 30 disks");
    config_destroy(&p.config);
}

static void help_names_every_option(void **state)
{
    static const char *const names[] = {
        "--kernel",  "--initrd",         "--append",  "--memory",    "--cpus",       "--hugepages",
        "--disk",    "--console",        "--timeout", "--on-reboot", "--log-level",  "--quiet",
        "--sandbox", "--console-escape", "--config",  "--help",      "--debug-exit", "--version",
    };
    char *text = NULL;
    size_t size = 0;
    FILE *stream = open_memstream(&text, &size);

    (void)state;
    options_print_help(stream);
    (void)fclose(stream);
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        assert_non_null(strstr(text, names[i]));
    for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        if (strlen(line) > 80)
            fail_msg("a long line: %s", line);
    }
    free(text);
}

/* ---- JSON ---- */

static char json_path[64];

static int make_json_path(void **state)
{
    int fd;

    (void)state;
    strcpy(json_path, "/tmp/minivmm-config.XXXXXX");
    fd = mkstemp(json_path);
    return fd >= 0 ? close(fd) : -1;
}

static int remove_json_path(void **state)
{
    (void)state;
    return unlink(json_path);
}

static void write_json(const void *text, size_t length)
{
    int fd = open(json_path, O_WRONLY | O_TRUNC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, length), length);
    close(fd);
}

static void parse_json(struct parsed *p, const char *text, const char *more)
{
    char words[256];

    write_json(text, strlen(text));
    (void)snprintf(words, sizeof(words), "--config %s %s", json_path, more);
    parse_words(p, words);
}

static void json_sets_everything(void **state)
{
    struct parsed p;

    (void)state;
    parse_json(&p,
               "{\"kernel\": \"k\", \"initrd\": \"i\", \"append\": \"a b \\\"c\\\"\","
               "\"memory\": 67108864, \"cpus\": 3, \"hugepages\": true, \"console\": \"null\","
               "\"console-escape\": false, \"timeout\": \"9\", \"on-reboot\": \"restart\","
               "\"log-level\": \"info\", \"quiet\": \"on\", \"backing-root\": \"/b\","
               "\"debug-exit\": true, \"sandbox\": false,"
               "\"disk\": [\"a,,b,readonly=on\","
               "{\"path\": \"c,d\", \"format\": \"raw\", \"readonly\": true, \"serial\": \"1,2\","
               "\"queues\": 4, \"discard\": false, \"cache\": \"unsafe\"}]}",
               "");
    assert_string_equal(p.err.text, "");
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.config.append, "a b \"c\"");
    assert_int_equal(p.config.memory, 64 << 20);
    assert_int_equal(p.config.cpus, 3);
    assert_true(p.config.hugepages && p.config.quiet && p.config.test_device);
    assert_false(p.config.console_escape || p.config.sandbox);
    assert_int_equal(p.config.console, CONSOLE_NULL);
    assert_int_equal(p.config.timeout, 9);
    assert_true(p.config.restart_on_reboot);
    assert_int_equal(p.config.log_level, LOG_LEVEL_INFO);
    assert_string_equal(p.config.backing_root, "/b");
    assert_int_equal(p.config.disk_count, 2);
    assert_string_equal(p.config.disks[0].path, "a,b");
    assert_true(p.config.disks[0].readonly);
    assert_string_equal(p.config.disks[1].path, "c,d"); /* nothing is doubled in an object */
    assert_string_equal(p.config.disks[1].serial, "1,2");
    assert_int_equal(p.config.disks[1].queues, 4);
    assert_false(p.config.disks[1].discard);
    assert_int_equal(p.config.disks[1].cache, DISK_CACHE_UNSAFE);
    config_destroy(&p.config);
}

static void command_line_overrides_and_extends_json(void **state)
{
    struct parsed p;
    char words[256];
    static const char text[] = "{\"kernel\":\"k\",\"cpus\":2,\"disk\":\"one\"}";

    (void)state;
    write_json(text, strlen(text));
    (void)snprintf(words, sizeof(words), "--cpus 5 --disk two --config %s --kernel other",
                   json_path);
    parse_words(&p, words);
    assert_int_equal(p.rc, 0);
    assert_string_equal(p.config.kernel, "other");
    assert_int_equal(p.config.cpus, 5);
    assert_int_equal(p.config.disk_count, 2);
    assert_string_equal(p.config.disks[0].path, "one");
    assert_string_equal(p.config.disks[1].path, "two");
    config_destroy(&p.config);
}

static void refused_json(void **state)
{
    static const struct {
        const char *text, *said;
    } rows[] = {
        {"", ":1:0:"},
        {"{", ":1:"},
        {"{\n\"kernel\": \"k\",\n}", ":3:"},
        {"{\"kernel\": \"k\"} x", "end of file expected"},
        {"[]", "expected one JSON object"},
        {"\"kernel\"", ":1:8:"},
        {"{\"kernal\": \"k\"}", "did you mean 'kernel'?"},
        {"{\"frobnicate\": 1}", "unknown key 'frobnicate'"},
        {"{\"config\": \"other.json\"}", "unknown key 'config'"},
        {"{\"help\": true}", "unknown key 'help'"},
        {"{\"--kernel\": \"k\"}", "unknown key '--kernel'"},
        {"{\"kernel\": 5}", "kernel: expected a string"},
        {"{\"kernel\": null}", "kernel: expected a string"},
        {"{\"kernel\": [\"k\"]}", "kernel: expected a string"},
        {"{\"kernel\": \"\"}", "kernel: expected the path"},
        {"{\"kernel\": \"a\", \"kernel\": \"b\"}", "duplicate"},
        {"{\"kernel\": \"a\\u0000b\"}", "\\u0000"},
        {"{\"kernel\": \"\xff\"}", "unable to decode"},
        {"{\"memory\": 1.5}", "memory: expected an integer or a string"},
        {"{\"memory\": true}", "memory: expected an integer or a string"},
        {"{\"memory\": -4096}", "memory: expected a size"},
        {"{\"memory\": 99999999999999999999999}", "too big"},
        {"{\"memory\": 9223372036854775807}", "memory: expected a multiple of 4K"},
        {"{\"cpus\": 0}", "cpus: expected a number from 1 to 64"},
        {"{\"cpus\": -9223372036854775808}", "cpus: expected a number from 1 to 64"},
        {"{\"quiet\": 1}", "quiet: expected true or false"},
        {"{\"quiet\": \"yes\"}", "quiet: expected 'on' or 'off'"},
        {"{\"disk\": 1}", "disk: expected a string or an object"},
        {"{\"disk\": [\"a\", [\"b\"]]}", "disk: 2: expected a string or an object"},
        {"{\"disk\": [\"a\", {\"file\": \"b\"}]}", "disk: 2: expected the path"},
        {"{\"disk\": {\"path\": \"a\", \"queues\": {}}}", "queues: expected a string, a number"},
        {"{\"disk\": {\"path\": \"a\", \"queues\": 1.5}}", "queues: expected a string, a number"},
        {"{\"disk\": {\"path\": \"a\", \"qeues\": 1}}", "did you mean 'queues'?"},
        {"{\"disk\": {\"path\": \"a\", \"format\": \"vdi\"}}", "expected 'qcow2' or 'raw'"},
        {"{\"disk\": {\"path\": \"\"}}", "expected the path"},
        {"{\"disk\": []}", "no kernel"},
        {"{}", "no kernel"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct parsed p;

        parse_json(&p, rows[i].text, "");
        expect_refused(&p, rows[i].text, rows[i].said);
        if (strstr(rows[i].said, "no kernel") == NULL &&
            strncmp(p.err.text, json_path, strlen(json_path)) != 0)
            fail_msg("'%s' does not begin with the file's name", p.err.text);
        config_destroy(&p.config);
    }
}

static void hostile_json(void **state)
{
    enum { DEEP = 100000, HUGE = (1 << 20) + 1 };
    char *text = malloc(HUGE);
    struct parsed p;
    char words[128];

    (void)state;
    assert_non_null(text);
    (void)snprintf(words, sizeof(words), "--config %s", json_path);

    memset(text, '[', DEEP);
    write_json(text, DEEP);
    parse_words(&p, words);
    expect_refused(&p, "deep nesting", "depth");
    config_destroy(&p.config);

    memset(text, ' ', HUGE);
    write_json(text, HUGE);
    parse_words(&p, words);
    expect_refused(&p, "a huge file", "File too large");
    config_destroy(&p.config);

    memset(text, 'x', HUGE);
    text[0] = '{';
    text[1] = '"';
    write_json(text, HUGE - 1);
    parse_words(&p, words);
    expect_refused(&p, "a huge key", json_path);
    config_destroy(&p.config);

    write_json("{\"kernel\":\"k\"\0}", 15);
    parse_words(&p, words);
    expect_refused(&p, "a NUL byte", json_path);
    config_destroy(&p.config);
    free(text);
}

#define JSON(name) cmocka_unit_test_setup_teardown(name, make_json_path, remove_json_path)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(everything_set),
        cmocka_unit_test(last_one_counts),
        cmocka_unit_test(help_and_version_end_the_parsing),
        cmocka_unit_test(refused_options),
        cmocka_unit_test(too_many_disks),
        cmocka_unit_test(help_names_every_option),
        JSON(json_sets_everything),
        JSON(command_line_overrides_and_extends_json),
        JSON(refused_json),
        JSON(hostile_json),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
