/*
 * startup.h - how long the start of the process took, for people who count it.
 */
#ifndef VMM_STARTUP_H
#define VMM_STARTUP_H

/* Logs, at debug level, the CPU time and the wall time from the start of the process until now. */
void startup_log(void);

#endif
