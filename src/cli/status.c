/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit status VM`: is it running, and what is it made of. */
#include <string.h>

#include "base/clock.h"
#include "cli/command_table.h"
#include "cli/vm.h"

static const struct cli_option options[] = {
    {"json", CLI_FLAG, NULL,
     "print JSON: the state, the restore, the migration, the\nstatistics and the devices"},
    {},
};

/* What became of the guest's driver, from the bits of the device status. */
static const char *driver_state(const json_t *device)
{
	bool driver_ok = false;
	json_t *bit;
	size_t index;

	json_array_foreach (json_object_get(device, "status"), index, bit) {
		if (strcmp(json_string_value(bit) ?: "", "needs-reset") == 0)
			return "needs reset";
		driver_ok |= strcmp(json_string_value(bit) ?: "", "driver-ok") == 0;
	}
	return driver_ok ? "ok" : "none";
}

static void print_devices(json_t *devices)
{
	struct table table;
	json_t *device;
	size_t index;

	table_start(&table, "DEVICE", "TYPE", "DRIVER", ">VIOLATIONS", "LAST VIOLATION", NULL);
	json_array_foreach (devices, index, device) {
		char violations[24];

		snprintf(violations, sizeof(violations), "%d", (int)json_u64(device, "violations"));
		table_row(&table, json_text(device, "id"), json_text(device, "type"),
			  driver_state(device), violations,
			  json_string_value(json_object_get(device, "last-violation")));
	}
	table_print(&table, stdout, "  ");
}

/* Of devices whose work another process does. */
static void print_back_ends(json_t *devices)
{
	json_t *device;
	size_t index;

	json_array_foreach (devices, index, device) {
		const json_t *back_end = json_object_get(device, "back-end");
		const char *trouble = json_string_value(json_object_get(back_end, "trouble"));

		if (!back_end)
			continue;
		printf("back-end   of %s, at %s: %s\n", json_text(device, "id"),
		       json_text(back_end, "socket"),
		       json_is_true(json_object_get(back_end, "connected")) ? "connected"
		       : trouble					    ? trouble
									    : "not there");
	}
}

/* How long after the start of the restore; nothing for a clock that does not stand yet. */
static void print_clock(const json_t *restore, const char *what, const char *key)
{
	if (json_object_get(restore, key))
		printf(", %s after %.1f ms", what,
		       (double)json_u64(restore, key) / (double)NS_PER_MS);
}

static void print_restore(const json_t *restore)
{
	if (!json_is_true(json_object_get(restore, "restored")))
		return;
	printf("restored   first instruction after %.1f ms",
	       (double)json_u64(restore, "started-ns") / (double)NS_PER_MS);
	if (json_object_get(restore, "answer"))
		print_clock(restore, json_text(restore, "answer"), "answer-ns");
	print_clock(restore,
		    json_is_true(json_object_get(restore, "clone")) ? "everything verified"
								    : "everything there",
		    "resident-ns");
	printf("\n");
	if (!json_is_true(json_object_get(restore, "resident")))
		printf("           %s of %s %s\n", human(json_u64(restore, "done")),
		       human(json_u64(restore, "total")),
		       json_is_true(json_object_get(restore, "clone")) ? "verified" : "there");
}

/* One that is under way, or was not concluded well; of one that came, only until it is here. */
static void print_migration(const json_t *migration)
{
	const json_t *outgoing = json_object_get(migration, "outgoing");
	const json_t *incoming = json_object_get(migration, "incoming");

	if (outgoing) {
		printf("migration  to %s: %s\n", json_text(outgoing, "uri"),
		       json_text(outgoing, "state-text"));
		printf("           round %d, %s sent, %s/s\n", (int)json_u64(outgoing, "round"),
		       human(json_u64(outgoing, "sent")), human(json_u64(outgoing, "send-rate")));
	}
	if (json_object_get(outgoing, "why"))
		printf("           %s\n", json_text(outgoing, "why"));
	if (json_object_get(outgoing, "error"))
		printf("           it failed: %s\n", json_text(outgoing, "error"));
	if (incoming && strcmp(json_text(incoming, "state"), "RUNNING") != 0)
		printf("migration  from another host: %s, %s received\n",
		       json_text(incoming, "state-text"), human(json_u64(incoming, "received")));
}

static struct error *run_status(const struct cli_arguments *arguments, int *status)
{
	AUTO_QMP_CLIENT struct qmp_client *client = NULL;
	AUTO_JSON json_t *state = NULL;
	AUTO_JSON json_t *statistics = NULL;
	AUTO_JSON json_t *devices = NULL;
	AUTO_JSON json_t *restore = NULL;
	AUTO_JSON json_t *migration = NULL;
	json_t *memory, *guest;

	TRY(vm_connect(arguments->positional[0], &client));
	TRY(qmp_client_execute(client, "query-status", NULL, &state));
	TRY(qmp_client_execute(client, "godwit-statistics", NULL, &statistics));
	TRY(qmp_client_execute(client, "godwit-devices", NULL, &devices));
	TRY(qmp_client_execute(client, "godwit-restore", NULL, &restore));
	TRY(qmp_client_execute(client, "godwit-migration", NULL, &migration));
	if (cli_has(arguments, "json")) {
		json_print(json_pack(
		    "{s:O,s:O,s:O,s:O,s:O,s:O}", "status", json_object_get(state, "status"),
		    "running", json_object_get(state, "running"), "restore", restore, "migration",
		    migration, "statistics", statistics, "devices", devices));
		return NULL;
	}
	memory = json_object_get(statistics, "memory");
	guest = json_object_get(statistics, "guest");
	printf("name       %s\n", json_text(statistics, "name"));
	printf("status     %s\n", json_text(state, "status"));
	printf("process    %d\n", (int)json_u64(statistics, "pid"));
	printf("cpus       %zu\n", json_array_size(json_object_get(statistics, "cpus")));
	printf("memory     %s boot, %s of %s elastic plugged\n", human(json_u64(memory, "boot")),
	       human(json_u64(memory, "plugged")), human(json_u64(memory, "maximum")));
	printf("host       holds %s for the guest, %s for the VMM\n",
	       human(json_u64(memory, "resident")),
	       human(json_u64(json_object_get(memory, "vmm"), "proportional")));
	if (json_object_get(guest, "total-memory"))
		printf("guest      says %s available of %s\n",
		       human(json_u64(guest, "available-memory")),
		       human(json_u64(guest, "total-memory")));
	print_restore(restore);
	print_migration(migration);
	printf("devices\n");
	print_back_ends(devices);
	print_devices(devices);
	return NULL;
}

const struct cli_command cli_status = {
    .name = "status",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Show the state of a VM and its devices",
    .description = "VIOLATIONS counts how often the guest broke a rule of a device. Of a restored\n"
		   "VM, how long after the start of the restore its guest's first instruction,\n"
		   "the first answer that was asked for, and the last of its memory came.",
    .options = options,
    .run = run_status,
};
