/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Moves a running machine from one to the next within one process, memory and state, again and again
 * until its guest is done:
 *
 *	move_machine KERNEL CMDLINE FOLDER
 *
 * The serial output of machine N goes to FOLDER/N. Exit status 0 if all went well; which the guest
 * has to say for itself. Prints the number of moves.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/clock.h"
#include "machine/machine_state.h"

#define SECTIONS_MAX 512
#define RUN_MS	     40
#define MOVES_MAX    200

struct saved {
	struct {
		struct state_part part;
		void *bytes;
		size_t size;
	} sections[SECTIONS_MAX];
	size_t count;
};

static void fail(struct error *error)
{
	if (!error)
		return;
	fprintf(stderr, "%s\n", error_message(error));
	exit(EXIT_FAILURE);
}

static struct error *keep(void *context, const struct state_part *part, const struct state *state)
{
	struct saved *saved = context;
	size_t size;
	const void *bytes = state_bytes(state, &size);

	if (saved->count == SECTIONS_MAX)
		return error_new(ENOSPC, "too many sections");
	saved->sections[saved->count].part = *part;
	saved->sections[saved->count].size = size;
	saved->sections[saved->count].bytes = malloc(size + 1);
	memcpy(saved->sections[saved->count++].bytes, bytes, size);
	return NULL;
}

static struct machine *create(char **arguments, int number, struct event_loop *loop)
{
	struct machine_config config = {.cpus = 2, .memory_count = 1, .no_reboot = true};
	struct machine *machine;

	config.memory[0] = (struct machine_memory){
	    .size = MIB(32), .backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1}};
	config.name = strdup("moving");
	config.kernel = strdup(arguments[1]);
	config.cmdline = strdup(arguments[2]);
	if (asprintf(&config.serial, "file:%s/%d", arguments[3], number) < 0)
		abort();
	fail(machine_create(&config, loop, NULL, NULL, &machine));
	return machine;
}

/* Both machines have the same regions at the same addresses. */
static void copy_memory(struct machine *from, struct machine *to)
{
	struct memory_region *source = memory_map_first(machine_memory_map(from));
	struct memory_region *target = memory_map_first(machine_memory_map(to));

	for (; source && target; source = source->next, target = target->next)
		memcpy((uint8_t *)target->block->host + target->block_offset,
		       (uint8_t *)source->block->host + source->block_offset, source->size);
	if (source || target)
		abort();
}

/* A missing, a double and a foreign section are refused, in a machine that is then thrown away. */
static void check_refusals(struct machine *machine, struct machine_state_section *sections,
			   size_t count)
{
	struct machine_state_section last = sections[count - 1];
	AUTO_ERROR struct error *missing = machine_state_load(machine, sections, count - 1);
	AUTO_ERROR struct error *foreign = NULL, *twice = NULL;

	sections[count] = (struct machine_state_section){.name = "0000:00:1e.0/virtio-bread"};
	foreign = machine_state_load(machine, sections, count + 1);
	sections[count - 1] = sections[0];
	twice = machine_state_load(machine, sections, count);
	sections[count - 1] = last;
	if (!missing || !strstr(error_message(missing), "no state for cpu 1") || !foreign ||
	    !strstr(error_message(foreign), "virtio-bread") || !twice ||
	    !strstr(error_message(twice), "machine 0 2 times")) {
		fprintf(stderr, "wrong sections are accepted\n");
		exit(EXIT_FAILURE);
	}
}

static struct machine *move(struct machine *from, char **arguments, int number,
			    struct event_loop *loop)
{
	struct machine *to = create(arguments, number, loop);
	struct machine_state_section sections[SECTIONS_MAX + 1];
	struct saved saved = {0};

	fail(machine_state_save(from, false, keep, &saved));
	for (size_t i = 0; i < saved.count; i++)
		sections[i] = (struct machine_state_section){
		    .name = saved.sections[i].part.name,
		    .instance = saved.sections[i].part.instance,
		    .version = saved.sections[i].part.version,
		    .bytes = saved.sections[i].bytes,
		    .size = saved.sections[i].size,
		};
	check_refusals(to, sections, saved.count);
	fail(machine_state_load(to, sections, saved.count));
	copy_memory(from, to);
	if (number % 2)
		fail(machine_new_generation(to));
	machine_destroy(from);
	for (size_t i = 0; i < saved.count; i++)
		free(saved.sections[i].bytes);
	return to;
}

static void stop(void *context)
{
	event_loop_stop(context);
}

int main(int count, char **arguments)
{
	AUTO_EVENT_LOOP struct event_loop *loop = NULL;
	struct event_timer *timer;
	struct machine *machine;
	int number = 0;

	if (count != 4)
		return 2;
	fail(event_loop_create(&loop));
	fail(event_timer_create(loop, stop, loop, &timer));
	machine = create(arguments, number, loop);
	fail(machine_start(machine));
	for (;;) {
		if (number < MOVES_MAX)
			event_timer_arm(timer, RUN_MS * NS_PER_MS);
		event_loop_run(loop);
		if (machine_state(machine) == MACHINE_SHUTDOWN)
			break;
		machine_pause(machine);
		machine = move(machine, arguments, ++number, loop);
		fail(machine_resume(machine));
	}
	machine_destroy(machine);
	event_timer_destroy(timer);
	printf("%d\n", number);
	return EXIT_SUCCESS;
}
