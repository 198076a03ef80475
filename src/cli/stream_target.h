/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Where `godwit save` sends a snapshot, and where `godwit restore` takes one from, when it is not a
 * file by its name but something that gives or takes bytes only in their order:
 *
 *	exec:COMMAND	a shell command, started here
 *	fd:N		a descriptor that this process inherited; /dev/fd/N, /dev/stdout, /dev/stdin
 *	PATH		of a named pipe or a device
 */
#ifndef GODWIT_CLI_STREAM_TARGET_H
#define GODWIT_CLI_STREAM_TARGET_H

#include <stdbool.h>

#include "base/channel.h"
#include "base/child.h"
#include "base/error.h"

enum stream_kind { STREAM_NONE, STREAM_COMMAND, STREAM_DESCRIPTOR, STREAM_PATH };

struct stream_target {
	enum stream_kind kind; /* STREAM_NONE: the name of a file */
	const char *name;      /* borrowed */
	const char *command;   /* of STREAM_COMMAND */
	int number;	       /* of STREAM_DESCRIPTOR */
	int fd;		       /* to write to, once it is open, or -1 */
	struct child *child;   /* likewise, of a command */
};

/* What @name stands for; opens nothing. */
struct error *stream_target_parse(const char *name, struct stream_target *target) MUST_CHECK;
/* Opens a stream for writing, and starts its command. A named pipe waits for its reader. */
struct error *stream_target_open(struct stream_target *target) MUST_CHECK;
/* Ends the command unless it has ended. */
void stream_target_close(struct stream_target *target);

/*
 * Opens @name for reading; *@channel stays NULL when it is that of a file at any place of which one
 * can read and that is no stream.
 */
struct error *stream_source_open(const char *name, struct channel **channel) MUST_CHECK;

#endif
