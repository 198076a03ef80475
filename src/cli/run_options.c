/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The options of `godwit run`, run_options.h. Runs once, before any thread; the operator controls
 * all text. Rules that concern one option's text are here, those of the machine as a whole in
 * machine_config.c, those of a device's text in the device's own constructor.
 */
#include "cli/run_options.h"

#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/size.h"
#include "machine/machine_config.h"

const struct cli_option run_options[] = {
    {"name", CLI_REQUIRED, "NAME", "name of the VM (default: vm-PID)"},
    {"kernel", CLI_REQUIRED, "FILE", "kernel to boot: bzImage, or ELF with a PVH note"},
    {"initrd", CLI_REQUIRED, "FILE", "initial RAM disk"},
    {"cmdline", CLI_REQUIRED, "TEXT", "kernel command line"},
    {"cpus", CLI_REQUIRED, "N", "processors, 1 to 64 (default: 1)"},
    {"cpu", CLI_REQUIRED, "MODEL",
     "which processor: host (default), or a level for\n"
     "guests that move, x86-64-v1 to x86-64-v4; each\n"
     "[,+FEATURE][,-FEATURE]…"},
    {"memory", CLI_REQUIRED, "SPEC",
     "boot memory: SIZE[,backing=memfd|hugetlb|\n"
     "hugetlb-2M|hugetlb-1G|anon|file:PATH][,node=N]\n"
     "[,host-node=N][,prealloc=on]; once for each node"},
    {"elastic", CLI_REQUIRED, "SPEC",
     "memory that grows and shrinks: id=ID,max=SIZE\n"
     "[,size=SIZE][,block=SIZE][,node=N][,backing=…]\n"
     "[,host-node=N][,prealloc=on][,auto=MIN..MAX]"},
    {"disk", CLI_REQUIRED, "SPEC",
     "disk: PATH[,readonly=on][,direct=on][,queues=N]\n"
     "[,cache=writeback|writethrough][,discard=off]\n"
     "[,serial=TEXT][,lock=off][,id=ID]; or that of a\n"
     "back-end: vhost-user:SOCKET[,queues=N]\n"
     "[,queue-size=N][,listen=on]\n"
     "[,postcopy=table|slots][,id=ID]"},
    {"fs", CLI_REQUIRED, "SPEC",
     "shared folder of a back-end: vhost-user:SOCKET,\n"
     "tag=TAG[,queues=N][,queue-size=N][,listen=on]\n"
     "[,postcopy=table|slots][,id=ID]"},
    {"vhost-user", CLI_REQUIRED, "SPEC",
     "any device of a back-end: socket=SOCKET,\n"
     "type=NAME|NUMBER[,queues=N][,queue-size=N]\n"
     "[,config-size=N][,listen=on]\n"
     "[,postcopy=table|slots][,id=ID]"},
    {"net", CLI_REQUIRED, "SPEC",
     "network: tap:INTERFACE[,mac=MAC][,queues=N]\n"
     "[,mtu=N][,id=ID]; or that of a back-end:\n"
     "vhost-user:SOCKET[,mac=MAC][,queues=N]\n"
     "[,queue-size=N][,listen=on]\n"
     "[,postcopy=table|slots][,id=ID]"},
    {"rdma", CLI_REQUIRED, "SPEC",
     "RDMA adapter: net=ID[,id=ID], whose packets are\n"
     "frames of --net tap:…,id=ID; or by a socket:\n"
     "udp:ADDRESS[,net=ID][,id=ID], of which ADDRESS\n"
     "is this host's and that of --net"},
    {"vsock", CLI_REQUIRED, "SPEC", "sockets to the host: cid=N,path=PATH[,id=ID]"},
    {"console", CLI_REQUIRED, "SPEC", "hvc0: tty, pty, null, file:PATH or unix:PATH"},
    {"serial", CLI_REQUIRED, "SPEC",
     "ttyS0: as --console (default: tty unless a\n"
     "--console is given, else null)"},
    {"rng", CLI_OPTIONAL, "id=ID", "name the source of randomness, which is always there"},
    {"balloon", CLI_OPTIONAL, "SPEC",
     "balloon: [statistics=SECONDS][,reporting=off]\n"
     "[,deflate-on-oom=off][,committed=release][,id=ID]"},
    {"on-crash", CLI_REQUIRED, "ACTION",
     "when the guest crashes: pause (default), reset\n"
     "or exit"},
    {"no-reboot", CLI_FLAG, NULL, "end when the guest resets"},
    {"paused", CLI_FLAG, NULL, "do not start the guest yet; 'godwit resume' does"},
    {"numa-distance", CLI_REQUIRED, "A,B,N", "distance from node A to B, 10 to 254 (default: 20)"},
    {"slots", CLI_REQUIRED, "N", "use at most N of KVM's memory slots"},
    {"incoming", CLI_REQUIRED, "URI",
     "wait for a VM that 'godwit migrate' sends:\n"
     "tcp:HOST:PORT, unix:PATH, vsock:CID:PORT,\n"
     "fd:N[+N…] or exec:COMMAND; of the others only\n"
     "what belongs to this host"},
    {"tls", CLI_REQUIRED, "DIR", "certificates, for --incoming"},
    {"take-over", CLI_REQUIRED, "FD", "what 'godwit update' says to the program it starts"},
    {"log", CLI_REQUIRED, "LEVEL", "error, warning (default), info or debug"},
    {"pid-file", CLI_REQUIRED, "FILE", "write the process id to FILE"},
    {},
};

static struct error *copy_text(char **to, const char *from)
{
	if (!from)
		return NULL;
	*to = strdup(from);
	return *to ? NULL : error_system(ENOMEM, "options");
}

/* SIZE[,backing=…][,node=N]… */
static struct error *read_memory(const char *text, struct machine_config *config)
{
	struct machine_memory *memory = &config->memory[config->memory_count];
	AUTO_OPTIONS struct options *options = NULL;
	const char *size;
	uint64_t node = 0;

	if (config->memory_count == MACHINE_NODES_MAX)
		return error_usage("more than %d: one for each NUMA node", MACHINE_NODES_MAX);
	TRY(options_parse(text, "size", &options));
	size = options_take(options, "size");
	if (!size)
		return error_usage("'%s' gives no size: begin with it, as 512M", text);
	config->memory_count++; /* from here on machine_config_clear releases the backing */
	memory->backing.host_node = -1;
	TRY(size_parse(size, &memory->size));
	TRY(ram_backing_options_take(options, &memory->backing));
	TRY(options_take_number(options, "node", MACHINE_NODES_MAX - 1, &node));
	memory->node = (uint32_t)node;
	return options_finish(options);
}

/* auto=MIN..MAX */
static struct error *read_auto(const char *text, struct machine_elastic *elastic)
{
	AUTO_FREE char *minimum = strdup(text);
	char *dots = minimum ? strstr(minimum, "..") : NULL;

	if (!dots)
		return error_usage("auto=%s is not a range: write auto=MIN..MAX, as auto=0..4G",
				   text);
	*dots = '\0';
	TRY(error_prefix(size_parse(minimum, &elastic->auto_minimum), "auto"));
	TRY(error_prefix(size_parse(dots + 2, &elastic->auto_maximum), "auto"));
	elastic->automatic = true;
	return NULL;
}

static struct error *read_elastic(const char *text, struct machine_config *config)
{
	struct machine_elastic *elastic = &config->elastic[config->elastic_count];
	AUTO_OPTIONS struct options *options = NULL;
	const char *id, *maximum, *block, *range;
	uint64_t node = 0;

	if (config->elastic_count == MACHINE_ELASTIC_MAX)
		return error_usage("more than %d devices", MACHINE_ELASTIC_MAX);
	TRY(options_parse(text, NULL, &options));
	id = options_take(options, "id");
	if (!id)
		return error_usage(
		    "'%s' gives no id: add id=NAME, by which 'godwit resize' knows it", text);
	TRY(machine_identifier_check("id", id, sizeof(elastic->id) - 1));
	snprintf(elastic->id, sizeof(elastic->id), "%s", id);
	config->elastic_count++; /* from here on machine_config_clear releases the backing */
	elastic->backing.host_node = -1;
	maximum = options_take(options, "max");
	if (!maximum)
		return error_usage("'%s' gives no max: add max=SIZE, the most it may ever hold",
				   text);
	TRY(error_prefix(size_parse(maximum, &elastic->maximum), "max"));
	TRY(options_take_size(options, "size", &elastic->size));
	block = options_take(options, "block");
	if (block) {
		TRY(error_prefix(size_parse(block, &elastic->block), "block"));
		if (!elastic->block) /* which would mean the default */
			return error_usage("block=%s is not a power of two", block);
	}
	TRY(options_take_number(options, "node", MACHINE_NODES_MAX - 1, &node));
	elastic->node = (uint32_t)node;
	TRY(ram_backing_options_take(options, &elastic->backing));
	range = options_take(options, "auto");
	if (range)
		TRY(read_auto(range, elastic));
	return options_finish(options);
}

/* A,B,N: both directions, unless the other one is given too. */
static struct error *read_distance(const char *text, struct machine_config *config,
				   bool given[MACHINE_NODES_MAX][MACHINE_NODES_MAX])
{
	unsigned int a, b, distance;
	char rest;

	if (sscanf(text, "%2u,%2u,%3u%c", &a, &b, &distance, &rest) != 3)
		return error_usage("'%s' is not A,B,N: two node numbers and a distance", text);
	if (a >= MACHINE_NODES_MAX || b >= MACHINE_NODES_MAX)
		return error_usage("'%s': node numbers are 0 to %d", text, MACHINE_NODES_MAX - 1);
	if (distance < MACHINE_DISTANCE_MIN || distance > MACHINE_DISTANCE_MAX)
		return error_usage("'%s': a distance is %d to %d", text, MACHINE_DISTANCE_MIN,
				   MACHINE_DISTANCE_MAX);
	if (given[a][b])
		return error_usage("the distance from %u to %u is given twice", a, b);
	given[a][b] = true;
	config->distance[a][b] = (uint8_t)distance;
	if (!given[b][a])
		config->distance[b][a] = (uint8_t)distance;
	return NULL;
}

static struct error *add_device(struct machine_config *config, const char *kind, const char *text)
{
	struct machine_device_config *device = &config->devices[config->device_count];

	if (config->device_count == MACHINE_DEVICES_MAX)
		return error_usage("more than %d devices", MACHINE_DEVICES_MAX);
	device->kind = kind;
	device->text = strdup(text ?: "");
	if (!device->text)
		return error_system(ENOMEM, "options");
	config->device_count++;
	return NULL;
}

/* Everything that may be given several times, in the order given: it decides about addresses. */
static struct error *read_lists(const struct cli_arguments *arguments,
				struct machine_config *config)
{
	static const char *const kinds[] = {"disk",    "net", "vsock",	    "console", "rng",
					    "balloon", "fs",  "vhost-user", "rdma"};
	bool given[MACHINE_NODES_MAX][MACHINE_NODES_MAX] = {};

	for (int i = 0; i < arguments->given_count; i++) {
		const char *name = arguments->given[i].option->name;
		const char *value = arguments->given[i].value;

		if (strcmp(name, "memory") == 0)
			TRY(error_prefix(read_memory(value, config), "--memory"));
		else if (strcmp(name, "elastic") == 0)
			TRY(error_prefix(read_elastic(value, config), "--elastic"));
		else if (strcmp(name, "numa-distance") == 0)
			TRY(error_prefix(read_distance(value, config, given), "--numa-distance"));
		for (size_t kind = 0; kind < ARRAY_SIZE(kinds); kind++)
			if (strcmp(name, kinds[kind]) == 0)
				TRY(add_device(config, kinds[kind], value));
	}
	return NULL;
}

static struct error *read_on_crash(const char *text, enum machine_on_crash *action)
{
	if (strcmp(text, "pause") == 0)
		*action = ON_CRASH_PAUSE;
	else if (strcmp(text, "reset") == 0)
		*action = ON_CRASH_RESET;
	else if (strcmp(text, "exit") == 0)
		*action = ON_CRASH_EXIT;
	else
		return error_usage("--on-crash: '%s' is none of pause, reset, exit", text);
	return NULL;
}

/* Standard input and output are one terminal: only one thing can have it. */
static struct error *check_terminal(const struct machine_config *config)
{
	int users = strcmp(config->serial, "tty") == 0;

	for (uint32_t i = 0; i < config->device_count; i++)
		if (strcmp(config->devices[i].kind, "console") == 0)
			users += strcmp(config->devices[i].text, "tty") == 0 ||
				 strncmp(config->devices[i].text, "tty,", 4) == 0;
	if (users > 1)
		return error_usage(
		    "only one of --serial and --console can be tty: give the others pty, "
		    "null, file:PATH or unix:PATH");
	return NULL;
}

struct error *run_options_read(const struct cli_arguments *arguments, struct machine_config *config)
{
	const char *serial = cli_has(arguments, "console") ? "null" : "tty";
	uint64_t cpus = 1, slots = 0;
	char name[32];

	memset(config, 0, sizeof(*config));
	snprintf(name, sizeof(name), "vm-%d", getpid());
	TRY(copy_text(&config->name, cli_value(arguments, "name", name)));
	TRY(copy_text(&config->kernel, cli_value(arguments, "kernel", NULL)));
	TRY(copy_text(&config->initrd, cli_value(arguments, "initrd", NULL)));
	TRY(copy_text(&config->cmdline, cli_value(arguments, "cmdline", NULL)));
	TRY(copy_text(&config->cpu, cli_value(arguments, "cpu", NULL)));
	TRY(copy_text(&config->serial, cli_value(arguments, "serial", serial)));
	if (!config->kernel)
		return error_usage("--kernel is missing: give the kernel to boot");
	TRY(error_prefix(number_parse(cli_value(arguments, "cpus", "1"), UINT32_MAX, &cpus),
			 "--cpus"));
	config->cpus = (uint32_t)cpus;
	TRY(error_prefix(number_parse(cli_value(arguments, "slots", "0"), UINT32_MAX, &slots),
			 "--slots"));
	config->slots_limit = (uint32_t)slots;
	TRY(read_on_crash(cli_value(arguments, "on-crash", "pause"), &config->on_crash));
	config->no_reboot = cli_has(arguments, "no-reboot");
	config->paused = cli_has(arguments, "paused");
	TRY(read_lists(arguments, config));
	TRY(check_terminal(config));
	return machine_config_check(config);
}

struct error *run_options_log_level(const struct cli_arguments *arguments, enum log_level *level)
{
	static const char *const names[] = {"error", "warning", "info", "debug"};
	const char *text = cli_value(arguments, "log", "warning");

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(names[i], text) == 0) {
			*level = (enum log_level)i;
			return NULL;
		}
	}
	return error_usage("--log: '%s' is none of error, warning, info, debug", text);
}
