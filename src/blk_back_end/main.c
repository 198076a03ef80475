/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The `godwit-blk` program: a disk in a file for virtual machines that speak vhost-user. Exit status 0, 1 for
 * a failure, 2 when the command line is wrong.
 */
#include <stdio.h>

#include "blk_back_end/options.h"

int main(int argc, char **argv)
{
	struct server_options options;
	enum blk_command command;
	struct error *error = blk_options_read(argc, argv, &options, &command);
	int status = 0;

	log_set_name("blk");
	if (!error && command == BLK_COMMAND_HELP)
		blk_options_print_help();
	else if (!error && command == BLK_COMMAND_VERSION)
		printf("godwit-blk %s\n", GODWIT_VERSION);
	else if (!error)
		error = server_run(&options);
	if (error) {
		status = error_kind(error) == ERROR_USAGE ? 2 : 1;
		fprintf(stderr, "godwit-blk: %s\n", error_message(error));
		error_free(error);
	}
	return status;
}
