/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where running VMs are found: a directory with NAME.sock (the control socket) and NAME.pid (its
 * owner) for each. The owner holds a lock on NAME.pid as long as it lives, so a name is used once
 * and what a dead VM left behind is recognised: the lock of a process that ended, however it ended,
 * is gone.
 */
#ifndef GODWIT_CONTROL_RUN_DIRECTORY_H
#define GODWIT_CONTROL_RUN_DIRECTORY_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

#define VM_NAME_MAX 63 /* characters */

/*
 * The run directory: $GODWIT_RUN_DIR, else /run/godwit for root, else $XDG_RUNTIME_DIR/godwit. It
 * need not exist. *@path is freed by the caller.
 */
struct error *run_directory_path(char **path) MUST_CHECK;
/* The path of VM @name's control socket; refuses names that are not plain
 * (machine_identifier_check). */
struct error *run_directory_socket(const char *name, char **path) MUST_CHECK;

/* A name that this process owns. */
struct run_entry;

/*
 * Takes @name: creates the directory (mode 0700) and the lock, and removes a dead VM's socket. An
 * error if a running VM has the name.
 */
struct error *run_entry_claim(const char *name, struct run_entry **entry) MUST_CHECK;
/*
 * Takes over @name from the process that hands over its lock @lock_fd, taken over also on error:
 * the files are that process's until run_entry_own.
 */
struct error *run_entry_adopt(const char *name, int lock_fd, struct run_entry **entry) MUST_CHECK;
/* They are this process's. */
void run_entry_own(struct run_entry *entry);
/* They are left to the process that has the lock, too. */
void run_entry_leave(struct run_entry *entry);
/* The lock, which stays the entry's. */
int run_entry_lock(const struct run_entry *entry);
const char *run_entry_socket(const struct run_entry *entry);
/* Removes the files, if they are this process's, and gives the name back; accepts NULL. */
void run_entry_release(struct run_entry *entry);

/* One VM that was found. */
struct run_listing {
	char *name;
	pid_t pid; /* 0 if it could not be read */
};

/*
 * Lists the running VMs by name; leftovers of dead ones are skipped. *@listings is an array of
 * *@count, freed with run_listings_free. A directory that does not exist holds none.
 */
struct error *run_directory_list(struct run_listing **listings, size_t *count) MUST_CHECK;
void run_listings_free(struct run_listing *listings, size_t count);
/* Whether a process owns @name now; its pid (0 if unknown) goes to *@pid unless that is NULL. */
bool run_directory_running(const char *name, pid_t *pid);

#endif
