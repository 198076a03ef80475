/* SPDX-License-Identifier: BSD-2-Clause */
/* Parsing and help of subcommands, command.h. Runs once, on the main thread; the user controls all
 * text. */
#include "cli/command.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/checked.h"

#define WORD_MAX  32 /* longer words are not compared */
#define WORDS_MAX 64

/* The number of edits between @a and @b: insert, delete, replace, swap of neighbours. */
static size_t edit_distance(const char *a, const char *b)
{
	size_t rows[3][WORD_MAX + 1]; /* two rows back, one row back, this row */
	size_t a_length = strlen(a), b_length = strlen(b);

	if (a_length > WORD_MAX || b_length > WORD_MAX)
		return WORD_MAX;
	for (size_t j = 0; j <= b_length; j++)
		rows[1][j] = j;
	for (size_t i = 1; i <= a_length; i++) {
		size_t *back = rows[0], *above = rows[1], *row = rows[2];

		row[0] = i;
		for (size_t j = 1; j <= b_length; j++) {
			row[j] = above[j - 1] + (a[i - 1] != b[j - 1]);
			row[j] = MIN(row[j], above[j] + 1);
			row[j] = MIN(row[j], row[j - 1] + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = MIN(row[j], back[j - 2] + 1);
		}
		memcpy(rows[0], rows[1], sizeof(rows[0]));
		memcpy(rows[1], rows[2], sizeof(rows[1]));
	}
	return rows[1][b_length];
}

const char *cli_nearest(const char *word, const char *const *words)
{
	size_t best = WORD_MAX, length = strlen(word);
	const char *nearest = NULL;

	for (; *words; words++) {
		size_t distance = edit_distance(word, *words);

		/* What was cut off or not finished is as near as one edit. */
		if (length >= 2 && strncmp(*words, word, length) == 0)
			distance = MIN(distance, (size_t)1);
		if (distance < best && distance <= MAX(strlen(*words) / 3, (size_t)1)) {
			best = distance;
			nearest = *words;
		}
	}
	return nearest;
}

static const struct cli_option *find_option(const struct cli_command *command, const char *name,
					    size_t length)
{
	const struct cli_option *option = command->options;

	for (; option && option->name; option++)
		if (strlen(option->name) == length && strncmp(option->name, name, length) == 0)
			return option;
	return NULL;
}

static struct error *unknown_option(const struct cli_command *command, const char *text)
{
	AUTO_FREE char *name = strndup(text + 2, strcspn(text + 2, "="));
	const char *names[WORDS_MAX] = {"help"};
	const char *nearest;
	size_t count = 1;

	for (const struct cli_option *option = command->options;
	     option && option->name && count < WORDS_MAX - 1; option++)
		names[count++] = option->name;
	nearest = name ? cli_nearest(name, names) : NULL;
	if (nearest)
		return error_usage("unknown option '--%s': did you mean --%s?", name, nearest);
	return error_usage("unknown option '--%s': 'godwit help %s' lists the options", name ?: "",
			   command->name);
}

/* Takes the option @text, and its value from @following unless it is in @text; *@used counts the
 * latter. */
static struct error *parse_option(struct cli_arguments *arguments, const char *text,
				  const char *following, int *used)
{
	const char *name = text + 2;
	const char *equals = strchr(name, '=');
	size_t length = equals ? (size_t)(equals - name) : strlen(name);
	const struct cli_option *option = find_option(arguments->command, name, length);
	const char *value = equals ? equals + 1 : NULL;

	if (strcmp(name, "help") == 0) {
		arguments->help = true;
		return NULL;
	}
	if (!option)
		return unknown_option(arguments->command, text);
	if (value && option->value == CLI_FLAG)
		return error_usage("--%s takes no value", option->name);
	if (!value && option->value == CLI_REQUIRED) {
		if (!following)
			return error_usage("--%s needs a value: --%s %s", option->name,
					   option->name, option->argument);
		value = following;
		*used = 1;
	}
	/* Where no positionals are possible, what follows can only be the value. */
	if (!value && option->value == CLI_OPTIONAL && !arguments->command->maximum && following &&
	    following[0] != '-') {
		value = following;
		*used = 1;
	}
	if (arguments->given_count == CLI_GIVEN_MAX)
		return error_usage("more than %d options", CLI_GIVEN_MAX);
	arguments->given[arguments->given_count++] = (struct cli_given){option, value};
	return NULL;
}

static struct error *check_positionals(const struct cli_arguments *arguments)
{
	const struct cli_command *command = arguments->command;
	int count = arguments->positional_count;

	if (count > command->maximum)
		return error_usage("unexpected argument '%s': it takes %s",
				   arguments->positional[command->maximum],
				   command->maximum ? command->positionals : "none");
	if (count < command->minimum)
		return error_usage("an argument is missing: godwit %s %s", command->name,
				   command->positionals);
	return NULL;
}

struct error *cli_parse(const struct cli_command *command, int argc, char **argv,
			struct cli_arguments *arguments)
{
	bool options_end = false;

	memset(arguments, 0, sizeof(*arguments));
	arguments->command = command;
	for (int i = 0; i < argc; i++) {
		int used = 0;

		if (!options_end && strcmp(argv[i], "--") == 0) {
			options_end = true;
		} else if (!options_end && strncmp(argv[i], "--", 2) == 0) {
			TRY(parse_option(arguments, argv[i], i + 1 < argc ? argv[i + 1] : NULL,
					 &used));
			i += used;
		} else if (!options_end && strcmp(argv[i], "-h") == 0) {
			arguments->help = true;
		} else if (!options_end && argv[i][0] == '-' && argv[i][1]) {
			return error_usage("unknown option '%s': options are long, as --help",
					   argv[i]);
		} else if (arguments->positional_count == CLI_POSITIONAL_MAX) {
			return error_usage("more than %d arguments", CLI_POSITIONAL_MAX);
		} else {
			arguments->positional[arguments->positional_count++] = argv[i];
		}
	}
	return arguments->help ? NULL : check_positionals(arguments);
}

const struct cli_given *cli_next(const struct cli_arguments *arguments, const char *name,
				 int *cursor)
{
	while (*cursor < arguments->given_count) {
		const struct cli_given *given = &arguments->given[(*cursor)++];

		if (strcmp(given->option->name, name) == 0)
			return given;
	}
	return NULL;
}

bool cli_has(const struct cli_arguments *arguments, const char *name)
{
	int cursor = 0;

	return cli_next(arguments, name, &cursor) != NULL;
}

const char *cli_value(const struct cli_arguments *arguments, const char *name, const char *missing)
{
	const struct cli_given *given;
	int cursor = 0;

	while ((given = cli_next(arguments, name, &cursor)) != NULL)
		missing = given->value;
	return missing;
}

struct error *cli_seconds(const struct cli_arguments *arguments, const char *name, double missing,
			  double *seconds)
{
	const char *text = cli_value(arguments, name, NULL);
	char *end;

	*seconds = missing;
	if (!text)
		return NULL;
	*seconds = strtod(text, &end);
	if (end == text || *end || !isfinite(*seconds) || *seconds < 0 || *seconds > 1e9)
		return error_usage("--%s: '%s' is not a number of seconds", name, text);
	return NULL;
}

const struct cli_command *cli_find_command(const char *name)
{
	for (const struct cli_command *const *command = cli_commands; *command; command++)
		if (strcmp((*command)->name, name) == 0)
			return *command;
	return NULL;
}

/* What an action's name has behind its command's. */
static const char *action_name(const struct cli_command *action)
{
	return strchr(action->name, ' ') + 1;
}

struct error *cli_find_action(const struct cli_command *command, const char *name,
			      const struct cli_command **action)
{
	const char *names[WORDS_MAX] = {};
	const char *nearest;
	size_t count = 0;

	for (const struct cli_command *const *each = command->actions; *each; each++) {
		if (strcmp(action_name(*each), name) == 0) {
			*action = *each;
			return NULL;
		}
		if (count < WORDS_MAX - 1)
			names[count++] = action_name(*each);
	}
	nearest = cli_nearest(name, names);
	if (nearest)
		return error_usage("unknown action '%s': did you mean '%s'?", name, nearest);
	return error_usage("unknown action '%s': 'godwit help %s' lists them", name, command->name);
}

void cli_print_overview(void)
{
	printf("usage: godwit SUBCOMMAND [ARGUMENT...]\n\n"
	       "Runs virtual machines whose memory grows and shrinks while they run.\n\n");
	for (const struct cli_command *const *command = cli_commands; *command; command++)
		printf("  %-8s %s\n", (*command)->name, (*command)->summary);
	printf("\n'godwit help SUBCOMMAND' tells more, 'man godwit' all. Sizes take K, M, G, T.\n");
}

/* Prints @text with its lines after the first moved to column 32. */
static void print_option_help(const char *text)
{
	for (;;) {
		size_t length = strcspn(text, "\n");

		printf("%.*s\n", (int)length, text);
		if (!text[length])
			return;
		text += length + 1;
		printf("%*s", 32, "");
	}
}

void cli_print_help(const struct cli_command *command)
{
	const struct cli_option *option = command->options;

	printf("usage: godwit %s%s%s%s\n\n%s.\n", command->name,
	       option && option->name ? " [OPTION...]" : "", *command->positionals ? " " : "",
	       command->positionals, command->summary);
	if (command->description)
		printf("\n%s\n", command->description);
	if (command->actions)
		printf("\nactions:\n");
	for (const struct cli_command *const *action = command->actions; action && *action;
	     action++)
		printf("  %-8s %s\n", action_name(*action), (*action)->summary);
	if (option && option->name)
		printf("\noptions:\n");
	for (; option && option->name; option++) {
		char left[64];

		snprintf(left, sizeof(left), "--%s%s%s%s", option->name,
			 option->value == CLI_FLAG	 ? ""
			 : option->value == CLI_OPTIONAL ? " ["
							 : " ",
			 option->argument ?: "", option->value == CLI_OPTIONAL ? "]" : "");
		if (strlen(left) > 27)
			printf("  %s\n%*s", left, 32, "");
		else
			printf("  %-29s ", left);
		print_option_help(option->help);
	}
}
