/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * machine/auto_memory.h between fakes of the balloon and of two virtio-mem devices: what it
 * requests and tells. Each test lets the loop run for a few of its ticks of a quarter of a second.
 */
#include <stdlib.h>
#include <string.h>

#include "cmocka_prelude.h"

#include "base/checked.h"
#include "base/clock.h"
#include "machine/auto_memory.h"
#include "virtio/balloon.h"
#include "virtio/mem.h"

struct fake {
	struct virtio_device balloon, mem[2];
	struct virtio_mem_status status[2];
	struct virtio_balloon_statistics statistics;
	uint32_t interval;
	int requests;
	struct event_loop *loop;
	struct event_timer *stop;
	json_t *decisions;
	struct auto_memory *memory;
};

static struct fake *fake; /* the functions below have no other way to it */

static int index_of(const struct virtio_device *device)
{
	return device == &fake->mem[1];
}

void virtio_mem_status(struct virtio_device *device, struct virtio_mem_status *status)
{
	*status = fake->status[index_of(device)];
}

struct error *virtio_mem_request(struct virtio_device *device, uint64_t size)
{
	fake->status[index_of(device)].requested = size;
	fake->requests++;
	return NULL;
}

void virtio_balloon_statistics(struct virtio_device *device,
			       struct virtio_balloon_statistics *statistics)
{
	*statistics = fake->statistics;
}

void virtio_balloon_set_interval(struct virtio_device *device, uint32_t milliseconds)
{
	fake->interval = milliseconds;
}

static void stop(void *context)
{
	event_loop_stop(fake->loop);
}

static void keep_decision(void *context, json_t *decision)
{
	json_array_append(fake->decisions, decision);
}

/* The guest reports now that it has @total and could use @available of it. */
static void guest_reports(uint64_t total, uint64_t available)
{
	fake->statistics.updated_ns = clock_monotonic_ns();
	fake->statistics.present = 1 << BALLOON_TOTAL | 1 << BALLOON_AVAILABLE;
	fake->statistics.value[BALLOON_TOTAL] = total;
	fake->statistics.value[BALLOON_AVAILABLE] = available;
}

static void run(int milliseconds)
{
	event_timer_arm(fake->stop, milliseconds * NS_PER_MS);
	event_loop_run(fake->loop);
}

static int setup(void **state)
{
	struct auto_memory_device devices[2];
	struct auto_memory_options options = {
	    .devices = devices, .count = 2, .boot = MIB(512), .handler = keep_decision};

	fake = calloc(1, sizeof(*fake));
	fake->decisions = json_array();
	assert_no_error(event_loop_create(&fake->loop));
	assert_no_error(event_timer_create(fake->loop, stop, NULL, &fake->stop));
	for (int i = 0; i < 2; i++) {
		snprintf(fake->mem[i].id, sizeof(fake->mem[i].id), "hot%d", i);
		fake->status[i] =
		    (struct virtio_mem_status){.maximum = GIB(4), .block_size = MIB(2)};
		devices[i] = (struct auto_memory_device){&fake->mem[i], 0, GIB(2)};
	}
	options.loop = fake->loop;
	options.balloon = &fake->balloon;
	assert_no_error(auto_memory_create(&options, &fake->memory));
	return 0;
}

static int teardown(void **state)
{
	auto_memory_destroy(fake->memory);
	event_timer_destroy(fake->stop);
	event_loop_destroy(fake->loop);
	json_decref(fake->decisions);
	free(fake);
	return 0;
}

static const char *decision_text(size_t index, const char *key)
{
	return json_string_value(json_object_get(json_array_get(fake->decisions, index), key));
}

static void test_the_guest_is_asked_every_second(void **state)
{
	assert_int_equal(fake->interval, 1000);
}

static void test_without_reports_nothing_is_requested(void **state)
{
	run(600);
	assert_int_equal(fake->requests, 0);
}

static void test_a_low_guest_grows_on_both_devices_and_it_is_told(void **state)
{
	json_t *devices;

	guest_reports(MIB(480), MIB(20));
	run(350);
	assert_int_equal(json_array_size(fake->decisions), 1);
	assert_string_equal(decision_text(0, "action"), "grow");
	assert_string_equal(decision_text(0, "reason"), "low-available");
	devices = json_object_get(json_array_get(fake->decisions, 0), "devices");
	assert_int_equal(json_array_size(devices), 2);
	assert_true(fake->status[0].requested > 0);
	assert_int_equal(fake->status[0].requested, fake->status[1].requested);
}

static void test_one_report_leads_to_one_decision(void **state)
{
	guest_reports(MIB(480), MIB(20));
	run(1100);
	assert_int_equal(json_array_size(fake->decisions), 1);
}

static void test_a_paused_machine_decides_nothing(void **state)
{
	auto_memory_pause(fake->memory, true);
	guest_reports(MIB(480), MIB(20));
	run(600);
	assert_int_equal(fake->requests, 0);
	/* Nor afterwards, on numbers from before. */
	auto_memory_pause(fake->memory, false);
	run(600);
	assert_int_equal(fake->requests, 0);
	guest_reports(MIB(480), MIB(20));
	run(350);
	assert_true(fake->requests > 0);
}

static void test_what_the_guest_could_not_plug_is_withdrawn(void **state)
{
	fake->status[0].requested = GIB(1);
	fake->status[0].plugged = MIB(256);
	fake->status[0].reason = VIRTIO_MEM_GUEST_OOM;
	run(350);
	assert_int_equal(fake->status[0].requested, MIB(256));
	assert_string_equal(decision_text(0, "reason"), "guest-out-of-memory");
}

static void test_a_resize_by_hand_beyond_the_limits_is_taken_back(void **state)
{
	fake->status[1].requested = GIB(3);
	run(350);
	assert_int_equal(fake->status[1].requested, GIB(2));
	assert_string_equal(decision_text(0, "reason"), "above-maximum");
}

static void test_reaching_the_maximum_is_told_once(void **state)
{
	fake->status[0].requested = fake->status[0].plugged = GIB(2);
	fake->status[1].requested = fake->status[1].plugged = GIB(2);
	for (int i = 0; i < 3; i++) {
		guest_reports(GIB(4) + MIB(480), MIB(10));
		run(350);
	}
	assert_int_equal(json_array_size(fake->decisions), 1);
	assert_string_equal(decision_text(0, "action"), "hold");
	assert_string_equal(decision_text(0, "reason"), "at-maximum");
}

static void test_limits_that_are_no_multiples_are_refused(void **state)
{
	struct auto_memory_device device = {&fake->mem[0], MIB(1), GIB(2)};
	struct auto_memory_options options = {
	    .loop = fake->loop, .balloon = &fake->balloon, .devices = &device, .count = 1};
	struct auto_memory *memory;

	assert_error_with(auto_memory_create(&options, &memory), "hot0");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(test_the_guest_is_asked_every_second),
	    TEST(test_without_reports_nothing_is_requested),
	    TEST(test_a_low_guest_grows_on_both_devices_and_it_is_told),
	    TEST(test_one_report_leads_to_one_decision),
	    TEST(test_a_paused_machine_decides_nothing),
	    TEST(test_what_the_guest_could_not_plug_is_withdrawn),
	    TEST(test_a_resize_by_hand_beyond_the_limits_is_taken_back),
	    TEST(test_reaching_the_maximum_is_told_once),
	    TEST(test_limits_that_are_no_multiples_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
