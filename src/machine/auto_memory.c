/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The driver of auto_memory.h: statistics in, requests out. Main loop only.
 *
 * The balloon asks the guest once a second; the timer here looks four times as often whether an
 * answer has come, so that a decision is made on numbers that are at most a quarter of a second
 * old. Device sizes are read afresh for each decision: an operator may resize an automatic device
 * as well, and the policy goes on from there.
 *
 * The guest controls the statistics. Only creation can fail; a refused request is logged and tried
 * again with the next decision.
 */
#include "machine/auto_memory.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/checked.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/size.h"
#include "machine/auto_policy.h"
#include "virtio/balloon.h"
#include "virtio/mem.h"

#define POLL_INTERVAL_MS 1000
#define TICK_NS		 (250 * NS_PER_MS)

struct auto_memory {
	struct event_timer *timer;
	struct virtio_device *balloon;
	void (*handler)(void *context, json_t *decision);
	void *context;
	struct auto_limits limits;
	struct auto_state state;
	enum auto_reason told; /* the last reason for holding that was told */
	bool paused;
	int64_t ignore_until_ns; /* samples from before do not count */
	uint32_t count;
	struct auto_share *shares; /* scratch, `count` of them */
	struct auto_memory_device devices[];
};

static uint64_t statistic(const struct virtio_balloon_statistics *statistics,
			  enum virtio_balloon_statistic which)
{
	return statistics->present >> which & 1 ? statistics->value[which] : 0;
}

/* The guest's newest numbers; time 0 if there are none, or not those that a decision needs. */
static struct auto_sample take_sample(const struct auto_memory *memory)
{
	struct virtio_balloon_statistics statistics;
	struct auto_sample sample;

	virtio_balloon_statistics(memory->balloon, &statistics);
	sample = (struct auto_sample){
	    .time_ns = statistics.updated_ns,
	    .total = statistic(&statistics, BALLOON_TOTAL),
	    .available = statistic(&statistics, BALLOON_AVAILABLE),
	    .swap_in = statistic(&statistics, BALLOON_SWAP_IN),
	    .swap_out = statistic(&statistics, BALLOON_SWAP_OUT),
	    .major_faults = statistic(&statistics, BALLOON_MAJOR_FAULTS),
	    .oom_kills = statistic(&statistics, BALLOON_OOM_KILLS),
	    .stalls = statistic(&statistics, BALLOON_ALLOCATION_STALLS),
	};
	/* Before Linux 4.6 free memory was all there was to know. */
	if (!(statistics.present >> BALLOON_AVAILABLE & 1))
		sample.available = statistic(&statistics, BALLOON_FREE) +
				   statistic(&statistics, BALLOON_DISK_CACHES);
	if (!(statistics.present >> BALLOON_TOTAL & 1) || sample.time_ns < memory->ignore_until_ns)
		sample.time_ns = 0;
	return sample;
}

/* The devices' present requests into the shares, and their sums. */
static struct auto_elastic take_elastic(struct auto_memory *memory)
{
	struct auto_elastic elastic = {0};

	for (uint32_t i = 0; i < memory->count; i++) {
		const struct auto_memory_device *device = &memory->devices[i];
		struct virtio_mem_status status;

		virtio_mem_status(device->device, &status);
		memory->shares[i] = (struct auto_share){
		    .minimum = device->minimum,
		    .maximum = device->maximum,
		    .block = status.block_size,
		    .requested = status.requested,
		};
		elastic.requested += status.requested;
		elastic.plugged += status.plugged;
		elastic.blocked |=
		    status.plugged < status.requested && status.reason == VIRTIO_MEM_BUSY;
	}
	return elastic;
}

/*
 * Corrects single devices, whatever the sum: into their own limits, and back to what is plugged
 * where the guest had no memory to describe more. Its driver would wait a minute before it tried
 * again, but tries at once when the request changes, which the next decision does. True if *reason
 * says that there was something to correct.
 */
static bool correct_shares(struct auto_memory *memory, enum auto_reason *reason)
{
	bool corrected = false;

	for (uint32_t i = 0; i < memory->count; i++) {
		struct auto_share *share = &memory->shares[i];
		struct virtio_mem_status status;
		uint64_t size;

		virtio_mem_status(memory->devices[i].device, &status);
		size = status.reason == VIRTIO_MEM_GUEST_OOM ? MIN(share->requested, status.plugged)
							     : share->requested;
		*reason = size < share->requested ? AUTO_GUEST_OOM : *reason;
		if (size < share->minimum) {
			size = share->minimum;
			*reason = AUTO_BELOW_MINIMUM;
		} else if (size > share->maximum) {
			size = share->maximum;
			*reason = AUTO_ABOVE_MAXIMUM;
		}
		corrected |= size != share->requested;
		share->requested = size;
	}
	return corrected;
}

static void log_decision(const struct auto_decision *decision, uint64_t before, uint64_t after)
{
	char texts[5][SIZE_TEXT_MAX];

	log_info("elastic memory: %s from %s to %s (%s): guest uses %s of %s, %s available",
		 auto_action_name(decision->action), size_format(before, texts[0]),
		 size_format(after, texts[1]), auto_reason_name(decision->reason),
		 size_format_human(decision->used, texts[2]),
		 size_format_human(decision->total, texts[3]),
		 size_format_human(decision->available, texts[4]));
}

static void tell(struct auto_memory *memory, const struct auto_decision *decision, uint64_t before)
{
	json_t *object, *devices = json_array();
	uint64_t after = 0;

	for (uint32_t i = 0; i < memory->count; i++) {
		after += memory->shares[i].requested;
		json_array_append_new(devices,
				      json_pack("{s:s, s:I}", "id", memory->devices[i].device->id,
						"size", (json_int_t)memory->shares[i].requested));
	}
	log_decision(decision, before, after);
	object =
	    json_pack("{s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "action",
		      auto_action_name(decision->action), "reason",
		      auto_reason_name(decision->reason), "before", (json_int_t)before, "after",
		      (json_int_t)after, "used", (json_int_t)decision->used, "available",
		      (json_int_t)decision->available, "total", (json_int_t)decision->total,
		      "wanted", (json_int_t)decision->wanted, "devices", devices);
	if (object && memory->handler)
		memory->handler(memory->context, object);
	json_decref(object);
}

/* Carries the shares out; a share that was refused falls back to what is requested now. */
static void request(struct auto_memory *memory)
{
	for (uint32_t i = 0; i < memory->count; i++) {
		struct virtio_device *device = memory->devices[i].device;
		struct virtio_mem_status status;
		AUTO_ERROR struct error *error = NULL;

		virtio_mem_status(device, &status);
		if (status.requested == memory->shares[i].requested)
			continue;
		error = virtio_mem_request(device, memory->shares[i].requested);
		if (!error)
			continue;
		log_warning("elastic memory '%s': %s", device->id, error_message(error));
		memory->shares[i].requested = status.requested;
	}
}

/* Reasons for holding that somebody should know: the guest needs more and does not get it. */
static bool worth_telling(enum auto_reason reason)
{
	return reason == AUTO_AT_LIMIT || reason == AUTO_MEMMAP_LIMIT || reason == AUTO_BLOCKED;
}

static void decide(struct auto_memory *memory)
{
	struct auto_elastic elastic = take_elastic(memory);
	struct auto_sample sample = take_sample(memory);
	struct auto_decision decision = {
	    .action = AUTO_SHRINK,
	    .total = sample.total,
	    .available = MIN(sample.available, sample.total),
	};

	decision.used = decision.total - decision.available;
	if (correct_shares(memory, &decision.reason)) {
		if (decision.reason == AUTO_BELOW_MINIMUM)
			decision.action = AUTO_GROW;
		request(memory);
		tell(memory, &decision, elastic.requested);
		return;
	}
	auto_decide(&memory->state, &memory->limits, &elastic, &sample, clock_monotonic_ns(),
		    &decision);
	if (decision.reason == AUTO_WAITING)
		return;
	if (decision.action == AUTO_HOLD) {
		if (worth_telling(decision.reason) && decision.reason != memory->told)
			tell(memory, &decision, elastic.requested);
		memory->told = decision.reason;
		return;
	}
	memory->told = AUTO_IN_BAND;
	auto_spread(memory->shares, memory->count, decision.target);
	request(memory);
	tell(memory, &decision, elastic.requested);
}

static void tick(void *context)
{
	struct auto_memory *memory = context;

	if (!memory->paused)
		decide(memory);
	event_timer_arm(memory->timer, TICK_NS);
}

/* The devices' limits together; false if they make no sense. */
static struct error *sum_limits(struct auto_memory *memory, uint64_t boot)
{
	struct auto_limits *limits = &memory->limits;

	limits->boot = boot;
	for (uint32_t i = 0; i < memory->count; i++) {
		const struct auto_memory_device *device = &memory->devices[i];
		struct virtio_mem_status status;

		virtio_mem_status(device->device, &status);
		if (device->minimum > device->maximum || device->maximum > status.maximum ||
		    device->minimum % status.block_size || device->maximum % status.block_size)
			return error_new(EINVAL,
					 "elastic memory '%s': auto=%" PRIu64 "..%" PRIu64
					 " must be multiples of its block size, in order, and at "
					 "most its maximum",
					 device->device->id, device->minimum, device->maximum);
		limits->minimum += device->minimum;
		limits->maximum += device->maximum;
		/* The finest step; auto_spread rounds to each device's own. */
		limits->block = i ? MIN(limits->block, status.block_size) : status.block_size;
	}
	return NULL;
}

static struct error *create(struct auto_memory *memory, const struct auto_memory_options *options)
{
	memory->shares = calloc(options->count, sizeof(*memory->shares));
	if (!memory->shares)
		return error_system(ENOMEM, "automatic elastic memory");
	TRY(sum_limits(memory, options->boot));
	return event_timer_create(options->loop, tick, memory, &memory->timer);
}

struct error *auto_memory_create(const struct auto_memory_options *options,
				 struct auto_memory **result)
{
	struct auto_memory *memory =
	    calloc(1, sizeof(*memory) + options->count * sizeof(*memory->devices));
	struct error *error;

	if (!memory)
		return error_system(ENOMEM, "automatic elastic memory");
	memory->balloon = options->balloon;
	memory->handler = options->handler;
	memory->context = options->context;
	memory->count = options->count;
	for (uint32_t i = 0; i < options->count; i++)
		memory->devices[i] = options->devices[i];
	error = create(memory, options);
	if (error) {
		auto_memory_destroy(memory);
		return error;
	}
	virtio_balloon_set_interval(memory->balloon, POLL_INTERVAL_MS);
	event_timer_arm(memory->timer, TICK_NS);
	*result = memory;
	return NULL;
}

void auto_memory_destroy(struct auto_memory *memory)
{
	if (!memory)
		return;
	event_timer_destroy(memory->timer);
	free(memory->shares);
	free(memory);
}

void auto_memory_pause(struct auto_memory *memory, bool paused)
{
	if (!memory)
		return;
	/*
	 * Counters stood still, so that a rate over the pause would mean nothing; and what runs
	 * next may be another guest (a reset pauses).
	 */
	if (memory->paused && !paused) {
		memory->state = (struct auto_state){0};
		memory->told = AUTO_NO_STATISTICS;
		memory->ignore_until_ns = clock_monotonic_ns();
	}
	memory->paused = paused;
}
