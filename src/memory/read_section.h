/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Read sections: readers that never block, and a writer that waits until every reader that began
 * earlier has ended. The scheme is that of the kernel's sleepable RCU: two sets of counters, of
 * which readers use the current one; the writer drains the other set, makes it current, and drains
 * the first.
 */
#ifndef GODWIT_MEMORY_READ_SECTION_H
#define GODWIT_MEMORY_READ_SECTION_H

#include <stdbool.h>
#include <stdint.h>

#define READ_SECTION_STRIPES 16 /* threads are spread over these so that counters do not bounce */

struct read_sections {
	uint32_t current; /* 0 or 1 */
	struct {
		uint64_t begun[2];
		uint64_t ended[2];
	} __attribute__((aligned(64))) stripes[READ_SECTION_STRIPES];
};

/* Zeroed memory is a valid start. The token goes to read_section_end, on any thread. */
int read_section_begin(struct read_sections *sections);
void read_section_end(struct read_sections *sections, int token);
/*
 * Waits until all sections that began before the call ended, at most @timeout_ns; false on
 * time-out. What the caller stored before the call is seen by every section that begins after it.
 * One caller at a time.
 */
bool read_sections_wait(struct read_sections *sections, int64_t timeout_ns);

#endif
