/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit list`: the VMs of the run directory, one a line. */
#include "cli/command_table.h"
#include "cli/vm.h"

static const struct cli_option options[] = {
    {"json", CLI_FLAG, NULL, "print JSON"},
    {},
};

/* What VM @name says about itself, or {name, status: "unreachable"}. */
static json_t *ask(const struct run_listing *listing)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	json_t *statistics = NULL;
	AUTO_ERROR struct error *error =
	    vm_connect_within(listing->name, VM_VIEW_TIMEOUT_NS, &client);

	if (!error)
		error = qmp_client_execute(client, "godwit-statistics", NULL, &statistics);
	if (error)
		return json_pack("{s:s,s:i,s:s,s:s}", "name", listing->name, "pid",
				 (int)listing->pid, "status", "unreachable", "error",
				 error_message(error));
	return statistics;
}

static void print_table(json_t *list)
{
	struct table table;
	json_t *vm;
	size_t index;

	table_start(&table, "NAME", "STATUS", ">PID", ">CPUS", ">BOOT", ">PLUGGED", ">MAXIMUM",
		    ">RESIDENT", NULL);
	json_array_foreach (list, index, vm) {
		json_t *memory = json_object_get(vm, "memory");
		char pid[16], cpus[16];

		snprintf(pid, sizeof(pid), "%d", (int)json_u64(vm, "pid"));
		snprintf(cpus, sizeof(cpus), "%zu", json_array_size(json_object_get(vm, "cpus")));
		table_row(&table, json_text(vm, "name"), json_text(vm, "status"), pid,
			  memory ? cpus : NULL, memory ? human(json_u64(memory, "boot")) : NULL,
			  memory ? human(json_u64(memory, "plugged")) : NULL,
			  memory ? human(json_u64(memory, "maximum")) : NULL,
			  memory ? human(json_u64(memory, "resident")) : NULL);
	}
	table_print(&table, stdout, "");
}

static struct error *run_list(const struct cli_arguments *arguments, int *status)
{
	struct run_listing *listings = NULL;
	AUTO_JSON json_t *list = json_array();
	size_t count = 0;

	TRY(run_directory_list(&listings, &count));
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, ask(&listings[i]));
	run_listings_free(listings, count);
	if (cli_has(arguments, "json"))
		json_print(json_incref(list));
	else
		print_table(list);
	return NULL;
}

const struct cli_command cli_list = {
    .name = "list",
    .positionals = "",
    .summary = "List the running VMs",
    .description =
	"MAXIMUM and PLUGGED are of elastic memory; RESIDENT is what the host holds for the\n"
	"guest.",
    .options = options,
    .run = run_list,
};
