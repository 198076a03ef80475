/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Completion queues: rings of fixed size that the user empties. When one overruns, it is of no more use,
 * and every queue pair that adds to it fails.
 *
 * Runs on the engine's thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "rdma/engine.h"

int godwit_rdma_completions_create(struct godwit_rdma *engine,
				   const struct godwit_rdma_completions_options *options,
				   struct godwit_rdma_completions **result)
{
	struct godwit_rdma_completions *completions;
	uint32_t number;
	int status;

	*result = NULL;
	if (!options->add && (!options->capacity || options->capacity > GODWIT_RDMA_QUEUE_MAX))
		return -EINVAL;
	status = rdma_choose_number(engine, &engine->completions, options->number, &number);
	if (status < 0)
		return status;
	completions = calloc(1, sizeof(*completions));
	if (!completions)
		return -ENOMEM;
	if (!options->add)
		completions->ring = calloc(options->capacity, sizeof(*completions->ring));
	completions->entry.number = number;
	if ((!options->add && !completions->ring) ||
	    !rdma_table_add(&engine->completions, &completions->entry)) {
		free(completions->ring);
		free(completions);
		return -ENOMEM;
	}
	completions->engine = engine;
	completions->options = *options;
	engine->users++;
	*result = completions;
	return 0;
}

int godwit_rdma_completions_destroy(struct godwit_rdma_completions *completions)
{
	if (!completions)
		return 0;
	if (completions->pairs)
		return -EBUSY;
	completions->engine->users--;
	rdma_table_remove(&completions->engine->completions, &completions->entry);
	free(completions->ring);
	free(completions);
	return 0;
}

/* head and tail stay below twice the capacity, so that full and empty differ. */
static uint32_t advance(const struct godwit_rdma_completions *completions, uint32_t counter)
{
	return counter + 1 == 2 * completions->options.capacity ? 0 : counter + 1;
}

uint32_t rdma_completions_used(const struct godwit_rdma_completions *completions)
{
	uint32_t head = completions->head, tail = completions->tail;

	return tail >= head ? tail - head : tail + 2 * completions->options.capacity - head;
}

uint32_t godwit_rdma_completions_poll(struct godwit_rdma_completions *completions,
				      struct godwit_rdma_completion *list, uint32_t count)
{
	uint32_t taken = 0;

	if (!completions->ring)
		return 0;
	for (; taken < count && rdma_completions_used(completions); taken++) {
		list[taken] = completions->ring[completions->head % completions->options.capacity];
		completions->head = advance(completions, completions->head);
	}
	return taken;
}

bool godwit_rdma_completions_arm(struct godwit_rdma_completions *completions, bool solicited)
{
	/* Of two wishes the wider one counts. */
	completions->armed_solicited =
	    solicited && (!completions->armed || completions->armed_solicited);
	completions->armed = true;
	return rdma_completions_used(completions);
}

/* Always false. */
static bool overrun(struct godwit_rdma_completions *completions)
{
	const struct godwit_rdma_options *options = &completions->engine->options;

	completions->overrun = true;
	if (options->event)
		options->event(options->context, &(struct godwit_rdma_event){
						     .type = GODWIT_RDMA_EVENT_COMPLETIONS_OVERRUN,
						     .completions = completions});
	return false;
}

bool rdma_completions_add(struct godwit_rdma_completions *completions,
			  const struct godwit_rdma_completion *completion, bool solicited)
{
	const struct godwit_rdma_completions_options *options = &completions->options;

	if (completions->overrun)
		return false;
	if (options->add) {
		solicited |= completion->status != GODWIT_RDMA_SUCCESS;
		return options->add(options->context, completion, solicited) ||
		       overrun(completions);
	}
	if (rdma_completions_used(completions) == options->capacity)
		return overrun(completions);
	completions->ring[completions->tail % options->capacity] = *completion;
	completions->tail = advance(completions, completions->tail);
	if (completions->armed && (solicited || !completions->armed_solicited ||
				   completion->status != GODWIT_RDMA_SUCCESS)) {
		completions->armed = false;
		if (options->notify)
			options->notify(options->context, completions);
	}
	return true;
}
