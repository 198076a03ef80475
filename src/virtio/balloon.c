/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The virtio-balloon device of balloon.h.
 *
 * Pages that the guest puts into the balloon, and free pages that it reports, go back to the host
 * at once and come back, zeroed, when the guest touches them. What is not plugged RAM is ignored
 * and counted: the specification does not forbid such page numbers, and they can do no harm. A
 * request that is no list of page numbers, or an absurdly long one, is malformed: the device needs
 * a reset.
 *
 * Page poisoning (5.5.6.7): a driver that fills free pages with a value other than zero expects it
 * in reported pages; they are then left alone.
 *
 * Statistics (5.5.6.3) run backwards: the driver leaves one buffer, and answers with a new one when
 * it gets it back. A buffer is read as soon as it arrives and stays in the queue until the next
 * poll, put back as if it had not been taken: a popped one would hold a read section open and with
 * it every unplug of memory.
 *
 * Queue numbers: the specification fixes free page reporting at 4, Linux drivers number only the
 * queues that exist. Both are served: the last queue that the driver enabled is the one, when
 * reporting was negotiated.
 *
 * Threads: all on the device's loop; the statistics and what others ask for are behind `lock` or
 * atomic.
 */
#include "virtio/balloon.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/options.h"
#include "memory/memory_discard.h"

/* Feature bits (5.5.3). */
#define F_STATS_VQ	 1
#define F_DEFLATE_ON_OOM 2
#define F_PAGE_POISON	 4
#define F_REPORTING	 5

#define QUEUE_INFLATE	 0
#define QUEUE_DEFLATE	 1
#define QUEUE_STATISTICS 2
#define QUEUES		 5
#define QUEUE_SIZE	 128
/* Linux sends one buffer of page numbers and reports 32 ranges; a border of regions adds one. */
#define CHAIN_BUFFERS (QUEUE_SIZE + 16)

#define PAGE_SHIFT 12 /* of page numbers, on every architecture */
#define PAGE_BYTES (1ULL << PAGE_SHIFT)
/* 256 MiB in one request; Linux sends 256 page numbers. A bound, so that one request cannot hold up
 * the loop. */
#define REQUEST_PAGES_MAX 65536
#define BATCH		  256		   /* page numbers copied at a time */
#define RUN_BUDGET	  (2 * QUEUE_SIZE) /* requests, before others may use the loop */

#define STATISTIC_SIZE 10 /* bytes: le16 tag, le64 value */
/* Entries looked at; a driver has one for each tag. */
#define STATISTIC_ENTRIES_MAX 64
#define INTERVAL_MAX_SECONDS  86400

/* Configuration layout (5.5.4), little-endian. */
enum config_offset {
	CONFIG_TARGET = 0,
	CONFIG_ACTUAL = 4,
	CONFIG_FREE_PAGE_HINT = 8, /* not offered */
	CONFIG_POISON = 12,
	CONFIG_SIZE = 16,
};

struct virtio_balloon {
	struct virtio_device device;
	uint32_t target;	/* pages; atomic */
	uint32_t actual;	/* pages, as the guest says; atomic */
	uint8_t poison[4];	/* as the guest wrote it */
	bool keep_reported;	/* free pages hold a value that the guest expects to find again */
	bool release_committed; /* option committed=release */
	int reporting_queue;	/* -1: none */
	bool statistics_held;	/* the buffer in the queue was read */
	int64_t interval_ns;	/* 0: never */
	struct event_timer *poll;
	struct event_timer *again; /* goes on with queues that have had their share of the loop */
	struct memory_discard_count inflated, reported;
	uint64_t deflated;    /* bytes */
	pthread_mutex_t lock; /* guards statistics */
	struct virtio_balloon_statistics statistics;
	struct iovec buffers[CHAIN_BUFFERS];
};

static struct virtio_balloon *balloon_of(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct virtio_balloon, device);
}

const char *virtio_balloon_statistic_name(enum virtio_balloon_statistic statistic)
{
	static const char *const names[] = {
	    [BALLOON_SWAP_IN] = "swap-in",
	    [BALLOON_SWAP_OUT] = "swap-out",
	    [BALLOON_MAJOR_FAULTS] = "major-faults",
	    [BALLOON_MINOR_FAULTS] = "minor-faults",
	    [BALLOON_FREE] = "free-memory",
	    [BALLOON_TOTAL] = "total-memory",
	    [BALLOON_AVAILABLE] = "available-memory",
	    [BALLOON_DISK_CACHES] = "disk-caches",
	    [BALLOON_HUGETLB_ALLOCATIONS] = "htlb-pgalloc",
	    [BALLOON_HUGETLB_FAILURES] = "htlb-pgfail",
	    [BALLOON_OOM_KILLS] = "oom-kills",
	    [BALLOON_ALLOCATION_STALLS] = "alloc-stalls",
	    [BALLOON_ASYNC_SCANS] = "async-scans",
	    [BALLOON_DIRECT_SCANS] = "direct-scans",
	    [BALLOON_ASYNC_RECLAIMS] = "async-reclaims",
	    [BALLOON_DIRECT_RECLAIMS] = "direct-reclaims",
	};

	return names[statistic];
}

/* A run of adjacent pages that is still growing, in either direction. */
struct page_run {
	uint64_t first, count;
};

static void flush_run(struct virtio_balloon *balloon, struct page_run *run)
{
	if (run->count)
		memory_discard(balloon->device.map, run->first << PAGE_SHIFT,
			       run->count << PAGE_SHIFT, balloon->release_committed,
			       &balloon->inflated);
	run->count = 0;
}

static void inflate_page(struct virtio_balloon *balloon, struct page_run *run, uint32_t page)
{
	if (run->count && page == run->first + run->count) {
		run->count++;
	} else if (run->count && page + 1ULL == run->first) {
		run->first--;
		run->count++;
	} else {
		flush_run(balloon, run);
		*run = (struct page_run){.first = page, .count = 1};
	}
}

/* The pages of an inflate request, whose size was checked. */
static void inflate(struct virtio_balloon *balloon, const struct virtqueue_chain *chain)
{
	struct page_run run = {0};
	uint8_t raw[BATCH * 4];

	for (uint64_t offset = 0; offset < chain->out_size; offset += sizeof(raw)) {
		size_t size = MIN(sizeof(raw), chain->out_size - offset);

		if (!virtqueue_chain_read(chain, offset, raw, size))
			break;
		for (size_t i = 0; i < size; i += 4)
			inflate_page(balloon, &run, get_le32(raw + i));
	}
	flush_run(balloon, &run);
}

static bool handle_pages(struct virtio_balloon *balloon, const struct virtqueue_chain *chain,
			 bool inflating)
{
	if (chain->out_size % 4 || chain->out_size / 4 > REQUEST_PAGES_MAX) {
		virtio_device_needs_reset(&balloon->device, chain->out_size % 4
								? "a page list of odd length"
								: "a page list is too long");
		return false;
	}
	if (inflating)
		inflate(balloon, chain);
	else
		balloon->deflated += chain->out_size / 4 * PAGE_BYTES;
	return true;
}

static bool handle_report(struct virtio_balloon *balloon, struct virtqueue_chain *chain)
{
	const struct iovec *iov = virtqueue_chain_in_place(chain);

	for (uint16_t i = 0; i < chain->in_count; i++) {
		struct memory_span span = {.host = iov[i].iov_base, .size = iov[i].iov_len};

		if (balloon->keep_reported)
			balloon->reported.kept += span.size;
		else
			memory_discard_span(balloon->device.map, &span, balloon->release_committed,
					    &balloon->reported);
	}
	return true;
}

/* One request of any queue but that of statistics; false: malformed. */
static bool handle_chain(struct virtio_balloon *balloon, uint16_t queue,
			 struct virtqueue_chain *chain)
{
	if (queue == balloon->reporting_queue)
		return handle_report(balloon, chain);
	return handle_pages(balloon, chain, queue == QUEUE_INFLATE);
}

static void run_queue(struct virtio_balloon *balloon, uint16_t index)
{
	struct virtqueue *queue = &balloon->device.queues[index].ring;
	struct virtqueue_chain chain = {.iov = balloon->buffers, .iov_max = CHAIN_BUFFERS};
	unsigned int budget = RUN_BUDGET;

	do {
		virtqueue_notifications(queue, false);
		while (budget && virtio_device_running(&balloon->device) &&
		       virtqueue_pop(queue, &chain) > 0) {
			if (!handle_chain(balloon, index, &chain)) {
				virtqueue_discard(queue, &chain);
				return;
			}
			virtqueue_push(queue, &chain, 0);
			budget--;
		}
		if (!budget) {
			event_timer_arm(balloon->again, 0);
			break;
		}
	} while (virtqueue_notifications(queue, true) && virtio_device_running(&balloon->device));
	virtqueue_notify(queue);
}

static void run_again(void *context)
{
	struct virtio_balloon *balloon = context;

	virtio_device_notify_queue(&balloon->device, QUEUE_INFLATE);
	virtio_device_notify_queue(&balloon->device, QUEUE_DEFLATE);
	if (balloon->reporting_queue >= 0)
		virtio_device_notify_queue(&balloon->device, (uint16_t)balloon->reporting_queue);
}

static void read_statistics(struct virtio_balloon *balloon, const struct virtqueue_chain *chain)
{
	struct virtio_balloon_statistics statistics = {.updated_ns = clock_monotonic_ns()};
	uint8_t raw[STATISTIC_SIZE];

	/* In any order, unknown tags ignored (5.5.6.3.2). */
	for (int i = 0; i < STATISTIC_ENTRIES_MAX; i++) {
		uint16_t tag;

		if (!virtqueue_chain_read(chain, (uint64_t)i * STATISTIC_SIZE, raw, sizeof(raw)))
			break;
		tag = get_le16(raw);
		if (tag >= BALLOON_STATISTICS)
			continue;
		statistics.present |= 1U << tag;
		statistics.value[tag] = get_le64(raw + 2);
	}
	pthread_mutex_lock(&balloon->lock);
	balloon->statistics = statistics;
	pthread_mutex_unlock(&balloon->lock);
}

/* Reads the buffer that has arrived, and leaves it where it is. */
static void take_statistics(struct virtio_balloon *balloon)
{
	struct virtqueue *queue = &balloon->device.queues[QUEUE_STATISTICS].ring;
	struct virtqueue_chain chain = {.iov = balloon->buffers, .iov_max = CHAIN_BUFFERS};

	if (balloon->statistics_held || virtqueue_pop(queue, &chain) <= 0)
		return;
	read_statistics(balloon, &chain);
	virtqueue_unpop(queue, &chain);
	balloon->statistics_held = true;
}

/* Gives the buffer back, which asks the guest for new numbers. */
static void ask_for_statistics(struct virtio_balloon *balloon)
{
	struct virtqueue *queue = &balloon->device.queues[QUEUE_STATISTICS].ring;
	struct virtqueue_chain chain = {.iov = balloon->buffers, .iov_max = CHAIN_BUFFERS};

	balloon->statistics_held = false;
	if (virtqueue_pop(queue, &chain) <= 0)
		return;
	virtqueue_push(queue, &chain, 0);
	/* Only now: the driver's next buffer is the first that is worth a doorbell. */
	if (virtqueue_notifications(queue, true))
		take_statistics(balloon);
	virtqueue_notify(queue);
}

static void poll_statistics(void *context)
{
	struct virtio_balloon *balloon = context;

	/* Without an answer to the last question there is nothing to give back. */
	if (virtio_device_running(&balloon->device) && balloon->statistics_held)
		ask_for_statistics(balloon);
	if (balloon->interval_ns)
		event_timer_arm(balloon->poll, balloon->interval_ns);
}

static void queue_notify(struct virtio_device *device, uint16_t queue)
{
	struct virtio_balloon *balloon = balloon_of(device);

	if (queue == QUEUE_STATISTICS && virtio_device_has(device, F_STATS_VQ))
		take_statistics(balloon);
	else if (queue <= QUEUE_DEFLATE || queue == balloon->reporting_queue)
		run_queue(balloon, queue);
}

static void config_read(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
	const struct virtio_balloon *balloon = balloon_of(device);
	uint8_t config[CONFIG_SIZE] = {0};

	put_le32(config + CONFIG_TARGET, __atomic_load_n(&balloon->target, __ATOMIC_RELAXED));
	put_le32(config + CONFIG_ACTUAL, balloon->actual);
	memcpy(config + CONFIG_POISON, balloon->poison, sizeof(balloon->poison));
	memcpy(data, config + offset, size);
}

/* Copies what of a write at @offset falls on the four bytes of @field at @field_offset. */
static void write_field(uint8_t field[4], uint32_t field_offset, uint32_t offset,
			const uint8_t *bytes, uint32_t size)
{
	for (uint32_t i = 0; i < size; i++)
		if (range_contains(field_offset, 4, (uint64_t)offset + i, 1))
			field[offset + i - field_offset] = bytes[i];
}

static void config_write(struct virtio_device *device, uint32_t offset, const void *data,
			 uint32_t size)
{
	struct virtio_balloon *balloon = balloon_of(device);
	uint8_t actual[4];

	put_le32(actual, balloon->actual);
	write_field(actual, CONFIG_ACTUAL, offset, data, size);
	__atomic_store_n(&balloon->actual, get_le32(actual), __ATOMIC_RELAXED);
	/* The driver must not change it later (5.5.6.7.1), so what it writes then does not count.
	 */
	if (!(device->status & VIRTIO_STATUS_DRIVER_OK))
		write_field(balloon->poison, CONFIG_POISON, offset, data, size);
}

/* Works out what follows from the features, the queues and the poison. */
static void configure(struct virtio_balloon *balloon)
{
	const struct virtio_device *device = &balloon->device;
	int first = virtio_device_has(device, F_STATS_VQ) ? QUEUE_STATISTICS + 1 : QUEUE_STATISTICS;

	balloon->keep_reported =
	    virtio_device_has(device, F_PAGE_POISON) && get_le32(balloon->poison);
	balloon->reporting_queue = -1;
	for (int i = first; i < QUEUES && virtio_device_has(device, F_REPORTING); i++)
		if (device->queues[i].ring.enabled)
			balloon->reporting_queue = i;
	if (balloon->interval_ns)
		event_timer_arm(balloon->poll, balloon->interval_ns);
}

static void activate(struct virtio_device *device)
{
	configure(balloon_of(device));
}

static void quiesce(struct virtio_device *device)
{
	/* Nothing is ever in flight between two events of the loop. */
}

static void resume(struct virtio_device *device)
{
	/* The queues are notified next, and the poll never stopped. */
}

static void reset(struct virtio_device *device)
{
	struct virtio_balloon *balloon = balloon_of(device);

	event_timer_cancel(balloon->poll);
	event_timer_cancel(balloon->again);
	balloon->statistics_held = false;
	balloon->reporting_queue = -1;
	__atomic_store_n(&balloon->actual, 0, __ATOMIC_RELAXED);
	memset(balloon->poison, 0, sizeof(balloon->poison));
	pthread_mutex_lock(&balloon->lock);
	balloon->statistics = (struct virtio_balloon_statistics){0};
	pthread_mutex_unlock(&balloon->lock);
}

/* Statistics age with the clock, which differs from one machine to the next. */
static void statistics_state(struct virtio_balloon *balloon, struct state *state)
{
	struct virtio_balloon_statistics statistics;
	int64_t now = clock_monotonic_ns();
	bool reported;
	uint64_t age;

	virtio_balloon_statistics(&balloon->device, &statistics);
	reported = statistics.updated_ns;
	state_bool(state, "statistics reported", &reported);
	if (!reported)
		return;
	age = (uint64_t)(now - statistics.updated_ns);
	state_u64(state, "statistics age", &age);
	state_u32(state, "statistics present", &statistics.present);
	state_check(state, !(statistics.present >> BALLOON_STATISTICS), "statistics present",
		    "has unknown bits");
	for (int i = 0; i < BALLOON_STATISTICS; i++)
		state_u64(state, "statistic", &statistics.value[i]);
	if (!state_loading(state))
		return;
	statistics.updated_ns = age < (uint64_t)now ? now - (int64_t)age : 1;
	pthread_mutex_lock(&balloon->lock);
	balloon->statistics = statistics;
	pthread_mutex_unlock(&balloon->lock);
}

static void visit_state(struct virtio_device *device, struct state *state)
{
	struct virtio_balloon *balloon = balloon_of(device);
	uint32_t interval_ms = (uint32_t)(balloon->interval_ns / NS_PER_MS);
	uint32_t target = balloon->target, actual = balloon->actual;

	state_u32(state, "target", &target);
	state_u32(state, "actual", &actual);
	state_buffer(state, "poison", balloon->poison, sizeof(balloon->poison));
	state_u32(state, "interval", &interval_ms);
	state_bool(state, "statistics held", &balloon->statistics_held);
	statistics_state(balloon, state);
	if (!state_loading(state) || state_failed(state))
		return;
	__atomic_store_n(&balloon->target, target, __ATOMIC_RELAXED);
	__atomic_store_n(&balloon->actual, actual, __ATOMIC_RELAXED);
	balloon->interval_ns = interval_ms * NS_PER_MS;
	if (device->active)
		configure(balloon);
}

static json_t *describe_count(const struct memory_discard_count *count)
{
	return json_pack("{s:I, s:I, s:I}", "returned", (json_int_t)count->discarded, "kept",
			 (json_int_t)count->kept, "not-memory", (json_int_t)count->absent);
}

static void describe(struct virtio_device *device, json_t *object)
{
	struct virtio_balloon *balloon = balloon_of(device);
	struct virtio_balloon_statistics statistics;
	json_t *values = json_object();

	virtio_balloon_statistics(device, &statistics);
	for (int i = 0; i < BALLOON_STATISTICS; i++)
		if (statistics.present >> i & 1)
			json_object_set_new(values, virtio_balloon_statistic_name(i),
					    json_integer((json_int_t)statistics.value[i]));
	json_object_set_new(object, "target",
			    json_integer((json_int_t)(balloon->target * PAGE_BYTES)));
	json_object_set_new(object, "actual",
			    json_integer((json_int_t)(balloon->actual * PAGE_BYTES)));
	json_object_set_new(object, "inflated", describe_count(&balloon->inflated));
	json_object_set_new(object, "deflated", json_integer((json_int_t)balloon->deflated));
	json_object_set_new(object, "reported", describe_count(&balloon->reported));
	json_object_set_new(object, "statistics", values);
}

static void destroy(struct virtio_device *device)
{
	struct virtio_balloon *balloon = balloon_of(device);

	event_timer_destroy(balloon->poll);
	event_timer_destroy(balloon->again);
	virtio_device_cleanup(device);
	pthread_mutex_destroy(&balloon->lock);
	free(balloon);
}

static const struct virtio_device_ops balloon_ops = {
    .type = "virtio-balloon",
    .id = VIRTIO_ID_BALLOON,
    .pci_class = 0x050000,
    .config_size = CONFIG_SIZE,
    .config_read = config_read,
    .config_write = config_write,
    .activate = activate,
    .queue_notify = queue_notify,
    .reset = reset,
    .quiesce = quiesce,
    .resume = resume,
    .describe = describe,
    .destroy = destroy,
};

struct balloon_options {
	const char *id;
	uint64_t seconds;
	bool reporting, deflate_on_oom, release_committed;
};

/* The strings of *parsed live as long as @options. */
static struct error *take_options(struct options *options, struct balloon_options *parsed)
{
	const char *committed = options_take(options, "committed");

	if (committed && strcmp(committed, "keep") != 0 && strcmp(committed, "release") != 0)
		return error_usage("committed: '%s' is neither 'keep' nor 'release'", committed);
	parsed->release_committed = committed && strcmp(committed, "release") == 0;
	parsed->id = options_take(options, "id") ?: parsed->id;
	TRY(options_take_number(options, "statistics", INTERVAL_MAX_SECONDS, &parsed->seconds));
	TRY(options_take_bool(options, "reporting", &parsed->reporting));
	TRY(options_take_bool(options, "deflate-on-oom", &parsed->deflate_on_oom));
	return options_finish(options);
}

struct error *virtio_balloon_create(const char *text, struct virtio_device **device)
{
	AUTO_OPTIONS struct options *options = NULL;
	struct balloon_options parsed = {
	    .id = "balloon", .reporting = true, .deflate_on_oom = true};
	struct virtio_balloon *balloon;
	struct error *error;

	if (text && *text) {
		TRY(options_parse(text, NULL, &options));
		TRY(take_options(options, &parsed));
	}
	balloon = calloc(1, sizeof(*balloon));
	if (!balloon)
		return error_system(ENOMEM, "balloon '%s'", parsed.id);
	error = virtio_device_init(&balloon->device, &balloon_ops, visit_state, parsed.id, QUEUES,
				   QUEUE_SIZE);
	if (error) {
		free(balloon);
		return error;
	}
	pthread_mutex_init(&balloon->lock, NULL);
	error = event_timer_create(balloon->device.loop, poll_statistics, balloon, &balloon->poll);
	if (!error)
		error =
		    event_timer_create(balloon->device.loop, run_again, balloon, &balloon->again);
	if (error) {
		destroy(&balloon->device);
		return error;
	}
	balloon->device.features |= VIRTIO_FEATURE(F_STATS_VQ);
	if (parsed.reporting)
		balloon->device.features |=
		    VIRTIO_FEATURE(F_REPORTING) | VIRTIO_FEATURE(F_PAGE_POISON);
	if (parsed.deflate_on_oom)
		balloon->device.features |= VIRTIO_FEATURE(F_DEFLATE_ON_OOM);
	balloon->release_committed = parsed.release_committed;
	balloon->interval_ns = (int64_t)parsed.seconds * NS_PER_SECOND;
	balloon->reporting_queue = -1;
	*device = &balloon->device;
	return NULL;
}

static void announce_target(void *context)
{
	virtio_device_config_changed(context);
}

void virtio_balloon_set_target(struct virtio_device *device, uint64_t bytes)
{
	struct virtio_balloon *balloon = balloon_of(device);
	uint64_t pages = MIN(bytes >> PAGE_SHIFT, (uint64_t)UINT32_MAX);

	__atomic_store_n(&balloon->target, (uint32_t)pages, __ATOMIC_RELAXED);
	event_loop_call(device->loop, announce_target, device);
}

uint64_t virtio_balloon_size(struct virtio_device *device)
{
	return __atomic_load_n(&balloon_of(device)->actual, __ATOMIC_RELAXED) * PAGE_BYTES;
}

struct interval_change {
	struct virtio_balloon *balloon;
	uint32_t milliseconds;
};

static void change_interval(void *context)
{
	const struct interval_change *change = context;
	struct virtio_balloon *balloon = change->balloon;

	balloon->interval_ns = change->milliseconds * NS_PER_MS;
	event_timer_cancel(balloon->poll);
	if (balloon->interval_ns)
		event_timer_arm(balloon->poll, balloon->interval_ns);
}

void virtio_balloon_set_interval(struct virtio_device *device, uint32_t milliseconds)
{
	struct interval_change change = {balloon_of(device), milliseconds};

	event_loop_call(device->loop, change_interval, &change);
}

void virtio_balloon_statistics(struct virtio_device *device,
			       struct virtio_balloon_statistics *statistics)
{
	struct virtio_balloon *balloon = balloon_of(device);

	pthread_mutex_lock(&balloon->lock);
	*statistics = balloon->statistics;
	pthread_mutex_unlock(&balloon->lock);
}

_Static_assert(BALLOON_STATISTICS <= 32, "`present` has a bit for each");
