/* SPDX-License-Identifier: BSD-2-Clause */
/* `godwit memory VM`: the guest memory map, what the host holds for it, and the budget of KVM's
 * slots. */
#include <inttypes.h>
#include <string.h>

#include "cli/command_table.h"
#include "cli/vm.h"

static const struct cli_option options[] = {
    {"json", CLI_FLAG, NULL, "print JSON, sizes in bytes"},
    {},
};

static const char *number(uint64_t value, char text[24])
{
	snprintf(text, 24, "%" PRIu64, value);
	return text;
}

static void print_regions(json_t *regions)
{
	struct table table;
	json_t *region;
	size_t index;

	table_start(&table, "REGION", ">ADDRESS", ">SIZE", ">PLUGGED", ">REQUESTED", ">RESIDENT",
		    "BACKING", ">PAGE", ">BLOCK", ">NODE", "STATE", ">ATTEMPTS", NULL);
	json_array_foreach (regions, index, region) {
		bool elastic = strcmp(json_text(region, "kind"), "elastic") == 0;
		char address[24], node[24], attempts[24];

		snprintf(address, sizeof(address), "0x%" PRIx64, json_u64(region, "address"));
		table_row(&table, json_text(region, "id"), address, human(json_u64(region, "size")),
			  human(json_u64(region, "plugged")),
			  elastic ? human(json_u64(region, "requested")) : NULL,
			  json_is_integer(json_object_get(region, "resident"))
			      ? human(json_u64(region, "resident"))
			      : NULL,
			  json_text(region, "backing"), human(json_u64(region, "page-size")),
			  elastic ? human(json_u64(region, "block-size")) : NULL,
			  number(json_u64(region, "node"), node),
			  elastic ? json_text(region, "reason") : "boot",
			  elastic ? number(json_u64(region, "unplugged-reads") +
					       json_u64(region, "unplugged-writes"),
					   attempts)
				  : NULL);
	}
	table_print(&table, stdout, "");
}

static void print_slots(json_t *slots)
{
	uint64_t limit = json_u64(slots, "limit") ?: json_u64(slots, "maximum");
	uint64_t plugged = json_u64(slots, "plugged"), zero = json_u64(slots, "zero");
	char bar[BAR_WIDTH_MAX + 1];

	printf("\nKVM slots  %s %" PRIu64 " of %" PRIu64 ": %" PRIu64
	       " for plugged memory, %" PRIu64 " showing zeros\n",
	       bar_format(plugged + zero, limit, 32, bar), plugged + zero, limit, plugged, zero);
	printf("           joined to save slots %" PRIu64
	       " times, answered busy for want of slots %" PRIu64 " times\n",
	       json_u64(slots, "merges"), json_u64(slots, "refused"));
	printf("attempts   on unplugged memory: %" PRIu64 " reads and %" PRIu64
	       " writes reached the VMM\n",
	       json_u64(slots, "unplugged-reads"), json_u64(slots, "unplugged-writes"));
}

static void print_back_ends(json_t *back_ends)
{
	json_t *back_end;
	size_t index;

	json_array_foreach (back_ends, index, back_end) {
		printf("back-end   of %s ", json_text(back_end, "id"));
		if (!json_is_true(json_object_get(back_end, "connected")))
			printf("is not there\n");
		else if (json_is_true(json_object_get(back_end, "exact")))
			printf("holds %" PRIu64 " of at most %" PRIu64
			       " pieces: no more than is plugged\n",
			       json_u64(back_end, "slots"), json_u64(back_end, "maximum"));
		else
			printf("holds %" PRIu64 " of at most %" PRIu64
			       " pieces, coarse: with %s that is not plugged\n",
			       json_u64(back_end, "slots"), json_u64(back_end, "maximum"),
			       human(json_u64(back_end, "excess")));
	}
}

static struct error *run_memory(const struct cli_arguments *arguments, int *status)
{
	AUTO_JSON json_t *memory = NULL;
	json_t *summary, *vmm;

	TRY(vm_execute(arguments->positional[0], "godwit-memory", NULL, &memory));
	if (cli_has(arguments, "json")) {
		json_print(json_incref(memory));
		return NULL;
	}
	summary = json_object_get(memory, "summary");
	vmm = json_object_get(memory, "vmm");
	print_regions(json_object_get(memory, "regions"));
	print_slots(json_object_get(memory, "slots"));
	print_back_ends(json_object_get(memory, "back-ends"));
	if (json_u64(memory, "reclaimed"))
		printf("           %s of unplugged memory, filled by another process, were given "
		       "back\n",
		       human(json_u64(memory, "reclaimed")));
	printf("host       holds %s for the guest", human(json_u64(summary, "resident")));
	if (json_u64(summary, "shared"))
		printf(", and shares %s of its snapshot", human(json_u64(summary, "shared")));
	printf("\n");
	printf("VMM        holds %s for itself (%s private) and %s of page tables\n",
	       human(json_u64(vmm, "proportional")), human(json_u64(vmm, "private")),
	       human(json_u64(vmm, "page-tables")));
	return NULL;
}

const struct cli_command cli_memory = {
    .name = "memory",
    .positionals = "VM",
    .minimum = 1,
    .maximum = 1,
    .summary = "Show the memory map of a VM",
    .description =
	"RESIDENT is what the host holds; ATTEMPTS counts the guest's accesses to unplugged\n"
	"memory that reached the VMM. A region whose memory began in an earlier line shows - "
	"there.",
    .options = options,
    .run = run_memory,
};
