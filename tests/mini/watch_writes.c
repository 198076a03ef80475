/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Follows the memory of a running machine by its log of writes (memory/dirty_log.h), as a migration
 * does, and compares:
 *
 *	watch_writes KERNEL CMDLINE DISK SERIAL
 *
 * While the guest runs, what the log reports is copied. From time to time the guest is paused, the rest
 * is copied, and the copy must be the guest's memory, byte by byte, wherever memory is plugged; then the
 * log is stopped and started anew, or just goes on. Ends when the guest does. Exit status 0 if all
 * copies were right. Prints how many comparisons there were, how many pages were copied while the
 * guest was paused, and how many there are.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bitmap.h"
#include "base/checked.h"
#include "base/clock.h"
#include "machine/machine.h"
#include "memory/dirty_log.h"

#define PAGE	DIRTY_PAGE_SIZE
#define RUN_MS	5
#define LIVE	6 /* collections between two pauses */
#define ELASTIC MIB(16)

/* The copy of one block. */
struct copy {
	const struct ram_block *block;
	uint8_t *bytes;
	uint64_t *pages; /* reported and not yet copied */
};

struct watch {
	struct machine *machine;
	struct memory_map *map;
	struct dirty_log *log;
	struct copy copies[8];
	size_t count;
	uint64_t last_pages, comparisons;
};

static void fail(struct error *error)
{
	if (!error)
		return;
	fprintf(stderr, "%s\n", error_message(error));
	exit(EXIT_FAILURE);
}

static struct machine *create(char **arguments, struct event_loop *loop)
{
	struct machine_config config = {
	    .cpus = 1, .memory_count = 1, .elastic_count = 1, .device_count = 2, .no_reboot = true};
	struct machine *machine;

	config.memory[0] = (struct machine_memory){
	    .size = MIB(32), .backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1}};
	config.elastic[0] =
	    (struct machine_elastic){.id = "more",
				     .maximum = ELASTIC,
				     .size = ELASTIC,
				     .block = MIB(2),
				     .backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1}};
	config.devices[0] = (struct machine_device_config){.kind = "rng", .text = strdup("")};
	config.devices[1] =
	    (struct machine_device_config){.kind = "disk", .text = strdup(arguments[3])};
	config.name = strdup("writing");
	config.kernel = strdup(arguments[1]);
	config.cmdline = strdup(arguments[2]);
	if (asprintf(&config.serial, "file:%s", arguments[4]) < 0)
		abort();
	fail(machine_create(&config, loop, NULL, NULL, &machine));
	return machine;
}

static void prepare(struct watch *watch)
{
	for (struct memory_region *region = memory_map_first(watch->map); region;
	     region = region->next) {
		struct copy *copy = &watch->copies[watch->count];
		size_t i = 0;

		while (i < watch->count && watch->copies[i].block != region->block)
			i++;
		if (i < watch->count)
			continue;
		copy->block = region->block;
		copy->bytes = calloc(1, region->block->size);
		copy->pages = bitmap_create(dirty_log_words(region->block) * 64);
		if (!copy->bytes || !copy->pages)
			abort();
		watch->count++;
	}
}

/* Copies what the log has, plugged or by now no more: then it reads as something or other. */
static uint64_t copy_pages(struct watch *watch, struct copy *copy)
{
	uint64_t pages = copy->block->size / PAGE, copied = 0;

	fail(dirty_log_collect(watch->log, copy->block, copy->pages));
	for (uint64_t page = bitmap_next_set(copy->pages, 0, pages); page < pages;
	     page = bitmap_next_set(copy->pages, page, pages)) {
		uint64_t end = MIN(bitmap_next_clear(copy->pages, page, pages), page + 256);

		fail(dirty_log_before_copy(watch->log, copy->block, page, end - page));
		memcpy(copy->bytes + page * PAGE, copy->block->host + page * PAGE,
		       (end - page) * PAGE);
		bitmap_clear_range(copy->pages, page, end - page);
		copied += end - page;
	}
	return copied;
}

static void compare_page(struct watch *watch, const struct memory_region *region, uint64_t offset)
{
	uint64_t place = region->block_offset + offset;

	if (!memory_region_all_plugged(region, offset, PAGE))
		return;
	for (size_t i = 0; i < watch->count; i++) {
		const struct copy *copy = &watch->copies[i];

		if (copy->block != region->block ||
		    !memcmp(copy->bytes + place, copy->block->host + place, PAGE))
			continue;
		fprintf(stderr, "a write to 0x%" PRIx64 " was not seen (comparison %" PRIu64 ")\n",
			region->address + offset, watch->comparisons);
		exit(EXIT_FAILURE);
	}
}

static void compare(struct watch *watch)
{
	for (size_t i = 0; i < watch->count; i++)
		watch->last_pages += copy_pages(watch, &watch->copies[i]);
	for (struct memory_region *region = memory_map_first(watch->map); region;
	     region = region->next)
		for (uint64_t offset = 0; offset < region->size; offset += PAGE)
			compare_page(watch, region, offset);
	watch->comparisons++;
}

static void stop(void *context)
{
	event_loop_stop(context);
}

int main(int count, char **arguments)
{
	AUTO_EVENT_LOOP struct event_loop *loop = NULL;
	struct event_timer *timer;
	struct watch watch = {0};

	if (count != 5)
		return 2;
	fail(event_loop_create(&loop));
	fail(event_timer_create(loop, stop, loop, &timer));
	watch.machine = create(arguments, loop);
	watch.map = machine_memory_map(watch.machine);
	watch.log = memory_map_dirty_log(watch.map);
	prepare(&watch);
	fail(machine_start(watch.machine));
	fail(dirty_log_start(watch.log));
	for (int step = 1; machine_state(watch.machine) != MACHINE_SHUTDOWN; step++) {
		event_timer_arm(timer, RUN_MS * NS_PER_MS);
		event_loop_run(loop);
		for (size_t i = 0; i < watch.count; i++)
			copy_pages(&watch, &watch.copies[i]);
		if (step % LIVE)
			continue;
		machine_pause(watch.machine);
		compare(&watch);
		if (step % (4 * LIVE) == 0) {
			dirty_log_stop(watch.log);
			fail(dirty_log_start(watch.log));
		}
		if (machine_state(watch.machine) != MACHINE_SHUTDOWN)
			fail(machine_resume(watch.machine));
	}
	compare(&watch);
	machine_destroy(watch.machine);
	event_timer_destroy(timer);
	for (size_t i = 0; i < watch.count; i++) {
		free(watch.copies[i].bytes);
		free(watch.copies[i].pages);
	}
	printf("comparisons %" PRIu64 "\nlast pages %" PRIu64 "\npages %" PRIu64 "\n",
	       watch.comparisons, watch.last_pages, (uint64_t)((MIB(32) + ELASTIC) / PAGE));
	return EXIT_SUCCESS;
}
