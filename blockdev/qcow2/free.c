#include "qcow2/qcow2.h"

int qcow2_hold(struct qcow2 *q)
{
    atomic_fetch_add_explicit(&q->holds[q->current_hold], 1, memory_order_relaxed);
    return q->current_hold;
}

void qcow2_unhold(struct blk *blk, int hold)
{
    atomic_fetch_sub_explicit(&qcow2_of(blk)->holds[hold], 1, memory_order_release);
}
