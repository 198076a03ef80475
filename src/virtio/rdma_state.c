/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The state of the RDMA device, as a stream (virtio_device.h), for it can be large: each object as the
 * command that made it, its runs, and what has become of it; behind them the engine's state. The layout is
 * in docs/virtio-rdma.md.
 *
 * A load executes the commands again, so that what a command checks is checked, and then fills in the
 * rest. Whoever made the bytes controls all of them; they are held to what a driver could have brought
 * about, as far as the device relies on it. Memory is not looked at: it need not be there yet.
 *
 * Saving is on a thread of whoever moves the machine, while the device is quiesced; loading asks the
 * device's loop.
 */
#include <errno.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "virtio/rdma_private.h"

#define STATE_VERSION  1
#define STATE_MAX      MIB(256)
#define PIECE	       KIB(64)
#define RUN_SIZE       16U
#define COUNTS_MAX     2U
#define PAGE_SHIFT_MIN 12U
#define PAGE_SHIFT_MAX 30U

#define BIT(event) (UINT32_C(1) << (event))
#define PAIR_EVENTS                                                                                \
	(BIT(EVENT_QP_FATAL) | BIT(EVENT_QP_REQ_ERR) | BIT(EVENT_QP_ACCESS_ERR) |                  \
	 BIT(EVENT_COMM_EST) | BIT(EVENT_SQ_DRAINED) | BIT(EVENT_QP_LAST_WQE_REACHED))

struct visit {
	struct virtio_rdma *rdma;
	struct state *state;
};

/* Objects by the command that makes them, in an order in which that can be done. */
struct kind {
	uint32_t command, fixed;    /* bytes of the command without runs */
	uint32_t events;	    /* bits: those of others would not be forgotten as they go */
	size_t numbers;		    /* where struct virtio_rdma has its table */
	uint8_t counts[COUNTS_MAX]; /* where the command says how many runs there are; 0: no more */
	void (*visit)(struct visit *visit, struct adapter_object *object);
	const char *name;
};

/* --- What becomes of objects ------------------------------------------------------------------- */

static void visit_slot(struct visit *visit, const struct adapter_ring *ring, uint32_t *slot)
{
	state_u32(visit->state, "slot", slot);
	state_check(visit->state, *slot < ring->slots, "slot", "is not one of the queue");
}

static void visit_completions(struct visit *visit, struct adapter_object *object)
{
	struct adapter_completions *queue =
	    CONTAINER_OF(object, struct adapter_completions, object);

	visit_slot(visit, &queue->ring, &queue->ring.own);
}

static void visit_shared(struct visit *visit, struct adapter_object *object)
{
	struct adapter_shared *shared = CONTAINER_OF(object, struct adapter_shared, object);

	visit_slot(visit, &shared->receives.ring, &shared->receives.ring.own);
	state_u32(visit->state, "limit", &shared->limit);
	state_check(visit->state, shared->limit < shared->receives.ring.slots, "limit",
		    "is more than the queue can have");
}

static void visit_pair(struct visit *visit, struct adapter_object *object)
{
	struct adapter_pair *pair = CONTAINER_OF(object, struct adapter_pair, object);
	struct adapter_ring *receives = &pair->receives.ring;

	visit_slot(visit, &pair->sends, &pair->sends.own);
	visit_slot(visit, &pair->sends, &pair->done);
	if (receives->slots)
		visit_slot(visit, receives, &receives->own);
	state_buffer(visit->state, "attributes", pair->attributes, sizeof(pair->attributes));
	pair->in_engine = (pair->sends.own - pair->done) & (pair->sends.slots - 1);
	state_check(visit->state, pair->in_engine <= IN_ENGINE_MAX, "slot",
		    "is too far from the one that is done");
	/* Which ones had work for the engine is not said: whoever has some is found. */
	if (state_loading(visit->state))
		adapter_pair_will_feed(pair);
}

static void visit_region(struct visit *visit, struct adapter_object *object)
{
	struct adapter_key *key = CONTAINER_OF(object, struct adapter_key, object);
	struct state *state = visit->state;

	if (!key->pages)
		return;
	state_u32(state, "page size", &key->page_shift);
	if (!state_check(state,
			 !key->page_shift || (key->page_shift >= PAGE_SHIFT_MIN &&
					      key->page_shift <= PAGE_SHIFT_MAX),
			 "page size", "is none"))
		return;
	state_u64(state, "first byte", &key->first);
	state_check(state, key->first < UINT64_C(1) << key->page_shift, "first byte",
		    "is not in the first page");
	for (uint32_t i = 0; i < key->pages_max; i++)
		state_u64(state, "page", &key->pages[i]);
}

/* --- Objects ----------------------------------------------------------------------------------- */

/* The runs that @object was made with, the @index-th list of them; NULL: it has none. */
static const struct adapter_runs *runs_of(const struct kind *kind, struct adapter_object *object,
					  uint32_t index)
{
	switch (kind->command) {
	case COMMAND_CREATE_CQ:
		return &CONTAINER_OF(object, struct adapter_completions, object)->ring.runs;
	case COMMAND_CREATE_SRQ:
		return &CONTAINER_OF(object, struct adapter_shared, object)->receives.ring.runs;
	case COMMAND_CREATE_QP:
		return index
			   ? &CONTAINER_OF(object, struct adapter_pair, object)->receives.ring.runs
			   : &CONTAINER_OF(object, struct adapter_pair, object)->sends.runs;
	default:
		return &CONTAINER_OF(object, struct adapter_key, object)->runs;
	}
}

static void save_runs(struct visit *visit, const struct adapter_runs *runs)
{
	uint64_t before = 0;

	state_count(visit->state, "runs", runs->count, RUNS_MAX);
	for (uint32_t i = 0; i < runs->count; i++) {
		uint64_t address = runs->list[i].address, length = runs->list[i].end - before;

		state_u64(visit->state, "address", &address);
		state_u64(visit->state, "length", &length);
		before = runs->list[i].end;
	}
}

static void save_object(struct visit *visit, const struct kind *kind, struct adapter_object *object)
{
	uint32_t number = object->number, events = object->events;

	state_u32(visit->state, "number", &number);
	state_buffer(visit->state, "command", object->made, kind->fixed);
	for (uint32_t i = 0; i < COUNTS_MAX && kind->counts[i]; i++)
		save_runs(visit, runs_of(kind, object, i));
	state_u32(visit->state, "events", &events);
	if (kind->visit)
		kind->visit(visit, object);
}

/* Puts the next list of runs behind the @size bytes of *@request, which grows. */
static void load_runs(struct visit *visit, uint8_t **request, uint32_t *size, uint8_t count_at)
{
	struct state *state = visit->state;
	uint32_t count = state_count(state, "runs", 0, RUNS_MAX);
	uint8_t *longer;

	if (!state_expect(state, "runs", (size_t)count * RUN_SIZE))
		return;
	longer = realloc(*request, *size + (size_t)count * RUN_SIZE);
	if (!longer) {
		state_fail(state, error_system(ENOMEM, "runs"));
		return;
	}
	*request = longer;
	put_le32(longer + count_at, count);
	for (uint32_t i = 0; i < count; i++, *size += RUN_SIZE) {
		uint64_t address = 0, length = 0;

		state_u64(state, "address", &address);
		state_u64(state, "length", &length);
		put_le64(longer + *size, address);
		put_le64(longer + *size + 8, length);
	}
}

/* Executes the command that makes number @number. NULL: it is refused, and the state has failed. */
static struct adapter_object *make_object(struct visit *visit, const struct kind *kind,
					  uint32_t number, const uint8_t *request, uint32_t size)
{
	struct virtio_rdma *rdma = visit->rdma;
	struct adapter_numbers *numbers = (void *)((char *)rdma + kind->numbers);
	bool general = kind->command == COMMAND_CREATE_QP && number == GENERAL_NUMBER;
	struct adapter_object *object;
	uint32_t status;

	if (!state_check(visit->state,
			 get_le32(request) == kind->command &&
			     (general || (number >= numbers->capacity && number <= numbers->last &&
					  !adapter_numbers_taken(numbers, number))),
			 "number", "cannot be given, or is not of such an object"))
		return NULL;
	if (!general)
		numbers->next = number;
	status = adapter_command_execute(rdma, request, size);
	object = status	   ? NULL
		 : general ? (rdma->general ? &rdma->general->object : NULL)
			   : adapter_numbers_find(numbers, number);
	if (!object)
		state_fail(visit->state,
			   error_new(0, "%s %u cannot be made again: %s", kind->name, number,
				     strerror(status ? (int)status : EINVAL)));
	return object;
}

static void load_object(struct visit *visit, const struct kind *kind)
{
	AUTO_FREE uint8_t *request = calloc(1, kind->fixed);
	uint32_t size = kind->fixed, number = 0, events = 0;
	struct adapter_object *object;

	if (!request) {
		state_fail(visit->state, error_system(ENOMEM, "%s", kind->name));
		return;
	}
	state_u32(visit->state, "number", &number);
	state_buffer(visit->state, "command", request, kind->fixed);
	for (uint32_t i = 0; i < COUNTS_MAX && kind->counts[i]; i++)
		load_runs(visit, &request, &size, kind->counts[i]);
	state_u32(visit->state, "events", &events);
	if (!state_check(visit->state, !(events & ~kind->events), "events",
			 "are not ones of such an object"))
		return;
	object = make_object(visit, kind, number, request, size);
	if (!object)
		return;
	for (unsigned int bit = 0; bit < 32; bit++)
		if (events >> bit & 1)
			adapter_object_event(visit->rdma, object, bit);
	if (kind->visit)
		kind->visit(visit, object);
}

static void visit_kind(struct visit *visit, const struct kind *kind)
{
	struct virtio_rdma *rdma = visit->rdma;
	const struct adapter_numbers *numbers = (void *)((char *)rdma + kind->numbers);
	struct adapter_object *general =
	    kind->command == COMMAND_CREATE_QP && rdma->general ? &rdma->general->object : NULL;
	uint32_t count = general != NULL;

	for (uint32_t i = 0; i < numbers->capacity; i++)
		count +=
		    numbers->objects[i] && get_le32(numbers->objects[i]->made) == kind->command;
	count = state_count(visit->state, kind->name, count, numbers->capacity + 1);
	if (state_loading(visit->state)) {
		for (uint32_t i = 0; i < count && !state_failed(visit->state); i++)
			load_object(visit, kind);
		return;
	}
	if (general)
		save_object(visit, kind, general);
	for (uint32_t i = 0; i < numbers->capacity; i++)
		if (numbers->objects[i] && get_le32(numbers->objects[i]->made) == kind->command)
			save_object(visit, kind, numbers->objects[i]);
}

#define TABLE(member) offsetof(struct virtio_rdma, member)

static const struct kind kinds[] = {
    {COMMAND_CREATE_PD, 8, 0, TABLE(domains), {0}, NULL, "protection domain"},
    {COMMAND_CREATE_CQ,
     16,
     BIT(EVENT_CQ_ERR) | BIT(EVENT_COMPLETION),
     TABLE(completions),
     {12},
     visit_completions,
     "completion queue"},
    {COMMAND_CREATE_SRQ,
     32,
     BIT(EVENT_SRQ_LIMIT_REACHED),
     TABLE(shared),
     {28},
     visit_shared,
     "shared receive queue"},
    {COMMAND_CREATE_QP, 64, PAIR_EVENTS, TABLE(pairs), {56, 60}, visit_pair, "queue pair"},
    {COMMAND_CREATE_MR, 48, 0, TABLE(keys), {20}, visit_region, "region"},
    {COMMAND_CREATE_MW, 16, 0, TABLE(keys), {0}, NULL, "window"},
};

/* --- All of it --------------------------------------------------------------------------------- */

static void visit_addresses(struct visit *visit)
{
	struct virtio_rdma *rdma = visit->rdma;
	uint8_t mac[6];

	memcpy(mac, rdma->mac, sizeof(mac));
	/* Without mac= another name of the machine would give another one than the driver knows. */
	state_buffer(visit->state, "mac", mac, sizeof(mac));
	if (state_check(visit->state, !(mac[0] & 1), "mac", "is no unicast address") &&
	    state_loading(visit->state))
		virtio_rdma_set_mac(rdma, mac);
	for (uint32_t i = 0; i < GIDS_MAX; i++) {
		uint8_t gid[16];

		memcpy(gid, rdma->gids[i], sizeof(gid));
		state_buffer(visit->state, "address", gid, sizeof(gid));
		if (state_loading(visit->state) && !state_failed(visit->state))
			virtio_rdma_set_gid(rdma, i, gid);
	}
}

/* Numbers are not given away again soon, not here either. */
static void visit_numbers(struct visit *visit)
{
	struct virtio_rdma *rdma = visit->rdma;
	struct adapter_numbers *tables[] = {&rdma->domains, &rdma->completions, &rdma->shared,
					    &rdma->pairs, &rdma->keys};

	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		state_u32(visit->state, "next number", &tables[i]->next);
		state_check(visit->state,
			    tables[i]->next >= tables[i]->capacity &&
				tables[i]->next <= tables[i]->last,
			    "next number", "is none");
	}
}

static void save_engine(struct visit *visit)
{
	AUTO_FREE void *bytes = NULL;
	size_t size;

	if (godwit_rdma_save(visit->rdma->engine, &bytes, &size) || size > STATE_MAX) {
		state_fail(visit->state, error_system(ENOMEM, "the engine's state"));
		return;
	}
	state_count(visit->state, "engine", (uint32_t)size, STATE_MAX);
	state_buffer(visit->state, "engine", bytes, size);
}

static void load_engine(struct visit *visit)
{
	uint32_t size = state_count(visit->state, "engine", 0, STATE_MAX);
	AUTO_FREE void *bytes = NULL;
	char reason[GODWIT_RDMA_REASON_MAX];

	if (!state_expect(visit->state, "engine", size))
		return;
	bytes = malloc(MAX(1U, size));
	if (!bytes) {
		state_fail(visit->state, error_system(ENOMEM, "the engine's state"));
		return;
	}
	state_buffer(visit->state, "engine", bytes, size);
	if (!state_failed(visit->state) &&
	    godwit_rdma_load(visit->rdma->engine, bytes, size, reason))
		state_fail(visit->state, error_new(0, "engine: %s", reason));
}

static void visit_all(void *context, struct state *state)
{
	struct visit visit = {context, state};

	state_same(state, "version", STATE_VERSION);
	state_bool(state, "copy", &visit.rdma->copied);
	visit_addresses(&visit);
	for (size_t i = 0; i < ARRAY_SIZE(kinds) && !state_failed(state); i++)
		visit_kind(&visit, &kinds[i]);
	visit_numbers(&visit);
	if (state_failed(state))
		return;
	if (state_loading(state))
		load_engine(&visit);
	else
		save_engine(&visit);
}

/* --- The stream -------------------------------------------------------------------------------- */

static struct error *save(struct virtio_device *device, bool stopped, virtio_emit emit,
			  void *context)
{
	AUTO_STATE struct state *state = NULL;
	const uint8_t *bytes;
	size_t size;

	/* Nearly all of it changes as long as peers are there. */
	if (!stopped)
		return NULL;
	state = state_save_begin(false);
	if (!state)
		return error_system(ENOMEM, "the state");
	visit_all(virtio_rdma_of(device), state);
	TRY(state_finish(state));
	bytes = state_bytes(state, &size);
	for (size_t at = 0; at < size; at += PIECE)
		TRY(emit(context, bytes + at, MIN(size - at, (size_t)PIECE)));
	return NULL;
}

struct loading {
	struct virtio_rdma *rdma;
	struct error *error;
};

static void load_on_loop(void *context)
{
	struct loading *loading = context;
	struct virtio_rdma *rdma = loading->rdma;
	struct adapter_bytes *taken = &rdma->taken;
	AUTO_STATE struct state *state = state_load_begin(taken->bytes, taken->size, 1);
	int section;

	if (!state) {
		loading->error = error_system(ENOMEM, "the state");
		return;
	}
	section = memory_read_begin(rdma->device.map);
	rdma->loading = true;
	visit_all(rdma, state);
	rdma->loading = false;
	memory_read_end(rdma->device.map, section);
	loading->error = state_finish(state);
	free(taken->bytes);
	*taken = (struct adapter_bytes){0};
}

static struct error *take(struct adapter_bytes *taken, const void *bytes, size_t size)
{
	uint8_t *larger;

	if (size > STATE_MAX - taken->size)
		return error_new(E2BIG, "the state is larger than any can be");
	if (taken->size + size > taken->room) {
		size_t room = MAX(2 * taken->room, taken->size + size);

		larger = realloc(taken->bytes, room);
		if (!larger)
			return error_system(ENOMEM, "the state");
		taken->bytes = larger;
		taken->room = room;
	}
	if (size)
		memcpy(taken->bytes + taken->size, bytes, size);
	taken->size += size;
	return NULL;
}

static struct error *load(struct virtio_device *device, const void *bytes, size_t size, bool last)
{
	struct loading loading = {.rdma = virtio_rdma_of(device)};

	TRY(take(&loading.rdma->taken, bytes, size));
	if (last)
		event_loop_call(device->loop, load_on_loop, &loading);
	return loading.error;
}

const struct virtio_stream_ops virtio_rdma_stream_ops = {.save = save, .load = load};

void virtio_rdma_visit_state(struct virtio_device *device, struct state *state)
{
	const struct virtio_rdma *rdma = virtio_rdma_of(device);
	bool objects = rdma->general;

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		const struct adapter_numbers *numbers = (void *)((char *)rdma + kinds[i].numbers);

		for (uint32_t slot = 0; slot < numbers->capacity; slot++)
			objects |= numbers->objects[slot] != NULL;
	}
	state_check(state, device->active || !objects, "objects", "are there without a driver");
}
