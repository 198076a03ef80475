/* SPDX-License-Identifier: BSD-2-Clause */
/* The decision of auto_policy.h. Pure: no clock, no device, no allocation; any thread. */
#include "machine/auto_policy.h"

#include <stddef.h>

#include "base/checked.h"
#include "base/clock.h"

const char *auto_action_name(enum auto_action action)
{
	static const char *const names[] = {
	    [AUTO_HOLD] = "hold",
	    [AUTO_GROW] = "grow",
	    [AUTO_SHRINK] = "shrink",
	};

	return names[action];
}

const char *auto_reason_name(enum auto_reason reason)
{
	static const char *const names[] = {
	    [AUTO_NO_STATISTICS] = "no-statistics",
	    [AUTO_WAITING] = "waiting",
	    [AUTO_IN_BAND] = "enough",
	    [AUTO_NOT_CALM] = "not-calm",
	    [AUTO_SHRINKING] = "shrinking",
	    [AUTO_AT_LIMIT] = "at-maximum",
	    [AUTO_MEMMAP_LIMIT] = "boot-memory-limit",
	    [AUTO_BLOCKED] = "blocked",
	    [AUTO_BELOW_MINIMUM] = "below-minimum",
	    [AUTO_LOW] = "low-available",
	    [AUTO_FAST] = "fast-growth",
	    [AUTO_SWAPPING] = "swapping",
	    [AUTO_STALLING] = "stalling",
	    [AUTO_OOM_KILL] = "oom-kill",
	    [AUTO_SILENT] = "silent",
	    [AUTO_ABOVE_MAXIMUM] = "above-maximum",
	    [AUTO_GUEST_OOM] = "guest-out-of-memory",
	    [AUTO_IDLE] = "idle",
	};

	return names[reason];
}

/* A guest may claim any number: sums of them stop at the top instead of wrapping. */
static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t sum;

	return checked_add(a, b, &sum) ? sum : UINT64_MAX;
}

static uint64_t subtract(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t round_up(uint64_t value, uint64_t alignment)
{
	uint64_t aligned;

	return checked_align_up(value, alignment, &aligned) ? aligned
							    : align_down(UINT64_MAX, alignment);
}

static uint64_t used_of(const struct auto_sample *sample)
{
	return subtract(sample->total, sample->available);
}

/* @amount in @elapsed_ns, as a rate a second. */
static uint64_t per_second(uint64_t amount, int64_t elapsed_ns)
{
	uint64_t elapsed_ms = (uint64_t)elapsed_ns / NS_PER_MS;
	uint64_t scaled;

	if (!elapsed_ms)
		elapsed_ms = 1;
	return checked_mul(amount, 1000, &scaled) ? scaled / elapsed_ms
						  : amount / elapsed_ms * 1000;
}

/* What happened between two samples. */
struct changes {
	bool swapping, stalling, killed, faulting;
};

static struct changes changes_between(const struct auto_sample *last,
				      const struct auto_sample *sample)
{
	int64_t elapsed = sample->time_ns - last->time_ns;

	return (struct changes){
	    .swapping = per_second(sample->swap_in - last->swap_in, elapsed) >= AUTO_SWAP_RATE ||
			per_second(sample->swap_out - last->swap_out, elapsed) >= AUTO_SWAP_RATE,
	    .stalling = sample->stalls > last->stalls,
	    .killed = sample->oom_kills > last->oom_kills,
	    .faulting =
		per_second(sample->major_faults - last->major_faults, elapsed) >= AUTO_FAULT_RATE,
	};
}

/* Counters that went backwards: another kernel speaks now. */
static bool guest_restarted(const struct auto_sample *last, const struct auto_sample *sample)
{
	return sample->swap_in < last->swap_in || sample->swap_out < last->swap_out ||
	       sample->major_faults < last->major_faults || sample->oom_kills < last->oom_kills ||
	       sample->stalls < last->stalls;
}

/* Takes the sample in: how fast use grows, and whether there are signs of pressure. */
static struct changes observe(struct auto_state *state, const struct auto_sample *sample)
{
	struct auto_sample last = state->last;
	struct changes changes = {0};

	if (last.time_ns && guest_restarted(&last, sample)) {
		*state = (struct auto_state){0};
		last = (struct auto_sample){0};
	}
	state->last = *sample;
	state->silence_answered = false;
	if (!last.time_ns) {
		state->calm_since_ns = sample->time_ns;
		return changes;
	}
	changes = changes_between(&last, sample);
	state->rate -= state->rate / AUTO_RATE_FADE;
	state->rate = MAX(state->rate, per_second(subtract(used_of(sample), used_of(&last)),
						  sample->time_ns - last.time_ns));
	if (changes.swapping || changes.stalling || changes.killed || changes.faulting)
		state->calm_since_ns = sample->time_ns;
	return changes;
}

/*
 * The total that the guest should have, and why, if it is more than @future (what it will have when
 * all that was requested has arrived).
 */
static uint64_t wanted_total(const struct auto_state *state, const struct changes *changes,
			     uint64_t future, enum auto_reason *reason)
{
	uint64_t used = used_of(&state->last);
	uint64_t reserve = MAX(used / AUTO_GROW_DIVISOR, AUTO_GROW_RESERVE);
	/* At most as much again as is used: growth that fast is a burst, and doubling each second
	 * follows it. */
	uint64_t lead = MIN(state->rate, used / AUTO_LEAD_SECONDS) * AUTO_LEAD_SECONDS;
	uint64_t wanted = add(used, MAX(reserve, lead));
	bool little = subtract(future, used) < used / AUTO_SHRINK_DIVISOR;

	*reason = lead > reserve && future >= add(used, reserve) ? AUTO_FAST : AUTO_LOW;
	if (changes->killed) {
		*reason = AUTO_OOM_KILL;
		return MAX(wanted, add(future, future));
	}
	if ((changes->swapping || changes->stalling) && little) {
		uint64_t step = MAX(future / AUTO_GROW_DIVISOR, AUTO_GROW_STEP);

		*reason = changes->swapping ? AUTO_SWAPPING : AUTO_STALLING;
		return MAX(wanted, add(future, step));
	}
	return wanted;
}

/* The most elastic memory that the guest may be asked to take. */
static uint64_t ceiling(const struct auto_limits *limits)
{
	uint64_t describable;

	if (!checked_mul(limits->boot / AUTO_MEMMAP_BOOT, AUTO_MEMMAP_DIVISOR, &describable))
		describable = UINT64_MAX;
	describable = MIN(limits->maximum, align_down(describable, limits->block));
	return MAX(describable, limits->minimum);
}

static void hold(struct auto_decision *decision, enum auto_reason reason)
{
	decision->action = AUTO_HOLD;
	decision->reason = reason;
}

static void grow(const struct auto_limits *limits, const struct auto_elastic *elastic,
		 uint64_t amount, enum auto_reason reason, struct auto_decision *decision)
{
	uint64_t most = ceiling(limits);
	uint64_t available = decision->available / AUTO_MEMMAP_STEP;
	uint64_t payable;

	if (!checked_mul(available, AUTO_MEMMAP_DIVISOR, &payable))
		payable = UINT64_MAX;
	amount = add(amount, amount / AUTO_MEMMAP_DIVISOR);
	amount = MIN(amount, MAX(payable, AUTO_MEMMAP_FREE));
	amount = round_up(MAX(amount, AUTO_GROW_STEP), limits->block);
	if (elastic->requested >= most) {
		hold(decision, most < limits->maximum ? AUTO_MEMMAP_LIMIT : AUTO_AT_LIMIT);
	} else if (elastic->blocked) {
		hold(decision, AUTO_BLOCKED);
	} else {
		decision->action = AUTO_GROW;
		decision->reason = reason;
		decision->target = MIN(add(elastic->requested, amount), most);
	}
}

static void shrink(struct auto_state *state, const struct auto_limits *limits,
		   const struct auto_elastic *elastic, uint64_t surplus, int64_t now_ns,
		   struct auto_decision *decision)
{
	uint64_t step = MAX(surplus / AUTO_SHRINK_FRACTION, AUTO_SHRINK_STEP);

	step = MIN(step, surplus);
	step = MIN(step, subtract(elastic->requested, limits->minimum));
	step = align_down(step, limits->block);
	if (surplus < AUTO_SHRINK_LEAST || !step) {
		hold(decision, AUTO_IN_BAND);
	} else if (elastic->plugged > elastic->requested) {
		hold(decision, AUTO_SHRINKING);
	} else if (now_ns - state->calm_since_ns < AUTO_CALM_NS ||
		   (state->last_shrink_ns && now_ns - state->last_shrink_ns < AUTO_SHRINK_NS)) {
		hold(decision, AUTO_NOT_CALM);
	} else {
		decision->action = AUTO_SHRINK;
		decision->reason = AUTO_IDLE;
		decision->target = elastic->requested - step;
		state->last_shrink_ns = now_ns;
	}
}

static void decide_without_news(struct auto_state *state, const struct auto_limits *limits,
				const struct auto_elastic *elastic, int64_t now_ns,
				struct auto_decision *decision)
{
	if (!state->tight || state->silence_answered ||
	    now_ns - state->last.time_ns < AUTO_SILENT_NS) {
		hold(decision, AUTO_WAITING);
		return;
	}
	state->silence_answered = true;
	state->calm_since_ns = now_ns;
	grow(limits, elastic, AUTO_GROW_STEP, AUTO_SILENT, decision);
}

static void decide_on_sample(struct auto_state *state, const struct auto_limits *limits,
			     const struct auto_elastic *elastic, const struct auto_sample *sample,
			     int64_t now_ns, struct auto_decision *decision)
{
	struct changes changes = observe(state, sample);
	/* Total when the devices have done what they were asked. */
	uint64_t future = subtract(add(sample->total, elastic->requested), elastic->plugged);
	uint64_t keep =
	    add(decision->used, MAX(decision->used / AUTO_SHRINK_DIVISOR, AUTO_SHRINK_RESERVE));
	enum auto_reason reason;

	decision->wanted = wanted_total(state, &changes, future, &reason);
	/* Tight: what it has now is too little, even when more is on its way. */
	state->tight = decision->wanted > sample->total;
	if (state->tight)
		state->calm_since_ns = sample->time_ns;
	if (decision->wanted > future)
		grow(limits, elastic, decision->wanted - future, reason, decision);
	else
		shrink(state, limits, elastic, subtract(future, MAX(keep, decision->wanted)),
		       now_ns, decision);
}

void auto_decide(struct auto_state *state, const struct auto_limits *limits,
		 const struct auto_elastic *elastic, const struct auto_sample *sample,
		 int64_t now_ns, struct auto_decision *decision)
{
	*decision = (struct auto_decision){
	    .action = AUTO_HOLD,
	    .target = elastic->requested,
	    .used = used_of(sample),
	    .total = sample->total,
	    .available = MIN(sample->available, sample->total),
	};
	if (elastic->requested < limits->minimum) {
		decision->action = AUTO_GROW;
		decision->reason = AUTO_BELOW_MINIMUM;
		decision->target = limits->minimum;
	} else if (elastic->requested > limits->maximum) {
		decision->action = AUTO_SHRINK;
		decision->reason = AUTO_ABOVE_MAXIMUM;
		decision->target = limits->maximum;
	} else if (!sample->time_ns) {
		*state = (struct auto_state){0}; /* whatever was learnt was of another guest */
		hold(decision, AUTO_NO_STATISTICS);
	} else if (sample->time_ns == state->last.time_ns) {
		decide_without_news(state, limits, elastic, now_ns, decision);
	} else {
		decide_on_sample(state, limits, elastic, sample, now_ns, decision);
	}
}

/* @part of @whole shares of @amount, rounded down to @block. */
static uint64_t proportion(uint64_t amount, uint64_t part, uint64_t whole, uint64_t block)
{
	__extension__ unsigned __int128 product = (unsigned __int128)amount * part;

	return align_down((uint64_t)(product / whole), block);
}

/* How far @share can go in the direction. */
static uint64_t share_room(const struct auto_share *share, bool growing)
{
	return growing ? subtract(share->maximum, share->requested)
		       : subtract(share->requested, share->minimum);
}

static void share_move(struct auto_share *share, bool growing, uint64_t amount)
{
	share->requested = growing ? share->requested + amount : share->requested - amount;
}

void auto_spread(struct auto_share *shares, uint32_t count, uint64_t target)
{
	uint64_t sum = 0, room = 0, change, left;
	bool growing;

	for (uint32_t i = 0; i < count; i++)
		sum = add(sum, shares[i].requested);
	growing = target > sum;
	for (uint32_t i = 0; i < count; i++)
		room = add(room, share_room(&shares[i], growing));
	change = MIN(growing ? target - sum : sum - target, room);
	if (!change)
		return;
	left = change;
	for (uint32_t i = 0; i < count; i++) {
		uint64_t amount =
		    proportion(change, share_room(&shares[i], growing), room, shares[i].block);

		share_move(&shares[i], growing, amount);
		left -= amount;
	}
	/* What rounding left over goes to the first that have room. */
	for (uint32_t i = 0; i < count && left; i++) {
		uint64_t amount =
		    growing ? round_up(left, shares[i].block) : align_down(left, shares[i].block);

		amount = MIN(amount, share_room(&shares[i], growing));
		share_move(&shares[i], growing, amount);
		left = subtract(left, amount);
	}
}
