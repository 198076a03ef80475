/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What the process says when the host takes memory away that it has mapped (SIGBUS): the end of a
 * file was cut off, a disk cannot be read. It ends at once, with exit status 1, before a device
 * writes what is not there.
 */
#ifndef GODWIT_CLI_MEMORY_FAULT_H
#define GODWIT_CLI_MEMORY_FAULT_H

/* From now on. @why, a string that stays, is what it adds: the likely reason. Once. */
void memory_fault_watch(const char *why);

#endif
