/*
 * main.c - the story of a boot: parse, open, build the machine, drop privileges, run, report.
 *
 * With --on-reboot restart, each life of the machine is a process of its own (restart.c), because a
 * sandboxed process could not open the files and the KVM device of the next one.
 */
#include "config.h"
#include "console.h"
#include "events.h"
#include "halt.h"
#include "life.h"
#include "log.h"
#include "machine.h"
#include "memory.h"
#include "options.h"
#include "process.h"
#include "restart.h"
#include "sandbox.h"
#include "terminal.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_START_FAILED = 1, EXIT_RUN_FAILED = 2 };

struct run {
    const struct vm_config *config;
    struct console *console;
    uint64_t deadline;
};

static int fail_start(const struct err *err)
{
    log_error("%s", err->text);
    return EXIT_START_FAILED;
}

static void report_end(const struct life *life)
{
    switch (life_event(life)) {
    case LIFE_POWEROFF:
        log_info("the guest powered off");
        break;
    case LIFE_REBOOT:
        log_info("the guest rebooted");
        break;
    case LIFE_PANIC:
        log_info("the guest panicked");
        break;
    case LIFE_TRIPLE_FAULT:
        log_info("the guest ended in a triple fault");
        break;
    case LIFE_TEST_EXIT:
        log_info("the guest wrote %d to the exit port", life_detail(life));
        break;
    case LIFE_TIMEOUT:
        log_info("the time is over");
        break;
    case LIFE_SIGNAL:
        log_info("ended by signal %d (%s)", life_detail(life), strsignal(life_detail(life)));
        break;
    case LIFE_RUNNING:
    case LIFE_FAILED: /* whoever posted it has said why */
        break;
    }
}

/* Everything between the first and the last guest instruction; 0 or -1 when it did not start. */
static int run_until_end(const struct run *run, struct machine *machine, struct life *life,
                         struct halt *halt, const struct events *events, struct err *err)
{
    if (console_start(run->console, machine_com1(machine), life, halt, err) < 0)
        return -1;
    if ((run->config->sandbox && sandbox_enter(err) < 0) || machine_start(machine, err) < 0) {
        console_stop(run->console);
        return -1;
    }
    events_wait(events, life, halt, machine, run->console);
    return 0;
}

/* Stops and closes whatever runs; true when every image is safely on disk. */
static bool shut_down(struct machine *machine, struct console *console)
{
    struct err err;
    bool clean = true;

    console_release(console);
    if (machine_stop(machine, &err) < 0) {
        clean = false;
        log_error("%s", err.text);
    }
    console_stop(console);
    if (machine_destroy(machine, &err) < 0) {
        clean = false;
        log_error("%s", err.text);
    }
    return clean;
}

/* One machine from its creation to its end: the exit status. */
static int run_machine_with(const struct run *run, struct life *life, struct halt *halt,
                            const struct events *events, bool *rebooted)
{
    struct machine *machine = NULL;
    struct err err;
    bool clean;

    if (machine_create(run->config, life, halt, &machine, &err) < 0 ||
        run_until_end(run, machine, life, halt, events, &err) < 0) {
        (void)machine_destroy(machine, NULL);
        return fail_start(&err);
    }
    clean = shut_down(machine, run->console);
    report_end(life);
    *rebooted = clean && life_event(life) == LIFE_REBOOT;
    return clean ? life_exit_status(life) : EXIT_RUN_FAILED;
}

static int run_machine(void *opaque, bool *rebooted)
{
    const struct run *run = opaque;
    struct events events;
    struct life life;
    struct halt halt;
    struct err err;
    int rc = life_init(&life);
    int status;

    if (rc < 0) {
        (void)err_set_errno(&err, rc, "cannot create an eventfd");
        return fail_start(&err);
    }
    rc = halt_init(&halt);
    if (rc < 0) {
        (void)err_set_errno(&err, rc, "cannot create an eventfd");
        status = fail_start(&err);
    } else if (events_open(&events, run->deadline, &err) < 0) {
        status = fail_start(&err);
        halt_destroy(&halt);
    } else {
        status = run_machine_with(run, &life, &halt, &events, rebooted);
        events_close(&events);
        halt_destroy(&halt);
    }
    life_destroy(&life);
    return status;
}

static int print_and_exit(enum options_action action)
{
    if (action == OPTIONS_HELP)
        options_print_help(stdout);
    else
        printf("minivmm %s\n", MINIVMM_VERSION);
    return fflush(stdout) == 0 && !ferror(stdout) ? 0 : EXIT_START_FAILED;
}

int main(int argc, char **argv)
{
    enum options_action action;
    struct vm_config config;
    struct run run = {.config = &config};
    struct err err;
    int status;

    process_prepare();
    log_init(argc > 0 ? argv[0] : NULL);
    config_init(&config);
    if (options_parse(argc, argv, &config, &action, &err) < 0) {
        config_destroy(&config);
        return fail_start(&err);
    }
    if (action != OPTIONS_RUN) {
        config_destroy(&config);
        return print_and_exit(action);
    }
    log_set_level(config.quiet ? LOG_LEVEL_ERROR : config.log_level);
    run.deadline = events_deadline(config.timeout);
    events_block_signals();
    memory_guard_on_exit(terminal_restore);

    if (console_open(&config, &run.console, &err) < 0) {
        status = fail_start(&err);
    } else {
        bool rebooted;

        status = config.restart_on_reboot ? restart_loop(run_machine, &run)
                                          : run_machine(&run, &rebooted);
        console_close(run.console);
    }
    config_destroy(&config);
    return status;
}
