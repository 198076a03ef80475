/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What this process holds for itself, apart from its guest's memory: read from /proc/self/smaps.
 */
#ifndef GODWIT_CONTROL_PROCESS_MEMORY_H
#define GODWIT_CONTROL_PROCESS_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* A range of this process's addresses that is guest memory. */
struct process_range {
	uint64_t start, size; /* bytes */
};

struct process_memory {
	uint64_t
	    resident; /* bytes mapped outside of the guest's ranges, shared pages counted whole */
	uint64_t proportional; /* the same, shared pages divided by their users (PSS) */
	uint64_t private;      /* of these, pages that nobody else maps */
	uint64_t page_tables;  /* host page tables of all mappings, guest memory's included */
};

/*
 * Sums up everything outside of @ranges (at most a few dozen). The kernel walks the page tables of
 * all mappings for this, the guest's too: some milliseconds for each GiB in small pages. Any
 * thread.
 */
struct error *process_memory_read(const struct process_range *ranges, size_t count,
				  struct process_memory *memory) MUST_CHECK;

/* One line of smaps added to *@memory; for process_memory_read and its test. */
struct smaps_parser {
	const struct process_range *ranges;
	size_t count;
	int skip; /* the mapping of the lines that follow is guest memory */
};
void smaps_parse_line(struct smaps_parser *parser, const char *line, struct process_memory *memory);

#endif
