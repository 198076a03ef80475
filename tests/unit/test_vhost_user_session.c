/* SPDX-License-Identifier: BSD-2-Clause */
/* Both ends of vhost-user against each other: each thing that the front-end asks, done by the back-end. */
#include "cmocka_prelude.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "vhost_user/inflight.h"
#include "vhost_user/socket.h"
#include "vhost_user_pair.h"

static const struct vhost_user_range hot_unit = {HOT_GUEST, HOT_UNIT};

static struct vhost_user_ring_setup ring_at(uint64_t address, int kick, int call)
{
	return (struct vhost_user_ring_setup){.size = 256,
					      .base = 7,
					      .descriptor = address,
					      .available = address + 4096,
					      .used = address + 8192,
					      .kick = kick,
					      .call = call,
					      .error = -1};
}

static void test_features_queues_and_slots_are_negotiated(void **unused)
{
	struct pair pair = {0};

	pair_begin(&pair, NULL, NULL);
	assert_int_equal(vhost_user_front_end_features(pair.front),
			 1ULL << 32 | 1ULL << 34 | 1 | VHOST_F_LOG_ALL);
	assert_int_equal(vhost_user_front_end_protocol(pair.front),
			 VHOST_USER_PROTOCOL_USUAL &
			     ~(VHOST_USER_PROTOCOL_RARP | VHOST_USER_PROTOCOL_MTU));
	assert_int_equal(vhost_user_front_end_queues(pair.front), 4);
	assert_int_equal(vhost_user_front_end_slots(pair.front), 509);
	assert_no_error(vhost_user_front_end_set_features(pair.front, 1ULL << 32));
	assert_int_equal(pair.device.features, 1ULL << 32);
	assert_error_with(vhost_user_front_end_set_features(pair.front, 2), "does not offer");
	assert_null(vhost_user_front_end_broken(pair.front));
	pair_end(&pair);
	assert_string_equal(pair.device.ended, "the peer has closed the connection");
}

static void test_what_was_not_negotiated_is_not_sent(void **unused)
{
	struct vhost_user_front_end_options options = front_options();
	struct vhost_user_inflight inflight;
	struct pair pair = {0};
	uint8_t byte = 0;
	int fd;

	options.protocol = 0;
	pair_begin(&pair, &options, NULL);
	uint64_t sent = vhost_user_front_end_sent(pair.front);
	assert_error_with(vhost_user_front_end_get_config(pair.front, 0, 1, &byte), "F_CONFIG");
	assert_error_with(vhost_user_front_end_get_inflight(pair.front, 1, 8, &inflight, &fd),
			  "F_INFLIGHT_SHMFD");
	assert_error_with(vhost_user_front_end_begin_state(pair.front, VHOST_USER_SAVE, 0, &fd),
			  "F_DEVICE_STATE");
	assert_error_with(vhost_user_front_end_check_state(pair.front), "F_DEVICE_STATE");
	assert_error_with(vhost_user_front_end_advise_postcopy(pair.front, &fd), "F_PAGEFAULT");
	assert_error_with(vhost_user_front_end_set_mtu(pair.front, 1500), "F_MTU");
	assert_error_with(vhost_user_front_end_set_status(pair.front, 1), "F_STATUS");
	assert_error_with(vhost_user_front_end_reset(pair.front), "F_RESET_DEVICE");
	assert_error_with(vhost_user_front_end_kick(pair.front, 0), "F_INBAND_NOTIFICATIONS");
	assert_error_with(vhost_user_front_end_start_log(pair.front, pair.ram, 0, 4096),
			  "F_LOG_SHMFD");
	assert_int_equal(vhost_user_front_end_sent(pair.front), sent);
	assert_int_equal(vhost_user_front_end_slots(pair.front), 8);
	pair_end(&pair);
}

static void test_configuration_space_is_read_and_written(void **unused)
{
	uint8_t bytes[8] = {0}, more[VHOST_USER_CONFIG_MAX];
	struct pair pair = {0};

	memcpy(pair.device.config, "abcdefgh", 8);
	pair_begin(&pair, NULL, NULL);
	assert_no_error(vhost_user_front_end_get_config(pair.front, 2, 6, bytes));
	assert_memory_equal(bytes, "cdefgh", 6);
	assert_error_with(vhost_user_front_end_get_config(pair.front, 60, 5, bytes),
			  "refuses to tell");
	assert_error_with(vhost_user_front_end_get_config(pair.front, 0, 257, more), "1 to 256");
	assert_no_error(vhost_user_front_end_set_config(pair.front, 1, 2, "XY", false));
	assert_memory_equal(pair.device.config, "aXYd", 4);
	assert_error_with(vhost_user_front_end_set_config(pair.front, 0, 1, "Z", false),
			  "refuses VHOST_USER_SET_CONFIG");
	assert_no_error(vhost_user_front_end_set_config(pair.front, 0, 1, "Z", true));
	pair_end(&pair);
}

static void test_memory_follows_the_machine(void **unused)
{
	struct pair pair = {0};
	uint64_t sent;

	pair_begin(&pair, NULL, NULL);
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	assert_int_equal(pwrite(pair.ram, "ram!", 4, 8192), 4);
	assert_int_equal(pwrite(pair.hot, "hot!", 4, 0), 4);
	assert_memory_equal(vhost_user_back_end_guest(pair.device.back, 8192, 4), "ram!", 4);
	assert_null(vhost_user_back_end_guest(pair.device.back, HOT_GUEST, 4));
	sent = vhost_user_front_end_sent(pair.front);
	assert_no_error(vhost_user_front_end_change_memory(pair.front, NULL, 0, &hot_unit, 1));
	assert_int_equal(vhost_user_front_end_sent(pair.front), sent + 1);
	assert_memory_equal(vhost_user_back_end_guest(pair.device.back, HOT_GUEST, 4), "hot!", 4);
	assert_null(vhost_user_back_end_guest(pair.device.back, HOT_GUEST + HOT_UNIT - 2, 4));
	assert_null(vhost_user_back_end_guest(pair.device.back, RAM_SIZE - 2, 4));
	assert_no_error(vhost_user_front_end_change_memory(pair.front, &hot_unit, 1, NULL, 0));
	assert_int_equal(vhost_user_front_end_sent(pair.front), sent + 2);
	assert_null(vhost_user_back_end_guest(pair.device.back, HOT_GUEST, 4));
	assert_int_equal(pair.device.gone, 1);
	pair_end(&pair);
}

static void test_thousand_pieces_are_several_in_flight(void **unused)
{
	struct vhost_user_front_end_options front = front_options();
	struct vhost_user_back_end_options back = device_options(NULL);
	struct vhost_user_range ranges[16];
	struct pair pair = {0};

	/* With acknowledgements and without them. */
	for (unsigned int round = 0; round < 2; round++) {
		front.protocol =
		    VHOST_USER_PROTOCOL_USUAL & ~(round ? VHOST_USER_PROTOCOL_REPLY_ACK : 0);
		back.slots = 4096;
		pair = (struct pair){0};
		pair_begin(&pair, &front, &back);
		for (unsigned int i = 0; i < 16; i++)
			ranges[i] =
			    (struct vhost_user_range){HOT_GUEST + 2 * i * HOT_UNIT, HOT_UNIT};
		assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
		assert_no_error(
		    vhost_user_front_end_change_memory(pair.front, NULL, 0, ranges, 16));
		assert_int_equal(vhost_user_back_end_regions(pair.device.back), 17);
		assert_no_error(
		    vhost_user_front_end_change_memory(pair.front, ranges, 16, NULL, 0));
		assert_int_equal(vhost_user_back_end_regions(pair.device.back), 1);
		pair_end(&pair);
	}
}

static void test_back_ends_without_slots_get_one_table(void **unused)
{
	struct vhost_user_back_end_options back = device_options(NULL);
	struct pair pair = {0};
	uint64_t sent;

	back.protocol &= ~VHOST_USER_PROTOCOL_CONFIGURE_MEM_SLOTS;
	pair_begin(&pair, NULL, &back);
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	sent = vhost_user_front_end_sent(pair.front);
	for (unsigned int i = 0; i < HOT_SIZE / HOT_UNIT; i += 2) {
		struct vhost_user_range range = {HOT_GUEST + i * HOT_UNIT, HOT_UNIT};
		uint8_t *byte;

		assert_no_error(vhost_user_front_end_change_memory(pair.front, NULL, 0, &range, 1));
		byte = vhost_user_back_end_guest(pair.device.back, range.guest_address, HOT_UNIT);
		assert_non_null(byte);
		*byte = (uint8_t)(i + 1);
		assert_true(vhost_user_back_end_regions(pair.device.back) <= 8);
	}
	assert_true(vhost_user_front_end_sent(pair.front) <= sent + HOT_SIZE / HOT_UNIT / 2);
	/* Regions that stay are not mapped again. */
	assert_int_equal(pair.device.gone, 0);
	pair_end(&pair);
}

static void test_rings_start_run_and_stop(void **unused)
{
	struct vhost_user_ring_setup setup = ring_at(4096, -1, -1);
	const struct vhost_user_back_end_ring *ring;
	struct pair pair = {0};
	uint64_t value = 0;
	uint32_t base = 0;

	pair.device.base = 40;
	pair_begin(&pair, NULL, NULL);
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	assert_no_error(vhost_user_front_end_set_features(pair.front, 1ULL << 32));
	setup.kick = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	setup.call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_no_error(vhost_user_front_end_start_ring(pair.front, 2, &setup));
	assert_no_error(vhost_user_front_end_enable_ring(pair.front, 2, true));
	assert_int_equal(pair.device.started, 1);
	assert_int_equal(pair.device.enabled, 1);
	ring = vhost_user_back_end_ring(pair.device.back, 2);
	assert_true(ring->started && ring->enabled && ring->size == 256 && ring->base == 7);
	assert_ptr_equal(ring->used, vhost_user_back_end_guest(pair.device.back, 12288, 1));
	/* Kicked once by the front-end, for who waits for it. */
	assert_int_equal(read(ring->kick, &value, sizeof(value)), sizeof(value));
	vhost_user_back_end_call(pair.device.back, 2);
	assert_int_equal(read(setup.call, &value, sizeof(value)), sizeof(value));
	assert_error_with(vhost_user_front_end_start_ring(pair.front, 2, &setup), "runs already");
	assert_error_with(vhost_user_front_end_reset(pair.front), "1 rings run still");
	assert_no_error(vhost_user_front_end_enable_ring(pair.front, 2, false));
	assert_no_error(vhost_user_front_end_stop_ring(pair.front, 2, &base));
	assert_int_equal(base, 42);
	assert_int_equal(pair.device.stopped, 1);
	assert_error_with(vhost_user_front_end_stop_ring(pair.front, 2, &base), "is stopped");
	assert_no_error(vhost_user_front_end_reset(pair.front));
	assert_int_equal(pair.device.reset, 1);
	close(setup.kick);
	close(setup.call);
	pair_end(&pair);
}

static void test_rings_outside_of_memory_are_refused(void **unused)
{
	struct vhost_user_ring_setup setup = ring_at(HOT_GUEST, -1, -1);
	struct pair pair = {0};

	pair_begin(&pair, NULL, NULL);
	assert_error_with(vhost_user_front_end_start_ring(pair.front, 0, &setup), "no memory yet");
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	assert_error_with(vhost_user_front_end_start_ring(pair.front, 0, &setup),
			  "where the guest has no memory");
	setup.descriptor = RAM_SIZE - 256 * 16 + 1;
	assert_error_with(vhost_user_front_end_start_ring(pair.front, 0, &setup),
			  "where the guest has no memory");
	assert_error_with(vhost_user_front_end_start_ring(pair.front, 4, &setup), "no queue 4");
	pair_end(&pair);
}

static void test_memory_of_a_ring_stays_with_the_back_end(void **unused)
{
	struct vhost_user_ring_setup setup = ring_at(HOT_GUEST, -1, -1);
	struct pair pair = {0};

	pair_begin(&pair, NULL, NULL);
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	assert_no_error(vhost_user_front_end_change_memory(pair.front, NULL, 0, &hot_unit, 1));
	assert_no_error(vhost_user_front_end_start_ring(pair.front, 0, &setup));
	assert_no_error(vhost_user_front_end_change_memory(pair.front, &hot_unit, 1, NULL, 0));
	assert_int_equal(vhost_user_back_end_regions(pair.device.back), 2);
	assert_no_error(vhost_user_front_end_stop_ring(pair.front, 0, NULL));
	assert_no_error(vhost_user_front_end_tidy_memory(pair.front));
	assert_int_equal(vhost_user_back_end_regions(pair.device.back), 1);
	pair_end(&pair);
}

static void test_a_device_that_refuses_a_ring_is_named(void **unused)
{
	struct vhost_user_ring_setup setup = ring_at(4096, -1, -1);
	struct pair pair = {.device.refuse_ring = true};

	pair_begin(&pair, NULL, NULL);
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	assert_error_with(vhost_user_front_end_start_ring(pair.front, 0, &setup),
			  "back-end it: it refuses VHOST_USER_SET_VRING_KICK");
	assert_null(vhost_user_front_end_broken(pair.front));
	pair_end(&pair);
}

static void test_writes_are_logged_while_it_is_on(void **unused)
{
	struct vhost_user_ring_setup setup = ring_at(4096, -1, -1);
	struct pair pair = {0};
	uint8_t bits[32] = {0};
	int log;

	pair_begin(&pair, NULL, NULL);
	log = memory_file(4096 + 32);
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	assert_no_error(vhost_user_front_end_start_ring(pair.front, 0, &setup));
	vhost_user_back_end_wrote(pair.device.back, 0, 1);
	assert_no_error(vhost_user_front_end_start_log(pair.front, log, 4096, 32));
	vhost_user_back_end_wrote(pair.device.back, 8191, 2);
	vhost_user_back_end_wrote_used(pair.device.back, 0, 4096, 8);
	vhost_user_back_end_wrote(pair.device.back, 255 * 4096, UINT32_MAX); /* beyond its end */
	vhost_user_back_end_wrote(pair.device.back, UINT64_MAX, 2);
	assert_int_equal(pread(log, bits, 32, 4096), 32);
	assert_int_equal(bits[0], 1U << 1 | 1U << 2 | 1U << 4); /* the used ring is at page 3 */
	assert_int_equal(bits[31], 0x80);
	assert_no_error(vhost_user_front_end_stop_log(pair.front));
	vhost_user_back_end_wrote(pair.device.back, 7 * 4096, 1);
	vhost_user_back_end_wrote_used(pair.device.back, 0, 0, 8);
	assert_int_equal(pread(log, bits, 32, 4096), 32);
	assert_int_equal(bits[0], 1U << 1 | 1U << 2 | 1U << 4);
	close(log);
	pair_end(&pair);
}

static void test_the_inflight_buffer_comes_back(void **unused)
{
	struct vhost_user_inflight inflight;
	struct pair pair = {0};
	uint8_t *part;
	size_t size;
	int fd;

	pair_begin(&pair, NULL, NULL);
	assert_null(vhost_user_back_end_inflight(pair.device.back, 0, &size));
	assert_no_error(vhost_user_front_end_get_inflight(pair.front, 4, 128, &inflight, &fd));
	assert_int_equal(inflight.size, 4 * vhost_user_inflight_size(false, 128));
	part = vhost_user_back_end_inflight(pair.device.back, 3, &size);
	memcpy(part, "note", 4);
	assert_null(vhost_user_back_end_inflight(pair.device.back, 4, &size));
	assert_no_error(vhost_user_front_end_set_inflight(pair.front, &inflight, fd));
	part = vhost_user_back_end_inflight(pair.device.back, 3, &size);
	assert_memory_equal(part, "note", 4);
	/* As packed rings it would be too small, and parts are not past its end. */
	assert_no_error(vhost_user_front_end_set_features(pair.front, 1ULL << 34));
	assert_null(vhost_user_back_end_inflight(pair.device.back, 3, &size));
	inflight.size--;
	assert_error_with(vhost_user_front_end_set_inflight(pair.front, &inflight, fd), "");
	close(fd);
	pair_end(&pair);
}

static void test_state_is_saved_and_loaded(void **unused)
{
	struct pair pair = {.device.state = "the device's state"};
	char state[64] = "";
	int ends[2], other;

	pair_begin(&pair, NULL, NULL);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_no_error(
	    vhost_user_front_end_begin_state(pair.front, VHOST_USER_SAVE, ends[1], &other));
	assert_int_equal(other, -1);
	close(ends[1]);
	assert_int_equal(read(ends[0], state, sizeof(state)), sizeof(state));
	assert_int_equal(read(ends[0], state, 1), 0); /* the end: nobody else has it */
	assert_string_equal(state, "the device's state");
	close(ends[0]);
	assert_no_error(vhost_user_front_end_check_state(pair.front));
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_int_equal(write(ends[1], "other", 6), 6);
	close(ends[1]);
	assert_no_error(
	    vhost_user_front_end_begin_state(pair.front, VHOST_USER_LOAD, ends[0], &other));
	close(ends[0]);
	assert_string_equal(pair.device.state, "other");
	pair.device.state_failed = true;
	assert_error_with(vhost_user_front_end_check_state(pair.front), "has failed");
	pair_end(&pair);
}

static void note_change(void *context)
{
	++*(unsigned int *)context;
}

static void note_ring(void *context, uint32_t ring)
{
	*(unsigned int *)context += 100 * ring;
}

static void test_the_back_end_tells_of_changes(void **unused)
{
	static const struct vhost_user_front_end_events events = {.config_changed = note_change,
								  .ring_called = note_ring};
	struct vhost_user_front_end_options options = front_options();
	unsigned int noted = 0;
	struct pair pair = {0};

	options.protocol = VHOST_USER_PROTOCOL_KNOWN;
	options.events = &events;
	options.context = &noted;
	pair_begin(&pair, &options, NULL);
	assert_no_error(vhost_user_back_end_config_changed(pair.device.back));
	assert_no_error(vhost_user_front_end_serve(pair.front));
	assert_int_equal(noted, 1);
	vhost_user_back_end_call(pair.device.back, 3);
	assert_no_error(vhost_user_front_end_serve(pair.front));
	assert_int_equal(noted, 301);
	assert_no_error(vhost_user_front_end_serve(pair.front));
	pair_end(&pair);
}

static void test_status_is_told_and_asked(void **unused)
{
	struct vhost_user_front_end_options options = front_options();
	struct pair pair = {0};
	uint8_t status = 0;

	options.protocol = VHOST_USER_PROTOCOL_KNOWN;
	pair_begin(&pair, &options, NULL);
	assert_no_error(vhost_user_front_end_set_status(pair.front, 15));
	assert_no_error(vhost_user_front_end_get_status(pair.front, &status));
	assert_int_equal(status, 15);
	assert_int_equal(pair.device.status, 15);
	pair_end(&pair);
}

/* --- Post-copy --------------------------------------------------------------------------------- */

struct arrival {
	struct pair *pair;
	unsigned int asked;
};

static struct error *ranges_known(void *context)
{
	struct arrival *arrival = context;
	struct vhost_user_client_range range;

	arrival->asked++;
	assert_true(vhost_user_front_end_client_range(arrival->pair->front, 0, &range));
	return NULL;
}

/* Touches memory that is missing: blocks until somebody brings it. */
static void *touch(void *context)
{
	return (void *)(uintptr_t) * (volatile uint8_t *)context;
}

static void bring_page(int userfault, uint64_t address)
{
	uint8_t page[4096];
	struct uffdio_copy copy = {.dst = address, .src = (uintptr_t)page, .len = sizeof(page)};

	memset(page, 0x5a, sizeof(page));
	assert_int_equal(ioctl(userfault, UFFDIO_COPY, &copy), 0);
}

static void check_postcopy(enum vhost_user_postcopy dialect)
{
	struct vhost_user_client_range range, found = {0};
	struct pair pair = {0};
	struct arrival arrival = {&pair, 0};
	struct uffd_msg fault;
	struct pollfd item = {.events = POLLIN};
	pthread_t thread;
	void *result;
	int probe = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	if (probe < 0)
		skip();
	close(probe);
	pair_begin(&pair, NULL, NULL);
	assert_no_error(vhost_user_front_end_advise_postcopy(pair.front, &item.fd));
	assert_no_error(vhost_user_front_end_listen_postcopy(pair.front, dialect));
	vhost_user_front_end_on_ranges(pair.front, ranges_known, &arrival);
	assert_no_error(vhost_user_front_end_begin_memory(pair.front, pair.memory));
	assert_no_error(vhost_user_front_end_change_memory(pair.front, NULL, 0, &hot_unit, 1));
	assert_int_equal(arrival.asked, 2);
	for (size_t i = 0; vhost_user_front_end_client_range(pair.front, i, &range); i++) {
		if (range.guest_address == HOT_GUEST)
			found = range;
	}
	assert_int_equal(found.size, HOT_UNIT);
	assert_int_equal(found.address,
			 (uintptr_t)vhost_user_back_end_guest(pair.device.back, HOT_GUEST, 1));
	assert_int_equal(pthread_create(&thread, NULL, touch, (void *)(found.address + 8192)), 0);
	assert_int_equal(poll(&item, 1, 10000), 1);
	assert_int_equal(read(item.fd, &fault, sizeof(fault)), sizeof(fault));
	assert_int_equal(fault.arg.pagefault.address & ~4095ULL, found.address + 8192);
	bring_page(item.fd, found.address + 8192);
	pthread_join(thread, &result);
	assert_int_equal((uintptr_t)result, 0x5a);
	assert_no_error(vhost_user_front_end_end_postcopy(pair.front));
	/* Nobody waits for anything now. */
	assert_null(touch((void *)found.address));
	close(item.fd);
	pair_end(&pair);
}

static void test_postcopy_by_one_table(void **unused)
{
	check_postcopy(VHOST_USER_POSTCOPY_TABLE);
}

static void test_postcopy_by_slots(void **unused)
{
	check_postcopy(VHOST_USER_POSTCOPY_SLOTS);
}

/* --- Connections ------------------------------------------------------------------------------- */

static void test_connections_over_a_path(void **unused)
{
	const int64_t soon = clock_monotonic_ns() + 60 * NS_PER_SECOND;
	char folder[] = "/tmp/vhost-user-XXXXXX", path[64];
	int listener, again, client, server;
	struct stat status;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/s", folder);
	assert_error_with(vhost_user_connect(path, soon, &client), "No such file");
	assert_no_error(vhost_user_listen(path, &listener));
	assert_int_equal(stat(path, &status), 0);
	assert_int_equal(status.st_mode & 0777, 0600);
	assert_error_with(vhost_user_listen(path, &again), "somebody listens there already");
	assert_no_error(vhost_user_accept(listener, soon, &server)); /* what the question left */
	close(server);
	assert_no_error(vhost_user_accept(listener, 0, &server));
	assert_int_equal(server, -1);
	assert_error_with(vhost_user_accept(listener, 1, &server), "nobody has connected in time");
	assert_no_error(vhost_user_connect(path, soon, &client));
	assert_no_error(vhost_user_accept(listener, soon, &server));
	close(client);
	close(server);
	close(listener);
	assert_error_with(vhost_user_connect(path, soon, &client), "Connection refused");
	assert_no_error(vhost_user_listen(path, &listener)); /* instead of what was left there */
	close(listener);
	unlink(path);
	assert_int_equal(mkdir(path, 0700), 0);
	assert_error_with(vhost_user_listen(path, &listener), "is no socket");
	rmdir(path);
	rmdir(folder);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_features_queues_and_slots_are_negotiated),
	    cmocka_unit_test(test_what_was_not_negotiated_is_not_sent),
	    cmocka_unit_test(test_configuration_space_is_read_and_written),
	    cmocka_unit_test(test_memory_follows_the_machine),
	    cmocka_unit_test(test_thousand_pieces_are_several_in_flight),
	    cmocka_unit_test(test_back_ends_without_slots_get_one_table),
	    cmocka_unit_test(test_rings_start_run_and_stop),
	    cmocka_unit_test(test_rings_outside_of_memory_are_refused),
	    cmocka_unit_test(test_memory_of_a_ring_stays_with_the_back_end),
	    cmocka_unit_test(test_a_device_that_refuses_a_ring_is_named),
	    cmocka_unit_test(test_writes_are_logged_while_it_is_on),
	    cmocka_unit_test(test_the_inflight_buffer_comes_back),
	    cmocka_unit_test(test_state_is_saved_and_loaded),
	    cmocka_unit_test(test_the_back_end_tells_of_changes),
	    cmocka_unit_test(test_status_is_told_and_asked),
	    cmocka_unit_test(test_postcopy_by_one_table),
	    cmocka_unit_test(test_postcopy_by_slots),
	    cmocka_unit_test(test_connections_over_a_path),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
