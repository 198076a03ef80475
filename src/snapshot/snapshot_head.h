/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * What stands in front of the RAM, whether in a file or in a sequential stream: the configuration,
 * and the sections that say who the snapshot is and what the machine's devices were. It grows in
 * memory, with its description, until the first page has its place.
 *
 * Threads: one at a time.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_HEAD_H
#define GODWIT_SNAPSHOT_SNAPSHOT_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/state.h"
#include "snapshot/snapshot_buffer.h"
#include "snapshot/snapshot_format.h"

struct snapshot_file_section;

struct snapshot_head_key {
	char name[SNAPSHOT_NAME_MAX + 1];
	uint32_t instance;
};

struct snapshot_head {
	struct snapshot_buffer bytes;	    /* from the magic number on */
	struct snapshot_buffer description; /* of the sections, as JSON */
	struct snapshot_head_key *keys;	    /* of the sections added */
	uint32_t key_count;
	uint32_t next_section_id;
	bool closed; /* no section can be added any more */
};

/* The configuration with @count @capabilities, and the section @file. @head is all zeros before. */
struct error *snapshot_head_begin(struct snapshot_head *head, const char *const *capabilities,
				  uint32_t count, struct snapshot_file_section *file) MUST_CHECK;
void snapshot_head_clear(struct snapshot_head *head);

/*
 * Adds a section with the bytes and the description of @state (copied). The snapshot has them in
 * this order; all of them together are at most SNAPSHOT_SECTIONS_SIZE_MAX. @name is printable, and
 * new with this @instance.
 */
struct error *snapshot_head_add_section(struct snapshot_head *head, const char *name,
					uint32_t instance, uint32_t version,
					const struct state *state) MUST_CHECK;
/* The same with bytes, described as a row of them. */
struct error *snapshot_head_add_bytes(struct snapshot_head *head, const char *name,
				      uint32_t instance, uint32_t version, const void *bytes,
				      size_t size) MUST_CHECK;

/* For those who write what follows. */

/* The frame in front of a section's body, and the body's length; returns the section's id. */
uint32_t snapshot_head_section_begin(struct snapshot_head *head, struct snapshot_buffer *buffer,
				     const char *name, uint32_t instance, uint32_t version,
				     size_t size);
void snapshot_head_section_end(struct snapshot_buffer *buffer, uint32_t id);
/* The frame in front of RAM's START, and the size of all blocks; returns the section's id. */
uint32_t snapshot_head_ram_begin(struct snapshot_head *head, struct snapshot_buffer *buffer,
				 uint64_t total);
/* Describes a section whose body is its length and then @fields. Names are ours: nothing to escape. */
void snapshot_head_describe(struct snapshot_head *head, const char *name, uint32_t instance,
			    uint32_t version, const struct state_field *fields, size_t count);
/* Whether a section or a block may have this name. */
bool snapshot_head_name_is_good(const char *name);

#endif
