/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The paths in a machine's configuration, which a snapshot takes to processes in other folders.
 * Pure.
 */
#ifndef GODWIT_MACHINE_MACHINE_CONFIG_PATHS_H
#define GODWIT_MACHINE_MACHINE_CONFIG_PATHS_H

#include <jansson.h>

/*
 * Makes the relative paths in @config, what machine_config_to_json returned, those that they are
 * in @folder, an absolute path: kernel, initrd, files of memory, disks, sockets, consoles. One that
 * cannot be written so stays relative: behind a folder with a comma, which options have no way to
 * write; a socket's that would be longer than a socket's address; one that is not UTF-8.
 */
void machine_config_paths_from(json_t *config, const char *folder);

#endif
