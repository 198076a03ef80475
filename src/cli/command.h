/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A subcommand of `godwit`: what it takes, declared once and used for parsing, for help, for the
 * shell's completion and for the test that compares it with the manual; and the code that runs it.
 */
#ifndef GODWIT_CLI_COMMAND_H
#define GODWIT_CLI_COMMAND_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"

enum cli_value {
	CLI_FLAG,
	CLI_REQUIRED,
	CLI_OPTIONAL /* without positionals only, or as --name=value */
};

struct cli_option {
	const char *name;     /* without "--"; NULL ends a list */
	enum cli_value value; /* whether it takes one */
	const char *argument; /* what the value is called in help; NULL for a flag */
	const char *help;     /* a sentence without a full stop */
};

struct cli_arguments;

struct cli_command {
	const char *name;
	const char *positionals; /* "VM ID SIZE", for help */
	int minimum, maximum;	 /* how many of them */
	const char *summary;	 /* one line */
	const char *description; /* for help: lines of at most 79 characters, or NULL */
	const struct cli_option *options;
	/* *@status is 0; a command that ends well may set another exit status. */
	struct error *(*run)(const struct cli_arguments *arguments, int *status);
	/*
	 * Commands of which the first positional chooses one, NULL at the end; their names have this
	 * one's in front ("snapshot info"). NULL: there are none. With them, @run is not used.
	 */
	const struct cli_command *const *actions;
};

#define CLI_GIVEN_MAX	   512 /* options in one call */
#define CLI_POSITIONAL_MAX 64

struct cli_given {
	const struct cli_option *option;
	const char *value; /* NULL: none was given */
};

struct cli_arguments {
	const struct cli_command *command;
	struct cli_given given[CLI_GIVEN_MAX];
	int given_count;
	const char *positional[CLI_POSITIONAL_MAX];
	int positional_count;
	bool help; /* --help or -h */
};

/*
 * Reads @argv[0 .. argc), what follows the subcommand, into *@arguments, which points into it.
 * Options and positionals mix; "--" ends the options; "--name value" and "--name=value" are the
 * same. Unknown options are refused with the nearest known one. The number of positionals is
 * checked unless help is asked for.
 */
struct error *cli_parse(const struct cli_command *command, int argc, char **argv,
			struct cli_arguments *arguments) MUST_CHECK;

/* Whether option @name was given. */
bool cli_has(const struct cli_arguments *arguments, const char *name);
/* The value of the last @name given, or @missing. */
const char *cli_value(const struct cli_arguments *arguments, const char *name, const char *missing);
/* The next @name at or after *@cursor (0 at first), which moves past it; NULL when there is no
 * more. */
const struct cli_given *cli_next(const struct cli_arguments *arguments, const char *name,
				 int *cursor);
/* A duration in seconds ("2.5"); @missing when the option was not given. */
struct error *cli_seconds(const struct cli_arguments *arguments, const char *name, double missing,
			  double *seconds) MUST_CHECK;

/* The table, in the order of help; ends with a NULL name. */
extern const struct cli_command *const cli_commands[];
const struct cli_command *cli_find_command(const char *name);
/* The action @name of @command, or an error that suggests the nearest. */
struct error *cli_find_action(const struct cli_command *command, const char *name,
			      const struct cli_command **action) MUST_CHECK;
/* Prints what `godwit help` says. */
void cli_print_overview(void);
void cli_print_help(const struct cli_command *command);

/*
 * The word of @words (NULL-terminated) that @word most likely meant, or NULL when none is near: at
 * most a third of its letters inserted, left out, replaced or swapped, or cut off at its end.
 */
const char *cli_nearest(const char *word, const char *const *words);

#endif
