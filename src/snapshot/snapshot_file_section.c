/* SPDX-License-Identifier: BSD-2-Clause */
/* The section "godwit/file", snapshot_file_section.h. What is loaded comes from a file. */
#include "snapshot/snapshot_file_section.h"

#include <string.h>

#include "snapshot/snapshot_path.h"

void snapshot_file_section_state(void *context, struct state *state)
{
	struct snapshot_file_section *section = context;
	size_t length = strnlen(section->base_path, SNAPSHOT_BASE_PATH_MAX);

	state_same(state, "page-size", SNAPSHOT_PAGE_SIZE);
	state_same(state, "chunk-size", SNAPSHOT_CHUNK_SIZE);
	state_buffer(state, "id", section->id, sizeof(section->id));
	state_buffer(state, "base-id", section->base_id, sizeof(section->base_id));
	length = state_count(state, "base-path-length", (uint32_t)length, SNAPSHOT_BASE_PATH_MAX);
	state_buffer(state, "base-path", section->base_path, length);
	section->base_path[length] = '\0';
	state_check(state, snapshot_path_is_printable(section->base_path, length), "base-path",
		    "has control characters");
}
