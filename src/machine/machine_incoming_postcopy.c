/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A machine whose guest goes on here before its memory has come, as far as the destination's machine is
 * concerned; migration/postcopy_destination.h has the pages.
 *
 * States are loaded as soon as they are there. On the main loop, which may touch pages that are lacking:
 * they come like all others, over connections that other threads read. When those break before the
 * guest was let go, nobody needs what is here, and what is lacking becomes zeros so that nobody waits.
 * Later, nothing is done that would have the main loop wait: machine_incoming_check.
 *
 * Threads: as it says. The source controls what is pending and what comes, which
 * postcopy_destination checks.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "machine/machine_incoming_private.h"
#include "migration/ram_rest.h"

#define PAGE_BYTES 4096ULL

/* --- What is known of it ----------------------------------------------------------------------- */

/*
 * What is there, for the handover: with states and without pages it is another event than with both.
 * `order` is held while events are posted, so that they come in the order in which things happened.
 */
static void post_loaded(struct machine_incoming *incoming)
{
	pthread_mutex_lock(&incoming->order);
	incoming->states_loaded = !incoming->failed;
	if (incoming->states_loaded)
		handover_queue_post(&incoming->events, incoming->pages_complete
							   ? HANDOVER_EVENT_ALL_LOADED
							   : HANDOVER_EVENT_LOADED_BUT_PAGES);
	pthread_mutex_unlock(&incoming->order);
}

bool incoming_postcopy_fail(struct machine_incoming *incoming)
{
	bool loaded;

	pthread_mutex_lock(&incoming->order);
	loaded = incoming->states_loaded;
	if (!loaded && !incoming->failed) {
		incoming->failed = true;
		handover_queue_post(&incoming->events, HANDOVER_EVENT_FAILED);
	}
	pthread_mutex_unlock(&incoming->order);
	return !loaded;
}

static void completed(void *context)
{
	struct machine_incoming *incoming = context;

	pthread_mutex_lock(&incoming->order);
	incoming->pages_complete = true;
	if (incoming->states_loaded)
		handover_queue_post(&incoming->events, HANDOVER_EVENT_ALL_PAGES);
	pthread_mutex_unlock(&incoming->order);
}

/* As if the connection had broken, which it has, or is of no use any more. */
static void lose(struct machine_incoming *incoming, const struct error *error)
{
	if (error_code(error) != ECANCELED) /* by us */
		log_warning("migration: %s", error_message(error));
	pthread_mutex_lock(&incoming->lock);
	if (incoming->link)
		migration_link_cancel(incoming->link);
	pthread_mutex_unlock(&incoming->lock);
}

static void lost(void *context, const struct error *error)
{
	lose(context, error);
}

static const struct postcopy_destination_ops postcopy_ops = {.completed = completed, .lost = lost};

bool incoming_postcopy_begun(struct machine_incoming *incoming)
{
	return __atomic_load_n(&incoming->postcopy_begun, __ATOMIC_ACQUIRE);
}

bool incoming_postcopy_loaded(struct machine_incoming *incoming)
{
	bool loaded;

	pthread_mutex_lock(&incoming->order);
	loaded = incoming->states_loaded;
	pthread_mutex_unlock(&incoming->order);
	return loaded;
}

static bool is_complete(struct machine_incoming *incoming)
{
	bool complete;

	pthread_mutex_lock(&incoming->order);
	complete = incoming->pages_complete;
	pthread_mutex_unlock(&incoming->order);
	return complete;
}

bool incoming_postcopy_lacking(struct machine_incoming *incoming)
{
	return incoming_postcopy_begun(incoming) && !is_complete(incoming);
}

/* --- Messages and rounds ----------------------------------------------------------------------- */

struct error *incoming_postcopy_create(struct machine_incoming *incoming)
{
	struct machine *machine = incoming->machine;
	AUTO_FREE uint64_t *page_sizes = NULL;
	struct postcopy_destination_options options;

	if (!migration_link_has_postcopy(incoming->link))
		return NULL;
	page_sizes = calloc(incoming->block_count + 1, sizeof(*page_sizes));
	if (!page_sizes)
		return error_system(ENOMEM, "post-copy");
	for (uint32_t i = 0; i < incoming->block_count; i++)
		page_sizes[i] = machine_description_page_size(incoming->description,
							      ram_blocks_at(machine->map, i)->name);
	options = (struct postcopy_destination_options){
	    .connections = migration_link_channels(incoming->link) + 1,
	    .page_sizes = page_sizes,
	};
	if (!machine->userfault)
		TRY(error_prefix(userfault_create(MACHINE_FAULT_THREADS, &machine->userfault),
				 "post-copy"));
	return postcopy_destination_create(machine->map, machine->userfault, &options,
					   &postcopy_ops, incoming, &incoming->postcopy);
}

struct error *incoming_postcopy_pending(struct machine_incoming *incoming,
					const struct migration_message *message)
{
	bool begun;

	pthread_mutex_lock(&incoming->lock);
	begun = incoming->switch_begun;
	pthread_mutex_unlock(&incoming->lock);
	if (!incoming->postcopy || !begun)
		return error_new(EBADMSG, "the source sent PENDING, which has no place here");
	return postcopy_destination_pending(incoming->postcopy, message);
}

struct error *incoming_postcopy_round_ended(struct machine_incoming *incoming)
{
	if (!incoming->postcopy || incoming_postcopy_begun(incoming) ||
	    !postcopy_destination_is_pending(incoming->postcopy))
		return NULL;
	/* Before anything can be complete: saves and migrations wait for it. */
	__atomic_store_n(&incoming->machine->restoring, true, __ATOMIC_RELEASE);
	__atomic_store_n(&incoming->postcopy_begun, true, __ATOMIC_RELEASE);
	migration_receiver_set_placing(incoming->receiver, true);
	TRY(postcopy_destination_begin(incoming->postcopy));
	postcopy_destination_attach(incoming->postcopy, incoming->link);
	machine_memory_comes(incoming->machine, incoming->machine->userfault);
	return NULL;
}

struct error *incoming_postcopy_place(void *context, uint32_t connection, uint32_t block,
				      uint64_t first, uint64_t count, const void *bytes)
{
	struct machine_incoming *incoming = context;

	return postcopy_destination_place(incoming->postcopy, connection, block, first, count,
					  bytes);
}

void incoming_postcopy_all_loaded(void *context)
{
	struct machine_incoming *incoming = context;
	struct error *error;

	/* By pre-copy: with the last page, incoming_load_all. Connected anew: they are loaded. */
	if (!incoming_postcopy_begun(incoming) || incoming_postcopy_loaded(incoming))
		return;
	error = incoming_load_all(incoming);
	if (error) {
		incoming_note(incoming, error);
		incoming_postcopy_fail(incoming);
		return;
	}
	post_loaded(incoming);
}

void incoming_postcopy_ended(struct machine_incoming *incoming, const struct error *failure)
{
	AUTO_ERROR struct error *error = NULL;

	if (failure) {
		lose(incoming, failure);
		return;
	}
	error = postcopy_destination_check(incoming->postcopy);
	if (error)
		lose(incoming, error);
}

/* --- The end ----------------------------------------------------------------------------------- */

void incoming_postcopy_release(struct machine_incoming *incoming)
{
	if (incoming->postcopy)
		postcopy_destination_release(incoming->postcopy);
}

void incoming_postcopy_end(struct machine_incoming *incoming)
{
	struct postcopy_destination *postcopy;

	if (!incoming->postcopy)
		return;
	pthread_mutex_lock(&incoming->lock);
	postcopy = TAKE_PTR(incoming->postcopy);
	postcopy_destination_progress(postcopy, &incoming->brought);
	pthread_mutex_unlock(&incoming->lock);
	postcopy_destination_detach(postcopy);
	postcopy_destination_destroy(postcopy);
}

void incoming_postcopy_take_rest(struct machine_incoming *incoming)
{
	ram_rest_take(incoming->machine->map, &incoming->ending);
	__atomic_store_n(&incoming->machine->restoring, false, __ATOMIC_RELEASE);
}

/* --- For the machine --------------------------------------------------------------------------- */

bool machine_incoming_is_cut(const struct machine *machine)
{
	struct machine_incoming *incoming = machine->incoming;
	bool cut;

	if (!incoming)
		return false;
	pthread_mutex_lock(&incoming->lock);
	cut = incoming->handover.state == HANDOVER_D_RUNNING_LACKING_CUT;
	pthread_mutex_unlock(&incoming->lock);
	return cut;
}

struct error *machine_incoming_check(const struct machine *machine)
{
	struct postcopy_destination_progress progress = {};
	struct machine_incoming *incoming = machine->incoming;

	if (!machine_incoming_is_cut(machine))
		return NULL;
	pthread_mutex_lock(&incoming->lock);
	if (incoming->postcopy)
		postcopy_destination_progress(incoming->postcopy, &progress);
	pthread_mutex_unlock(&incoming->lock);
	return error_new(
	    EBUSY,
	    "%llu KiB of the guest's memory are at the host it came from, to which the "
	    "connection is broken: make another ('godwit migrate VM --recover URI' "
	    "there), or end the VM if that host is lost",
	    (unsigned long long)(progress.lacking * PAGE_BYTES >> 10));
}
