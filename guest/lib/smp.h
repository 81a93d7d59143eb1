/*
 * smp.h - starting the other CPUs by INIT and SIPI, one at a time.
 */
#ifndef GUEST_SMP_H
#define GUEST_SMP_H

#include <stdbool.h>
#include <stdint.h>

/* The local APIC IDs of the MADT's enabled CPUs, this one included; returns how many there are and
 * fills at most `max`. */
unsigned smp_list_cpus(uint8_t *ids, unsigned max);

/* Starts the CPU with this ID. It calls `run` on a stack of its own, then halts. False when it does
 * not come up. */
bool smp_start_cpu(uint8_t id, void (*run)(void));

/* This CPU's local APIC ID, as the APIC and as CPUID say. */
uint8_t smp_apic_id(void);
uint8_t smp_cpuid_id(void);

#endif
