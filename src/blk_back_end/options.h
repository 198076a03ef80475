/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line of godwit-blk. */
#ifndef GODWIT_BLK_BACK_END_OPTIONS_H
#define GODWIT_BLK_BACK_END_OPTIONS_H

#include "blk_back_end/server.h"

enum blk_command { BLK_COMMAND_SERVE, BLK_COMMAND_HELP, BLK_COMMAND_VERSION };

/*
 * Fills *@options and sets *@command. Strings are those of @argv. --help and --version are found
 * whatever else there is.
 */
struct error *blk_options_read(int argc, char **argv, struct server_options *options,
			       enum blk_command *command) MUST_CHECK;
/* On standard output. */
void blk_options_print_help(void);

#endif
