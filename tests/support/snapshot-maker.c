/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Makes a snapshot file of raw images, through the library's writer:
 *
 *	snapshot-maker [--direct] OUT [--base FILE] NAME=IMAGE...
 *
 * The memory layout has the blocks one behind the other from address 0; a block whose name starts
 * with "hot" is elastic, with every second 2 MiB plugged. Zeros are left out, and with a base what
 * is as it is there.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/checked.h"
#include "snapshot/snapshot_file.h"
#include "snapshot/snapshot_parts.h"
#include "snapshot/snapshot_writer.h"

struct image {
	const uint8_t *bytes;
	uint64_t size;
};

static void check(struct error *error)
{
	if (!error)
		return;
	fprintf(stderr, "snapshot-maker: %s\n", error_message(error));
	error_free(error);
	exit(1);
}

static struct image open_image(const char *path)
{
	int fd = open(path, O_RDONLY);
	struct stat status;
	struct image image;

	if (fd < 0 || fstat(fd, &status) < 0) {
		perror(path);
		exit(1);
	}
	image.size = (uint64_t)status.st_size;
	image.bytes = mmap(NULL, image.size, PROT_READ, MAP_PRIVATE, fd, 0);
	close(fd);
	return image;
}

static void add_part(struct snapshot_writer *writer, const struct state_part *part)
{
	struct state *state = state_save_begin(true);

	check(state_visit(state, part));
	check(
	    snapshot_writer_add_section(writer, part->name, part->instance, part->version, state));
	state_free(state);
}

static void add_parts(struct snapshot_writer *writer, const struct snapshot_block_plan *plans,
		      uint32_t count)
{
	struct snapshot_memory *memory = calloc(1, sizeof(*memory));
	struct state_part part = {.name = SNAPSHOT_SECTION_MEMORY,
				  .version = SNAPSHOT_MEMORY_VERSION,
				  .visit = snapshot_memory_state,
				  .context = memory};
	struct snapshot_plugged plugged = {.unit = MIB(2)};
	uint64_t bits[1024], address = 0;

	memset(bits, 0x55, sizeof(bits));
	for (uint32_t i = 0; i < count; i++) {
		struct snapshot_range *range = &memory->ranges[memory->count++];

		memcpy(range->block, plans[i].name, sizeof(range->block));
		range->address = address;
		range->size = plans[i].size;
		address += range->size;
	}
	add_part(writer, &part);
	part.name[0] = '\0';
	strcpy(part.name, SNAPSHOT_SECTION_PLUGGED);
	part.visit = snapshot_plugged_state;
	part.context = &plugged;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t units = plans[i].size / plugged.unit;

		if (strncmp(plans[i].name, "hot", 3) != 0)
			continue;
		memcpy(plugged.block, plans[i].name, sizeof(plugged.block));
		plugged.size = plans[i].size;
		plugged.bits = calloc(units / 64 + 1, 8);
		memcpy(plugged.bits, bits, units / 64 * 8 + 8);
		if (units % 64)
			plugged.bits[units / 64] &= (UINT64_C(1) << (units % 64)) - 1;
		else
			plugged.bits[units / 64] = 0;
		add_part(writer, &part);
		free(plugged.bits);
		part.instance++;
	}
	free(memory);
}

static bool is_zero(const uint8_t *page)
{
	return page[0] == 0 && memcmp(page, page + 1, SNAPSHOT_PAGE_SIZE - 1) == 0;
}

static void write_chunk(struct snapshot_writer *writer, uint32_t index, const struct image *image,
			uint64_t chunk, const struct snapshot_block *old)
{
	static _Alignas(4096) uint8_t before[SNAPSHOT_CHUNK_SIZE], copy[SNAPSHOT_PAGE_SIZE];
	const uint8_t *bytes = image->bytes + chunk * SNAPSHOT_CHUNK_SIZE;
	size_t size = MIN(image->size - chunk * SNAPSHOT_CHUNK_SIZE, (uint64_t)SNAPSHOT_CHUNK_SIZE);
	bool compare =
	    old && chunk < snapshot_block_chunks(old) && snapshot_chunk_size(old, chunk) == size;
	uint64_t stored = 0, inherited = 0;

	if (compare && snapshot_chunk_read(old, chunk, before))
		exit(1);
	for (size_t at = 0; at < size; at += SNAPSHOT_PAGE_SIZE) {
		uint64_t bit = UINT64_C(1) << at / SNAPSHOT_PAGE_SIZE;

		if (is_zero(bytes + at))
			continue;
		if (compare && !memcmp(before + at, bytes + at, SNAPSHOT_PAGE_SIZE)) {
			inherited |= bit;
			continue;
		}
		stored |= bit;
		memcpy(copy, bytes + at, sizeof(copy)); /* aligned, for O_DIRECT */
		if (pwrite(snapshot_writer_fd(writer), copy, sizeof(copy),
			   (off_t)snapshot_writer_page_offset(writer, index,
							      chunk * SNAPSHOT_CHUNK_PAGES +
								  at / SNAPSHOT_PAGE_SIZE)) !=
		    sizeof(copy)) {
			perror("snapshot-maker: pwrite");
			exit(1);
		}
	}
	snapshot_writer_set_chunk(writer, index, chunk, stored, inherited,
				  snapshot_checksum(bytes, size));
}

int main(int argc, char **argv)
{
	struct snapshot_writer_options options = {};
	struct snapshot_block_plan plans[16] = {};
	struct snapshot_file *base = NULL;
	struct snapshot_writer *writer;
	struct image images[16];
	uint32_t count = 0;

	for (int i = 1; i < argc; i++) {
		const char *equals = strchr(argv[i], '=');

		if (strcmp(argv[i], "--direct") == 0) {
			options.direct = true;
		} else if (strcmp(argv[i], "--base") == 0 && i + 1 < argc) {
			check(snapshot_file_open(argv[++i], NULL, &base));
		} else if (!options.path) {
			options.path = argv[i];
		} else if (equals && count < ARRAY_SIZE(plans)) {
			images[count] = open_image(equals + 1);
			plans[count].size = images[count].size;
			memcpy(plans[count++].name, argv[i], (size_t)(equals - argv[i]));
		}
	}
	options.base = base;
	check(snapshot_writer_create(&options, plans, count, &writer));
	add_parts(writer, plans, count);
	for (uint32_t i = 0; i < count; i++)
		for (uint64_t chunk = 0; chunk * SNAPSHOT_CHUNK_SIZE < images[i].size; chunk++)
			write_chunk(writer, i, &images[i], chunk,
				    base ? snapshot_file_block(base, plans[i].name) : NULL);
	check(snapshot_writer_finish(writer));
	snapshot_writer_destroy(writer);
	snapshot_file_close(base);
	return 0;
}
