#include "img.h"

#include <signal.h>

static volatile sig_atomic_t asked;

static void on_sigusr1(int signal_number)
{
    (void)signal_number;
    asked = 1;
}

static void show(struct progress *progress, double percent)
{
    printf("    (%3.2f/100%%)\r", percent);
    fflush(stdout);
    progress->shown = percent;
}

void progress_start(struct progress *progress, bool enabled)
{
    *progress = (struct progress){.enabled = enabled, .started = true};
    if (enabled) {
        show(progress, 0);
    } else {
        struct sigaction action = {.sa_handler = on_sigusr1, .sa_flags = SA_RESTART};

        (void)sigaction(SIGUSR1, &action, NULL);
    }
}

void progress_update(struct progress *progress, uint64_t done, uint64_t total)
{
    double percent = total == 0 ? 100 : (double)done * 100 / (double)total;

    if (progress->enabled) {
        if (percent - progress->shown >= 1)
            show(progress, percent);
    } else if (asked) {
        asked = 0;
        fprintf(stderr, "    (%3.2f/100%%)\n", percent);
    }
}

void progress_end(struct progress *progress, bool complete)
{
    if (progress->started && progress->enabled) {
        if (complete)
            show(progress, 100);
        printf("\n");
    }
    progress->started = false;
}
