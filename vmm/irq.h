/*
 * irq.h - a wire into the interrupt controller, so that devices need not know KVM.
 * Threads: irq_set() from any thread; the setter orders its own level changes.
 */
#ifndef VMM_IRQ_H
#define VMM_IRQ_H

#include <stdbool.h>

struct irq_line {
    void (*set)(void *controller, unsigned gsi, bool level);
    void *controller;
    unsigned gsi;
};

static inline void irq_set(const struct irq_line *line, bool level)
{
    line->set(line->controller, line->gsi, level);
}

#endif
