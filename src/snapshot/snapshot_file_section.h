/* SPDX-License-Identifier: BSD-2-Clause */
/* The section "godwit/file": who a file is, and what it builds on. Writer and reader share it. */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_FILE_SECTION_H
#define GODWIT_SNAPSHOT_SNAPSHOT_FILE_SECTION_H

#include "base/state.h"
#include "snapshot/snapshot_format.h"

struct snapshot_file_section {
	uint8_t id[SNAPSHOT_ID_SIZE];
	uint8_t base_id[SNAPSHOT_ID_SIZE];	    /* zeros: no base */
	char base_path[SNAPSHOT_BASE_PATH_MAX + 1]; /* "": no base */
};

#define SNAPSHOT_FILE_SECTION_VERSION 1

/* A state_part's visit function for a struct snapshot_file_section. */
void snapshot_file_section_state(void *context, struct state *state);

#endif
