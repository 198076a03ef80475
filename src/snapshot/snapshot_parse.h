/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Reading a file into a struct snapshot_file: what godwit's and QEMU's files have in common
 * (snapshot_parse.c), and what each of them has for itself (snapshot_godwit.c, snapshot_foreign.c).
 * Errors are without the file's name, which the opener puts in front.
 */
#ifndef GODWIT_SNAPSHOT_SNAPSHOT_PARSE_H
#define GODWIT_SNAPSHOT_SNAPSHOT_PARSE_H

#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_stream.h"

/* A block while it is read: what the file's struct snapshot_block points into. */
struct snapshot_parser {
	struct snapshot_stream stream;
	struct snapshot_file *file;
	bool damaged;	      /* as in the options */
	bool mapped_ram;      /* the capability */
	bool based;	      /* the capability */
	bool sequential;      /* the capability: of streams, which come over a channel */
	bool ignore_shared;   /* QEMU's capability x-ignore-shared */
	uint32_t ram_id;      /* the section id of RAM, once it started */
	size_t sections_size; /* bytes of all bodies */
};

/* The frame in front of a section's body. */
struct snapshot_frame {
	uint64_t offset; /* of the type */
	uint8_t type;
	uint32_t id;
	char name[SNAPSHOT_NAME_MAX + 1]; /* START and FULL */
	uint32_t instance, version;	  /* START and FULL */
};

/* Magic, version and configuration; finds out whether the file is foreign. */
struct error *snapshot_parse_configuration(struct snapshot_parser *parser) MUST_CHECK;
/* The type of what comes next and, for a section, the frame. */
struct error *snapshot_parse_frame(struct snapshot_parser *parser,
				   struct snapshot_frame *frame) MUST_CHECK;
struct error *snapshot_parse_footer(struct snapshot_parser *parser,
				    const struct snapshot_frame *frame) MUST_CHECK;
/* The body of a section, @size bytes, and its footer. */
struct error *snapshot_parse_section(struct snapshot_parser *parser,
				     const struct snapshot_frame *frame, uint64_t size) MUST_CHECK;
/* The body of RAM's START: all blocks with their bitmaps, up to the first flags behind them. */
struct error *snapshot_parse_ram(struct snapshot_parser *parser,
				 const struct snapshot_frame *frame) MUST_CHECK;

/* The name and size of one block, of which *@left bytes are left for all; adds it to the file. */
struct error *snapshot_parse_block(struct snapshot_parser *parser, uint64_t *left) MUST_CHECK;
/* The size of all blocks, and room for them. */
struct error *snapshot_parse_ram_size(struct snapshot_parser *parser,
				      const struct snapshot_frame *frame,
				      uint64_t *total) MUST_CHECK;

/* The frame of the next section, which must be of @type, and @name unless that is NULL. */
struct error *snapshot_parse_expect(struct snapshot_parser *parser, uint8_t type, const char *name,
				    struct snapshot_frame *frame) MUST_CHECK;
/* Frame and length of the section @name of our own, whose body must have @size bytes. */
struct error *snapshot_parse_table(struct snapshot_parser *parser, const char *name, uint64_t size,
				   struct snapshot_frame *frame) MUST_CHECK;
/* Who the file is, from its section "godwit/file". */
struct error *snapshot_parse_identity(struct snapshot_parser *parser) MUST_CHECK;

/* Everything behind the configuration. */
struct error *snapshot_parse_godwit(struct snapshot_parser *parser) MUST_CHECK;
struct error *snapshot_parse_foreign(struct snapshot_parser *parser) MUST_CHECK;

#endif
