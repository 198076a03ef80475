/* SPDX-License-Identifier: BSD-2-Clause */
/* Reads what the process holds, process_memory.h. The kernel is trusted; unknown lines are passed
 * over. */
#include "control/process_memory.h"

#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "base/checked.h"

/* A mapping inside a range is the guest's. */
static int is_guest(const struct smaps_parser *parser, uint64_t start, uint64_t end)
{
	for (size_t i = 0; i < parser->count; i++)
		if (ranges_overlap(parser->ranges[i].start, parser->ranges[i].size, start,
				   end - start))
			return 1;
	return 0;
}

/* "Rss:      12 kB": adds the bytes to *@sum if @line is the field @name. */
static void add_field(const char *line, const char *name, uint64_t *sum)
{
	size_t length = strlen(name);
	uint64_t kib;

	if (strncmp(line, name, length) == 0 && line[length] == ':' &&
	    sscanf(line + length + 1, "%" SCNu64, &kib) == 1)
		*sum += KIB(kib);
}

void smaps_parse_line(struct smaps_parser *parser, const char *line, struct process_memory *memory)
{
	uint64_t start, end;

	/* A mapping's first line starts with its addresses in lower-case hexadecimal, fields with a
	 * capital. */
	if (isxdigit((unsigned char)line[0]) && !isupper((unsigned char)line[0]) &&
	    sscanf(line, "%" SCNx64 "-%" SCNx64, &start, &end) == 2) {
		parser->skip = is_guest(parser, start, end);
		return;
	}
	if (parser->skip)
		return;
	add_field(line, "Rss", &memory->resident);
	add_field(line, "Pss", &memory->proportional);
	add_field(line, "Private_Clean", &memory->private);
	add_field(line, "Private_Dirty", &memory->private);
}

struct error *process_memory_read(const struct process_range *ranges, size_t count,
				  struct process_memory *memory)
{
	struct smaps_parser parser = {.ranges = ranges, .count = count};
	AUTO_FCLOSE FILE *smaps = fopen("/proc/self/smaps", "re");
	AUTO_FCLOSE FILE *status = fopen("/proc/self/status", "re");
	char line[512]; /* longer ones (paths) come in pieces that match nothing */

	memset(memory, 0, sizeof(*memory));
	if (!smaps || !status)
		return error_system(errno, "cannot read /proc/self/smaps");
	while (fgets(line, sizeof(line), smaps))
		smaps_parse_line(&parser, line, memory);
	while (fgets(line, sizeof(line), status))
		add_field(line, "VmPTE", &memory->page_tables);
	return NULL;
}
