/* SPDX-License-Identifier: BSD-2-Clause */
/* The command line of options.h: one table of options, from which the help is printed too. */
#include "blk_back_end/options.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/checked.h"
#include "vhost_user/memory.h"

struct option {
	const char *name, *value; /* value NULL: a switch */
	const char *help;	  /* lines */
	struct error *(*read)(struct server_options *options, const char *value);
};

static struct error *read_number(const char *name, const char *text, unsigned long least,
				 unsigned long most, unsigned long *number)
{
	char *end;

	errno = 0;
	*number = strtoul(text, &end, 10);
	if (errno || *end || end == text || *text == '-' || *text == '+' || *number < least ||
	    *number > most)
		return error_usage("--%s: '%s' is no number from %lu to %lu", name, text, least,
				   most);
	return NULL;
}

static struct error *read_file(struct server_options *options, const char *value)
{
	options->disk.file.path = value;
	return NULL;
}

static struct error *read_socket(struct server_options *options, const char *value)
{
	options->listen = value;
	return NULL;
}

static struct error *read_connect(struct server_options *options, const char *value)
{
	options->connect = value;
	return NULL;
}

static struct error *read_fd(struct server_options *options, const char *value)
{
	unsigned long number;

	TRY(read_number("fd", value, 0, INT_MAX, &number));
	options->fd = (int)number;
	return NULL;
}

static struct error *read_read_only(struct server_options *options, const char *value)
{
	options->disk.file.readonly = true;
	return NULL;
}

static struct error *read_direct(struct server_options *options, const char *value)
{
	options->disk.file.direct = true;
	return NULL;
}

static struct error *read_queues(struct server_options *options, const char *value)
{
	unsigned long number;

	TRY(read_number("queues", value, 1, BLK_DEVICE_QUEUES_MAX, &number));
	options->disk.queues = (uint16_t)number;
	return NULL;
}

static struct error *read_cache(struct server_options *options, const char *value)
{
	options->disk.write_through = strcmp(value, "writethrough") == 0;
	if (options->disk.write_through || strcmp(value, "writeback") == 0)
		return NULL;
	return error_usage("--cache: '%s' is neither 'writeback' nor 'writethrough'", value);
}

static struct error *read_discard(struct server_options *options, const char *value)
{
	options->disk.discard_given = true;
	options->disk.discard = strcmp(value, "on") == 0;
	if (options->disk.discard || strcmp(value, "off") == 0)
		return NULL;
	return error_usage("--discard: '%s' is neither 'on' nor 'off'", value);
}

static struct error *read_serial(struct server_options *options, const char *value)
{
	if (strlen(value) > BLK_ID_SIZE)
		return error_usage("--serial: '%s' has more than %d characters", value,
				   BLK_ID_SIZE);
	options->disk.serial = value;
	return NULL;
}

static struct error *read_slots(struct server_options *options, const char *value)
{
	unsigned long number;

	TRY(read_number("slots", value, 1, VHOST_USER_SLOTS_MAX, &number));
	options->slots = (uint32_t)number;
	return NULL;
}

static struct error *read_verbose(struct server_options *options, const char *value)
{
	log_set_level(LOG_LEVEL_INFO);
	return NULL;
}

static const struct option table[] = {
    {"file", "PATH", "raw file or block device", read_file},
    {"socket", "PATH", "listen there: one front-end after the other", read_socket},
    {"connect", "PATH", "connect to a front-end there, again and again", read_connect},
    {"fd", "N", "a socket that was handed in, connected or listening", read_fd},
    {"read-only", NULL, "refuse writes", read_read_only},
    {"direct", NULL, "past the host's page cache", read_direct},
    {"queues", "N", "queues, each with a thread (1 to 64; 1)", read_queues},
    {"cache", "MODE", "writeback, or writethrough: stable when written", read_cache},
    {"discard", "on|off", "give storage back (on where it can)", read_discard},
    {"serial", "TEXT", "serial number, up to 20 characters (disk)", read_serial},
    {"slots", "N", "pieces of guest memory (1 to 32764; 32764)", read_slots},
    {"verbose", NULL, "say when front-ends go", read_verbose},
};

void blk_options_print_help(void)
{
	printf("usage: godwit-blk --file PATH (--socket PATH|--connect PATH|--fd N) [OPTION…]\n"
	       "\n"
	       "Serves a disk to a virtual machine as a vhost-user back-end.\n"
	       "\n"
	       "options:\n");
	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		char name[32];

		snprintf(name, sizeof(name), "--%s%s%s", table[i].name, table[i].value ? " " : "",
			 table[i].value ?: "");
		printf("  %-18s %s\n", name, table[i].help);
	}
	printf("  %-18s %s\n  %-18s %s\n", "--help", "print this", "--version",
	       "print the version");
}

static const struct option *find(const char *name, size_t length)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (strncmp(table[i].name, name, length) == 0 && !table[i].name[length])
			return &table[i];
	return NULL;
}

static struct error *read_all(int argc, char **argv, struct server_options *options)
{
	uint32_t seen = 0;

	for (int i = 1; i < argc; i++) {
		const char *name = argv[i] + 2, *value = strchr(argv[i], '=');
		const struct option *option;

		if (strncmp(argv[i], "--", 2) != 0 || !*name)
			return error_usage("unexpected argument '%s'", argv[i]);
		option = find(name, value ? (size_t)(value - name) : strlen(name));
		if (!option)
			return error_usage("unknown option '%s': 'godwit-blk --help' lists them",
					   argv[i]);
		if (seen & 1U << (option - table))
			return error_usage("--%s is given twice", option->name);
		seen |= 1U << (option - table);
		if (value && !option->value)
			return error_usage("--%s takes no value", option->name);
		if (value)
			value++;
		else if (option->value && ++i < argc)
			value = argv[i];
		if (option->value && !value)
			return error_usage("--%s needs a value", option->name);
		TRY(option->read(options, value));
	}
	return NULL;
}

struct error *blk_options_read(int argc, char **argv, struct server_options *options,
			       enum blk_command *command)
{
	int ways;

	*options = (struct server_options){
	    .fd = -1,
	    .slots = VHOST_USER_SLOTS_MAX,
	    .disk = {.name = "disk", .serial = "disk", .queues = 1, .file = {.lock = true}},
	};
	options->disk.file.later = true;
	*command = BLK_COMMAND_SERVE;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			*command = BLK_COMMAND_HELP;
		else if (strcmp(argv[i], "--version") == 0)
			*command = BLK_COMMAND_VERSION;
		else
			continue;
		return NULL;
	}
	TRY(read_all(argc, argv, options));
	if (!options->disk.file.path)
		return error_usage("--file is missing: the disk");
	ways = !!options->listen + !!options->connect + (options->fd >= 0);
	if (ways != 1)
		return error_usage("%s of --socket, --connect and --fd is needed",
				   ways ? "only one" : "one");
	options->disk.name = options->disk.serial;
	return NULL;
}
