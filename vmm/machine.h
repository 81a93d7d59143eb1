/*
 * machine.h - the assembled virtual machine: KVM VM, memory, vCPUs, buses, devices, boot.
 *
 * Life: machine_create -> machine_start -> (pause <-> resume) -> (life event) -> machine_stop ->
 * machine_destroy. A restart
 * is a fresh create: nothing of the old machine is carried over but its disks, which main reopens.
 *
 * Threads: all calls from the main thread. Between start and stop the vCPU and queue threads run.
 */
#ifndef VMM_MACHINE_H
#define VMM_MACHINE_H

#include "config.h"
#include "err.h"
#include "halt.h"
#include "life.h"

#include <stdbool.h>

struct machine;
struct serial;

/* Builds everything and loads the kernel; no guest instruction has run on return. `config`, `life` and
 * `halt` are borrowed and outlive the machine. -errno with a message that says what to do where the user can
 * (a missing /dev/kvm, permissions). */
int machine_create(const struct vm_config *config, struct life *life, struct halt *halt,
                   struct machine **out, struct err *err);

/* COM1, for the console to be attached to; lives as long as the machine. */
struct serial *machine_com1(struct machine *machine);

/* Starts the vCPU threads. */
int machine_start(struct machine *machine, struct err *err);

/* For a disk that has come to a halt (halt.h): keeps the vCPUs from running and says which disk, why, and
 * how the machine is made to go on (`keys`: by a key too). The other disks finish what they have. Also
 * for a machine that is paused already. */
void machine_pause(struct machine *machine, bool keys);
/* The disks try again and the vCPUs go on. Harmless when the machine is not paused. */
void machine_resume(struct machine *machine);

/* Says what the disks have done so far: in the file of the configuration, or on standard error. */
void machine_write_stats(struct machine *machine);

/* Stops the vCPUs wherever they are and waits for them; then stops the devices, so that nothing is in
 * flight, flushes the disks, and writes the file of statistics. The first error of a disk is returned.
 * Idempotent. */
int machine_stop(struct machine *machine, struct err *err);

/* Closes the disks and frees everything; returns the first error of a disk. NULL is allowed. */
int machine_destroy(struct machine *machine, struct err *err);

#endif
