/* SPDX-License-Identifier: BSD-2-Clause */
/* The disk of a back-end process, as a machine in front of it sees it. */
#include <linux/userfaultfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "blk_front.h"

#define DISK_SIZE MIB(8)

static const uint64_t kinds[] = {F_FLUSH, F_FLUSH | F_PACKED | F_EVENT};

/* --- Requests ---------------------------------------------------------------------------------- */

static void test_data_is_written_and_read(void **unused)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct front front = {0};
		uint8_t bytes[DATA_SIZE];

		front_begin(&front, DISK_SIZE, kinds[i], 2);
		memset(front_data(&front, 1, 0), 0x5a, DATA_SIZE);
		assert_int_equal(front_do(&front, 1, BLK_T_OUT, 80, DATA_SIZE), BLK_S_OK);
		assert_int_equal(pread(front.file, bytes, sizeof(bytes), 80 * 512), sizeof(bytes));
		assert_memory_equal(bytes, front_data(&front, 1, 0), DATA_SIZE);
		assert_int_equal(front_do(&front, 0, BLK_T_IN, 80, DATA_SIZE), BLK_S_OK);
		assert_memory_equal(bytes, front_data(&front, 0, 0), DATA_SIZE);
		assert_int_equal(front_do(&front, 0, BLK_T_FLUSH, 0, 0), BLK_S_OK);
		front_end(&front);
	}
}

static void test_serial_number_is_told(void **unused)
{
	struct front front = {0};

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	assert_int_equal(front_do(&front, 0, BLK_T_GET_ID, 0, BLK_ID_SIZE), BLK_S_OK);
	assert_string_equal((char *)front_data(&front, 0, 0), "the serial");
	front_end(&front);
}

static void test_requests_off_the_disk_fail(void **unused)
{
	struct front front = {0};

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, DISK_SIZE / 512 - 7, DATA_SIZE),
			 BLK_S_IOERR);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, UINT64_MAX, DATA_SIZE), BLK_S_IOERR);
	assert_int_equal(front_do(&front, 0, 99, 0, 0), BLK_S_UNSUPP);
	/* Not negotiated. */
	assert_int_equal(front_do(&front, 0, BLK_T_DISCARD, 0, 16), BLK_S_UNSUPP);
	front_end(&front);
}

static void test_ranges_are_given_back_and_zeroed(void **unused)
{
	static const uint32_t types[] = {BLK_T_DISCARD, BLK_T_WRITE_ZEROES};
	uint8_t bytes[DATA_SIZE], zeros[DATA_SIZE] = {0};
	struct front front = {0};

	front_begin(&front, DISK_SIZE, F_FLUSH | F_DISCARD | F_WRITE_ZEROES, 1);
	for (unsigned int i = 0; i < 2; i++) {
		uint8_t *range = front_data(&front, 0, 0);

		memset(bytes, 1, sizeof(bytes));
		assert_int_equal(pwrite(front.file, bytes, sizeof(bytes), 4096), sizeof(bytes));
		put_le64(range, 8);
		put_le32(range + 8, 8);
		put_le32(range + 12, 0);
		assert_int_equal(front_do(&front, 0, types[i], 0, 16), BLK_S_OK);
		assert_int_equal(pread(front.file, bytes, sizeof(bytes), 4096), sizeof(bytes));
		assert_memory_equal(bytes, zeros, sizeof(zeros));
	}
	front_end(&front);
}

static void test_disk_that_is_read_only_refuses_writes(void **unused)
{
	struct front front = {.options.disk.file.readonly = true};

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	assert_true(vhost_user_front_end_features(front.front) & 1 << 5);
	assert_false(vhost_user_front_end_features(front.front) & F_WRITE_ZEROES);
	assert_int_equal(front_do(&front, 0, BLK_T_OUT, 0, DATA_SIZE), BLK_S_IOERR);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
	front_end(&front);
}

static void test_everything_that_the_protocol_has_is_offered(void **unused)
{
	struct front front = {0};

	front_prepare(&front, DISK_SIZE, 0, 3);
	front_start_process(&front);
	front_connect(&front);
	assert_int_equal(vhost_user_front_end_protocol(front.front),
			 VHOST_USER_PROTOCOL_USUAL &
			     ~(VHOST_USER_PROTOCOL_RARP | VHOST_USER_PROTOCOL_MTU));
	assert_int_equal(vhost_user_front_end_queues(front.front), 3);
	assert_int_equal(vhost_user_front_end_slots(front.front), 509);
	front_end(&front);
}

static void test_configuration_space_is_that_of_the_disk(void **unused)
{
	struct front front = {0};
	uint8_t config[64];

	front_begin(&front, DISK_SIZE, F_FLUSH | F_CONFIG_WCE, 3);
	assert_no_error(vhost_user_front_end_get_config(front.front, 0, 64, config));
	assert_int_equal(get_le64(config), DISK_SIZE / 512);
	assert_int_equal(get_le16(config + 34), 3);
	assert_int_equal(config[BLK_CONFIG_WRITEBACK], 1);
	assert_no_error(
	    vhost_user_front_end_set_config(front.front, BLK_CONFIG_WRITEBACK, 1, "", false));
	assert_no_error(vhost_user_front_end_get_config(front.front, 0, 64, config));
	assert_int_equal(config[BLK_CONFIG_WRITEBACK], 0);
	assert_error_with(vhost_user_front_end_set_config(front.front, 60, 1, "", false), "refuse");
	front_end(&front);
}

/* --- Rings ------------------------------------------------------------------------------------- */

static void test_malformed_ring_stands_still_alone(void **unused)
{
	struct front front = {0};
	struct front_buffer empty = {0x1000, 0, true};
	uint32_t base;

	front_begin(&front, DISK_SIZE, F_FLUSH, 2);
	front_put(&front, 0, 5, &empty, 1);
	front_kick(&front, 0);
	front_wait_broken(&front, 0);
	assert_int_equal(front_do(&front, 1, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, &base));
	assert_int_equal(base, 0);
	assert_int_equal(front_reap(&front, 0), -1);
	/* A reset makes it whole again. */
	front_reset_ring(&front, 0);
	front_start_ring(&front, 0, 0);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
	front_end(&front);
}

static void test_request_without_a_status_stands_still(void **unused)
{
	struct front front = {0};
	struct front_buffer header = {SLOT_AT(0, 0), BLK_HEADER_SIZE, false};

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	front_put(&front, 0, 0, &header, 1);
	front_kick(&front, 0);
	front_wait_broken(&front, 0);
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, NULL));
	assert_int_equal(front_reap(&front, 0), -1);
	front_end(&front);
}

static void test_stopped_ring_goes_on_where_it_was(void **unused)
{
	for (unsigned int i = 0; i < 2; i++) {
		struct front front = {0};
		uint32_t base;

		front_begin(&front, DISK_SIZE, kinds[i], 1);
		for (unsigned int turn = 0; turn < 300; turn++) {
			assert_int_equal(front_do(&front, 0, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
			if (turn % 50)
				continue;
			assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, &base));
			front_start_ring(&front, 0, base);
		}
		front_end(&front);
	}
}

static void test_disabled_ring_waits(void **unused)
{
	struct front front = {0};

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	assert_no_error(vhost_user_front_end_enable_ring(front.front, 0, false));
	front_request(&front, 0, 0, BLK_T_IN, 0, DATA_SIZE);
	front_kick(&front, 0);
	front_wait(&front, 0, 50);
	assert_int_equal(front_reap(&front, 0), -1);
	assert_no_error(vhost_user_front_end_enable_ring(front.front, 0, true));
	front_finish(&front, 0);
	front_end(&front);
}

static void test_ring_without_a_kick_is_polled(void **unused)
{
	struct front front = {0};
	int kick;

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	kick = front.rings[0].kick;
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, NULL));
	front.rings[0].kick = -1;
	front_start_ring(&front, 0, 0);
	front_request(&front, 0, 0, BLK_T_IN, 0, DATA_SIZE);
	front_finish(&front, 0);
	front.rings[0].kick = kick;
	front_end(&front);
}

static void test_next_session_has_the_same_disk(void **unused)
{
	struct front front = {0};

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	memset(front_data(&front, 0, 0), 7, DATA_SIZE);
	assert_int_equal(front_do(&front, 0, BLK_T_OUT, 0, DATA_SIZE), BLK_S_OK);
	vhost_user_front_end_close(front.front);
	front_reset_ring(&front, 0);
	front_begin_session(&front);
	front_start_ring(&front, 0, 0);
	memset(front_data(&front, 0, 0), 0, DATA_SIZE);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
	assert_int_equal(front_data(&front, 0, 0)[DATA_SIZE - 1], 7);
	front_end(&front);
}

static void test_requests_wait_while_another_process_has_the_disk(void **unused)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	struct front front = {0};

	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	assert_int_equal(fcntl(front.file, F_OFD_SETLK, &lock), 0);
	front_start_process(&front);
	front_begin_session(&front);
	front_start_ring(&front, 0, 0);
	front_request(&front, 0, 0, BLK_T_IN, 0, DATA_SIZE);
	front_kick(&front, 0);
	front_wait(&front, 0, 100);
	assert_int_equal(front_reap(&front, 0), -1);
	lock.l_type = F_UNLCK;
	assert_int_equal(fcntl(front.file, F_OFD_SETLK, &lock), 0);
	front_finish(&front, 0);
	/* As long as a ring runs the disk is the back-end's. */
	lock.l_type = F_WRLCK;
	assert_int_equal(fcntl(front.file, F_OFD_SETLK, &lock), -1);
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, NULL));
	assert_int_equal(fcntl(front.file, F_OFD_SETLK, &lock), 0);
	front_end(&front);
}

/* --- Memory ------------------------------------------------------------------------------------ */

#define HOT_GUEST  MIB(4096)
#define HOT_UNIT   0x10000ULL
#define HOT_PIECES 4096U

static void test_memory_in_thousands_of_pieces(void **unused)
{
	struct vhost_user_range range = {0, HOT_UNIT};
	struct front front = {0};
	int hot = memfd_create("hot", MFD_CLOEXEC);
	uint64_t size = 2 * HOT_PIECES * HOT_UNIT;
	uint8_t page[DATA_SIZE], bytes[DATA_SIZE];

	assert_int_equal(ftruncate(hot, (off_t)size), 0);
	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	front.options.slots = 3 * HOT_PIECES;
	assert_no_error(vhost_user_memory_add_block(
	    front.memory,
	    &(struct vhost_user_block){{HOT_GUEST, size, 2 * FRONT_USER, 0}, hot, HOT_UNIT}));
	front_start_process(&front);
	front_begin_session(&front);
	front_start_ring(&front, 0, 0);
	for (uint32_t i = 0; i < HOT_PIECES; i++) {
		range.guest_address = HOT_GUEST + 2 * i * HOT_UNIT;
		assert_no_error(
		    vhost_user_front_end_change_memory(front.front, NULL, 0, &range, 1));
	}
	assert_int_equal(vhost_user_memory_held(front.memory), HOT_PIECES + 1);
	assert_int_equal(vhost_user_memory_excess(front.memory), 0);
	/* A request in each 64th, while others go. */
	for (uint32_t i = 0; i < HOT_PIECES; i += 64) {
		uint64_t at = HOT_GUEST + 2 * i * HOT_UNIT;
		struct front_buffer buffers[] = {{SLOT_AT(0, 0), BLK_HEADER_SIZE, false},
						 {at + 4096, DATA_SIZE, false},
						 {SLOT_AT(0, 0) + SLOT_STATUS, 1, true}};

		memset(page, (int)(i / 64 + 1), sizeof(page));
		assert_int_equal(pwrite(hot, page, sizeof(page), (off_t)(2 * i * HOT_UNIT + 4096)),
				 sizeof(page));
		put_le32(front.bytes + SLOT_AT(0, 0), BLK_T_OUT);
		put_le64(front.bytes + SLOT_AT(0, 0) + 8, i / 64 * 8);
		front_put(&front, 0, 0, buffers, 3);
		front_kick(&front, 0);
		range.guest_address = at + 2 * HOT_UNIT;
		assert_no_error(
		    vhost_user_front_end_change_memory(front.front, &range, 1, NULL, 0));
		front_finish(&front, 0);
		assert_int_equal(front_status(&front, 0, 0), BLK_S_OK);
		assert_int_equal(
		    pread(front.file, bytes, sizeof(bytes), (off_t)(i / 64 * DATA_SIZE)),
		    sizeof(bytes));
		assert_memory_equal(bytes, page, sizeof(page));
	}
	front_end(&front);
	close(hot);
}

/* What is unplugged is not there for requests that come afterwards. */
static void test_memory_that_went_is_not_used(void **unused)
{
	struct vhost_user_range range = {HOT_GUEST, HOT_UNIT};
	struct front_buffer header = {HOT_GUEST, BLK_HEADER_SIZE, false};
	struct front front = {0};
	int hot = memfd_create("hot", MFD_CLOEXEC);

	assert_int_equal(ftruncate(hot, HOT_UNIT), 0);
	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	assert_no_error(vhost_user_memory_add_block(
	    front.memory,
	    &(struct vhost_user_block){{HOT_GUEST, HOT_UNIT, 2 * FRONT_USER, 0}, hot, HOT_UNIT}));
	front_start_process(&front);
	front_begin_session(&front);
	front_start_ring(&front, 0, 0);
	assert_no_error(vhost_user_front_end_change_memory(front.front, NULL, 0, &range, 1));
	assert_no_error(vhost_user_front_end_change_memory(front.front, &range, 1, NULL, 0));
	front_put(&front, 0, 0, &header, 1);
	front_kick(&front, 0);
	front_wait_broken(&front, 0);
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, NULL));
	assert_int_equal(front_reap(&front, 0), -1);
	front_end(&front);
	close(hot);
}

/* A front-end that cuts off what it has shared: a request into it fails, nothing else happens. */
static void test_data_that_was_cut_off_fails(void **unused)
{
	struct vhost_user_range range = {HOT_GUEST, HOT_UNIT};
	struct front_buffer buffers[] = {{SLOT_AT(0, 0), BLK_HEADER_SIZE, false},
					 {HOT_GUEST, DATA_SIZE, false},
					 {SLOT_AT(0, 0) + SLOT_STATUS, 1, true}};
	struct front front = {0};
	int hot = memfd_create("hot", MFD_CLOEXEC);

	assert_int_equal(ftruncate(hot, HOT_UNIT), 0);
	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	assert_no_error(vhost_user_memory_add_block(
	    front.memory,
	    &(struct vhost_user_block){{HOT_GUEST, HOT_UNIT, 2 * FRONT_USER, 0}, hot, HOT_UNIT}));
	front_start_process(&front);
	front_begin_session(&front);
	front_start_ring(&front, 0, 0);
	assert_no_error(vhost_user_front_end_change_memory(front.front, NULL, 0, &range, 1));
	assert_int_equal(ftruncate(hot, 0), 0);
	put_le32(front.bytes + SLOT_AT(0, 0), BLK_T_OUT);
	front_put(&front, 0, 0, buffers, 3);
	front_kick(&front, 0);
	front_finish(&front, 0);
	assert_int_equal(front_status(&front, 0, 0), BLK_S_IOERR);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
	front_end(&front);
	close(hot);
}

/* Where its ring was nobody can go on: the process ends, and the next one serves the disk. */
static void test_ring_that_was_cut_off_ends_the_process(void **unused)
{
	struct front front = {0};
	int status;

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	assert_int_equal(ftruncate(front.ram, 0), 0);
	front_kick(&front, 0);
	assert_int_equal(waitpid(front.child, &status, 0), front.child);
	front.child = 0;
	assert_true(WIFSIGNALED(status) || WEXITSTATUS(status)); /* SIGBUS, or a sanitizer's end */
	vhost_user_front_end_close(front.front);
	assert_int_equal(ftruncate(front.ram, FRONT_RAM), 0);
	close(front.inflight_fd);
	front.inflight_fd = -1;
	front_reset_ring(&front, 0);
	front_start_process(&front);
	front_begin_session(&front);
	front_start_ring(&front, 0, 0);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
	front_end(&front);
}

/* --- What moves -------------------------------------------------------------------------------- */

static void test_pages_that_are_written_are_in_the_log(void **unused)
{
	uint64_t data = (SLOT_AT(0, 0) + SLOT_DATA) / 4096;
	struct front front = {0};
	int log = memfd_create("log", MFD_CLOEXEC);
	uint8_t *bits;

	assert_int_equal(ftruncate(log, 4096), 0);
	bits = mmap(NULL, 4096, PROT_READ, MAP_SHARED, log, 0);
	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	assert_no_error(vhost_user_front_end_start_log(front.front, log, 0, 4096));
	assert_int_equal(front_do(&front, 0, BLK_T_OUT, 0, DATA_SIZE), BLK_S_OK);
	assert_false(bits[data / 8] & 1 << data % 8);
	assert_true(bits[0] & 1 << RING_USED / 4096);
	assert_int_equal(front_do(&front, 0, BLK_T_IN, 0, DATA_SIZE), BLK_S_OK);
	assert_true(bits[data / 8] & 1 << data % 8);
	assert_no_error(vhost_user_front_end_stop_log(front.front));
	munmap(bits, 4096);
	close(log);
	front_end(&front);
}

static size_t save(struct front *front, uint8_t *bytes, size_t size)
{
	int ends[2], other;
	ssize_t count;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_no_error(
	    vhost_user_front_end_begin_state(front->front, VHOST_USER_SAVE, ends[1], &other));
	close(ends[1]);
	assert_int_equal(other, -1);
	count = read(ends[0], bytes, size);
	assert_true(count > 0);
	close(ends[0]);
	assert_no_error(vhost_user_front_end_check_state(front->front));
	return (size_t)count;
}

static struct error *load(struct front *front, const uint8_t *bytes, size_t size)
{
	int ends[2], other;

	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	assert_no_error(
	    vhost_user_front_end_begin_state(front->front, VHOST_USER_LOAD, ends[0], &other));
	close(ends[0]);
	assert_int_equal(write(ends[1], bytes, size), size);
	close(ends[1]);
	return vhost_user_front_end_check_state(front->front);
}

static void test_state_moves_with_the_cache_mode(void **unused)
{
	struct front front = {0}, second = {0};
	uint8_t state[4096], config[64];
	size_t size;

	front_begin(&front, DISK_SIZE, F_FLUSH | F_CONFIG_WCE, 1);
	assert_no_error(
	    vhost_user_front_end_set_config(front.front, BLK_CONFIG_WRITEBACK, 1, "", false));
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, NULL));
	size = save(&front, state, sizeof(state));
	front_end(&front);
	/* Loaded before the driver's features are known. */
	front_prepare(&second, DISK_SIZE, F_FLUSH | F_CONFIG_WCE, 1);
	front_start_process(&second);
	front_connect(&second);
	assert_no_error(load(&second, state, size));
	assert_no_error(vhost_user_front_end_set_features(second.front, second.features));
	assert_no_error(vhost_user_front_end_get_config(second.front, 0, 64, config));
	assert_int_equal(config[BLK_CONFIG_WRITEBACK], 0);
	front_end(&second);
}

static void test_state_of_another_disk_is_refused(void **unused)
{
	struct front front = {0};
	uint8_t state[4096];
	size_t size;

	front_begin(&front, DISK_SIZE, F_FLUSH, 1);
	assert_no_error(vhost_user_front_end_stop_ring(front.front, 0, NULL));
	size = save(&front, state, sizeof(state));
	state[0]++;
	assert_error_with(load(&front, state, size), "failed");
	assert_error_with(load(&front, state, size - 1), "failed");
	state[0]--;
	assert_no_error(load(&front, state, size));
	memset(state, 0, sizeof(state));
	assert_error_with(load(&front, state, sizeof(state)), "failed");
	front_end(&front);
}

/* A page that is not there yet is waited for, not written as zeros. */
static void test_missing_pages_are_waited_for(void **unused)
{
	struct vhost_user_client_range range;
	uint8_t page[DATA_SIZE], bytes[DATA_SIZE];
	struct uffdio_copy copy = {.src = (uintptr_t)page, .len = DATA_SIZE};
	struct front front = {0};
	struct uffd_msg message;
	struct pollfd item = {.events = POLLIN};
	struct error *error;
	uint64_t at;

	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	front_start_process(&front);
	front_connect(&front);
	error = vhost_user_front_end_advise_postcopy(front.front, &item.fd);
	if (error) {
		error_free(error);
		front_end(&front);
		skip();
	}
	assert_no_error(
	    vhost_user_front_end_listen_postcopy(front.front, VHOST_USER_POSTCOPY_SLOTS));
	assert_no_error(vhost_user_front_end_set_features(front.front, front.features));
	assert_no_error(vhost_user_front_end_begin_memory(front.front, front.memory));
	assert_true(vhost_user_front_end_client_range(front.front, 0, &range));
	/* All is there but the data. */
	for (uint64_t i = 0; i < FRONT_RAM; i += 4096)
		if (i != SLOT_AT(0, 0) + SLOT_DATA)
			*(volatile uint8_t *)(front.bytes + i) = 0;
	front_start_ring(&front, 0, 0);
	front_request(&front, 0, 0, BLK_T_OUT, 0, DATA_SIZE);
	front_kick(&front, 0);
	assert_int_equal(poll(&item, 1, 60000), 1);
	assert_int_equal(read(item.fd, &message, sizeof(message)), sizeof(message));
	at = message.arg.pagefault.address & ~4095ULL;
	assert_int_equal(at - range.address + range.guest_address, SLOT_AT(0, 0) + SLOT_DATA);
	assert_int_equal(front_reap(&front, 0), -1);
	memset(page, 0x77, sizeof(page));
	copy.dst = at;
	assert_int_equal(ioctl(item.fd, UFFDIO_COPY, &copy), 0);
	front_finish(&front, 0);
	assert_int_equal(pread(front.file, bytes, sizeof(bytes), 0), sizeof(bytes));
	assert_memory_equal(bytes, page, sizeof(page));
	assert_no_error(vhost_user_front_end_end_postcopy(front.front));
	close(item.fd);
	front_end(&front);
}

/* Nothing is written for a machine that took its memory with it. */
static void test_front_end_that_goes_in_post_copy_ends_the_process(void **unused)
{
	struct vhost_user_client_range range;
	uint8_t bytes[DATA_SIZE], ones[DATA_SIZE];
	struct pollfd item = {.events = POLLIN};
	struct front front = {0};
	struct error *error;
	int status;

	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	memset(ones, 1, sizeof(ones));
	assert_int_equal(pwrite(front.file, ones, sizeof(ones), 0), sizeof(ones));
	front_start_process(&front);
	front_connect(&front);
	error = vhost_user_front_end_advise_postcopy(front.front, &item.fd);
	if (error) {
		error_free(error);
		front_end(&front);
		skip();
	}
	assert_no_error(
	    vhost_user_front_end_listen_postcopy(front.front, VHOST_USER_POSTCOPY_SLOTS));
	assert_no_error(vhost_user_front_end_set_features(front.front, front.features));
	assert_no_error(vhost_user_front_end_begin_memory(front.front, front.memory));
	assert_true(vhost_user_front_end_client_range(front.front, 0, &range));
	for (uint64_t i = 0; i < FRONT_RAM; i += 4096)
		if (i != SLOT_AT(0, 0) + SLOT_DATA)
			*(volatile uint8_t *)(front.bytes + i) = 0;
	front_start_ring(&front, 0, 0);
	front_request(&front, 0, 0, BLK_T_OUT, 0, DATA_SIZE);
	front_kick(&front, 0);
	assert_int_equal(poll(&item, 1, 60000), 1);
	vhost_user_front_end_close(front.front);
	front.front = NULL;
	assert_int_equal(waitpid(front.child, &status, 0), front.child);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
	front.child = 0;
	close(item.fd);
	assert_int_equal(pread(front.file, bytes, sizeof(bytes), 0), sizeof(bytes));
	assert_memory_equal(bytes, ones, sizeof(ones));
	front_end(&front);
}

/* --- Connections ------------------------------------------------------------------------------- */

static void test_back_end_connects_to_a_front_end_that_listens(void **unused)
{
	struct vhost_user_front_end_options options = {
	    .name = "disk", .protocol = VHOST_USER_PROTOCOL_USUAL, .time_limit_ns = FRONT_LIMIT};
	struct front front = {0};
	int listener, fd;

	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	front.options.listen = NULL;
	front.options.connect = front.socket;
	/* It waits for the front-end, and comes back when that has gone. */
	front_start_process(&front);
	usleep(300000);
	assert_no_error(vhost_user_listen(front.socket, &listener));
	for (unsigned int i = 0; i < 2; i++) {
		assert_no_error(
		    vhost_user_accept(listener, clock_monotonic_ns() + FRONT_LIMIT, &fd));
		assert_no_error(vhost_user_front_end_open(fd, &options, &front.front));
		assert_true(vhost_user_front_end_features(front.front) & F_FLUSH);
		vhost_user_front_end_close(front.front);
		front.front = NULL;
	}
	close(listener);
	front_end(&front);
}

static void test_connection_that_is_handed_in_ends_the_process(void **unused)
{
	struct vhost_user_front_end_options options = {
	    .name = "disk", .protocol = VHOST_USER_PROTOCOL_USUAL, .time_limit_ns = FRONT_LIMIT};
	struct front front = {0};
	int ends[2], status;

	front_prepare(&front, DISK_SIZE, F_FLUSH, 1);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	front.options.listen = NULL;
	front.options.fd = ends[1];
	front.not_in_child = ends[0];
	front_start_process(&front);
	close(ends[1]);
	assert_no_error(vhost_user_front_end_open(ends[0], &options, &front.front));
	vhost_user_front_end_close(front.front);
	front.front = NULL;
	assert_int_equal(waitpid(front.child, &status, 0), front.child);
	assert_int_equal(status, 0);
	front.child = 0;
	front_end(&front);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_data_is_written_and_read),
	    cmocka_unit_test(test_serial_number_is_told),
	    cmocka_unit_test(test_requests_off_the_disk_fail),
	    cmocka_unit_test(test_ranges_are_given_back_and_zeroed),
	    cmocka_unit_test(test_disk_that_is_read_only_refuses_writes),
	    cmocka_unit_test(test_everything_that_the_protocol_has_is_offered),
	    cmocka_unit_test(test_configuration_space_is_that_of_the_disk),
	    cmocka_unit_test(test_malformed_ring_stands_still_alone),
	    cmocka_unit_test(test_request_without_a_status_stands_still),
	    cmocka_unit_test(test_stopped_ring_goes_on_where_it_was),
	    cmocka_unit_test(test_disabled_ring_waits),
	    cmocka_unit_test(test_ring_without_a_kick_is_polled),
	    cmocka_unit_test(test_next_session_has_the_same_disk),
	    cmocka_unit_test(test_requests_wait_while_another_process_has_the_disk),
	    cmocka_unit_test(test_memory_in_thousands_of_pieces),
	    cmocka_unit_test(test_memory_that_went_is_not_used),
	    cmocka_unit_test(test_data_that_was_cut_off_fails),
	    cmocka_unit_test(test_ring_that_was_cut_off_ends_the_process),
	    cmocka_unit_test(test_pages_that_are_written_are_in_the_log),
	    cmocka_unit_test(test_state_moves_with_the_cache_mode),
	    cmocka_unit_test(test_state_of_another_disk_is_refused),
	    cmocka_unit_test(test_missing_pages_are_waited_for),
	    cmocka_unit_test(test_front_end_that_goes_in_post_copy_ends_the_process),
	    cmocka_unit_test(test_back_end_connects_to_a_front_end_that_listens),
	    cmocka_unit_test(test_connection_that_is_handed_in_ends_the_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
