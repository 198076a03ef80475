/* SPDX-License-Identifier: BSD-2-Clause */
/* Virtio devices whose work a back-end does: with a back-end that serves, is late, dies and lies. */
#include "vhost_user_setup.h"

#include <sys/mman.h>

/* --- A back-end that serves -------------------------------------------------------------------- */

static void test_device_is_what_the_back_end_offers(void **state)
{
	struct setup *setup = begin(",queues=2");
	struct virtio_device *device = setup->driver.device;

	assert_string_equal(device->ops->type, "vhost-user-blk");
	assert_int_equal(device->ops->id, VIRTIO_ID_BLOCK);
	/* Packed rings are not passed on. */
	assert_int_equal(device->features, 1ULL << 32 | 1ULL << 28 | 1ULL << 12 | 1ULL << 9);
	assert_int_equal(driver_read_config(&setup->driver, 0, 8), DISK_SECTORS);
	assert_int_equal(driver_read_config(&setup->driver, 34, 2), 2);
	assert_int_equal(virtio_device_status(device), 0);
	end(setup);
}

static void test_every_queue_reads_and_writes(void **state)
{
	struct setup *setup = begin(",queues=3");

	driver_start(&setup->driver, 0);
	for (uint16_t queue = 0; queue < 3; queue++) {
		read_sector(setup, queue, 7 + queue);
		memset(setup->driver.ram + DATA, 0x77, 512);
		offer(setup, queue, 1, 20 + queue, DATA);
		answered(setup, queue);
		assert_int_equal(setup->disk.image[20 + queue][511], 0x77);
	}
	assert_int_equal(setup->disk.features & ~VHOST_USER_F_PROTOCOL_FEATURES, 1ULL << 32);
	end(setup);
}

static void test_interrupts_that_the_host_does_not_take_arrive(void **state)
{
	struct setup *setup = begin("");

	driver_start(&setup->driver, 0);
	assert_true(setup->connected[0] >= 0);
	read_sector(setup, 0, 1);
	disk_wait(&setup->interrupts, 1);
	driver_set_status(&setup->driver, 0);
	assert_int_equal(setup->connected[0], -1);
	end(setup);
}

static void test_driver_writes_what_the_back_end_allows(void **state)
{
	struct setup *setup = begin("");

	driver_start(&setup->driver, 0);
	driver_write_config(&setup->driver, 32, 1, 1);
	assert_int_equal(driver_read_config(&setup->driver, 32, 1), 1);
	assert_int_equal(setup->disk.config[32], 1);
	driver_write_config(&setup->driver, 0, 1, 5);
	assert_int_equal(driver_read_config(&setup->driver, 0, 8), DISK_SECTORS);
	read_sector(setup, 0, 3);
	end(setup);
}

static void test_driver_hears_of_new_configuration(void **state)
{
	struct setup *setup = begin("");

	driver_start(&setup->driver, 0);
	put_le64(setup->disk.config, 12345);
	disk_change_config(&setup->disk);
	disk_wait((unsigned int *)&setup->driver.config_interrupts, 1);
	assert_int_equal(driver_read_config(&setup->driver, 0, 8), 12345);
	end(setup);
}

static void test_rings_rest_while_the_machine_does(void **state)
{
	struct setup *setup = begin("");
	unsigned int requests;

	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 1);
	virtio_device_quiesce(setup->driver.device);
	disk_wait(&setup->disk.requests, 1);
	requests = setup->disk.requests;
	offer(setup, 0, 0, 5, DATA);
	assert_false(setup->disk.rings[0].running);
	virtio_device_resume(setup->driver.device);
	answered(setup, 0);
	assert_int_equal(setup->driver.ram[DATA], 6);
	assert_int_equal(setup->disk.requests, requests + 1);
	end(setup);
}

static void test_driver_begins_anew_after_a_reset(void **state)
{
	struct setup *setup = begin("");

	for (int i = 0; i < 3; i++) {
		driver_start(&setup->driver, 0);
		read_sector(setup, 0, (uint64_t)i);
		driver_set_status(&setup->driver, 0);
		assert_false(setup->disk.rings[0].running);
	}
	assert_int_equal(setup->disk.sessions, 1);
	end(setup);
}

static void test_ring_outside_memory_needs_a_reset(void **state)
{
	struct setup *setup = begin("");
	struct virtqueue *ring = &setup->driver.device->queues[0].ring;

	driver_start(&setup->driver, 0);
	virtio_device_quiesce(setup->driver.device);
	ring->layout.descriptors = HOT_ADDRESS; /* as if it had been unplugged meanwhile */
	virtio_device_resume(setup->driver.device);
	assert_true(driver_needs_reset(&setup->driver));
	driver_set_status(&setup->driver, 0);
	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 1);
	end(setup);
}

/* --- Memory ------------------------------------------------------------------------------------ */

static void test_back_end_holds_exactly_what_is_plugged(void **state)
{
	struct setup *setup = begin("");
	uint64_t messages;

	driver_start(&setup->driver, 0);
	assert_int_equal(status_of(setup).slots_used, 1);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, MIB(8), HOT_UNIT), 0);
	assert_int_equal(status_of(setup).slots_used, 2);
	assert_int_equal(status_of(setup).excess, 0);
	offer(setup, 0, 0, 9, HOT_ADDRESS + MIB(9));
	answered(setup, 0);
	assert_int_equal(setup->hot_block->host[MIB(9)], 10);
	messages = status_of(setup).messages;
	assert_int_equal(memory_region_unplug(setup->driver.map, setup->hot, MIB(8), HOT_UNIT), 0);
	assert_int_equal(status_of(setup).slots_used, 1);
	assert_int_equal(status_of(setup).messages, messages + 1);
	end(setup);
}

static void test_memory_plugged_before_the_driver_comes_is_there(void **state)
{
	struct setup *setup = begin("");

	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, HOT_UNIT), 0);
	assert_int_equal(status_of(setup).slots_used, 0);
	driver_start(&setup->driver, 0);
	assert_int_equal(status_of(setup).slots_used, 2);
	offer(setup, 0, 0, 9, HOT_ADDRESS + MIB(1));
	answered(setup, 0);
	end(setup);
}

static void test_few_slots_are_held_coarsely(void **state)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	setup->disk.options.slots = 4;
	disk_listen(&setup->disk);
	driver_no_error(add_device(setup, ""));
	driver_start(&setup->driver, 0);
	for (uint64_t offset = 0; offset < HOT_SIZE; offset += 2 * HOT_UNIT)
		assert_int_equal(
		    memory_region_plug(setup->driver.map, setup->hot, offset, HOT_UNIT), 0);
	assert_true(status_of(setup).slots_used <= 4);
	assert_int_equal(status_of(setup).slots_max, 4);
	assert_true(status_of(setup).excess > 0);
	offer(setup, 0, 0, 9, HOT_ADDRESS + HOT_SIZE - 2 * HOT_UNIT);
	answered(setup, 0);
	assert_int_equal(setup->disk.sessions, 1);
	end(setup);
}

/* Bytes that the host holds of elastic memory. */
static uint64_t hot_held(const struct setup *setup)
{
	return ram_block_resident(setup->hot_block);
}

/* A back-end that keeps a mapping of everything, whatever it was told. */
static void test_unplugged_memory_that_a_back_end_fills_is_given_back(void **state)
{
	struct setup *setup = begin("");
	uint64_t found = 0;
	uint8_t *theirs;

	driver_start(&setup->driver, 0);
	theirs = mmap(NULL, HOT_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, setup->hot_block->fd, 0);
	assert_ptr_not_equal(theirs, MAP_FAILED);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, 3 * HOT_UNIT), 0);
	memset(theirs, 1, 3 * HOT_UNIT);
	assert_int_equal(memory_region_unplug(setup->driver.map, setup->hot, HOT_UNIT, HOT_UNIT),
			 0);
	assert_int_equal(hot_held(setup), 2 * HOT_UNIT);
	theirs[HOT_UNIT] = 2;
	theirs[HOT_UNIT + MIB(1)] = 2;
	theirs[HOT_SIZE - 1] = 2;
	assert_true(hot_held(setup) > 2 * HOT_UNIT);
	assert_true(memory_map_reclaim(setup->driver.map, &found));
	assert_true(found >= 3 * KIB(4)); /* or whole huge pages */
	assert_int_equal(hot_held(setup), 2 * HOT_UNIT);
	assert_int_equal(theirs[HOT_UNIT], 0);
	assert_int_equal(theirs[0], 1);
	assert_int_equal(theirs[2 * HOT_UNIT], 1);
	/* What it writes between two looks is not there either when the memory is plugged. */
	theirs[HOT_UNIT] = 3;
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, HOT_UNIT, HOT_UNIT), 0);
	assert_int_equal(setup->hot_block->host[HOT_UNIT], 0);
	munmap(theirs, HOT_SIZE);
	end(setup);
}

static void test_memory_cannot_be_cut_off(void **state)
{
	struct setup *setup = begin("");

	assert_true(ftruncate(setup->hot_block->fd, MIB(1)) < 0);
	assert_true(ftruncate(setup->hot_block->fd, 2 * HOT_SIZE) < 0);
	end(setup);
}

static void test_private_memory_is_refused(void **state)
{
	struct setup *setup = prepare(RAM_BACKING_ANON);

	disk_listen(&setup->disk);
	assert_refused(add_device(setup, ""), "the memory of 'ram' is private to the VM "
					      "(backing=anon), and a back-end has to map it");
	end(setup);
}

/* --- Back-ends that do not fit ----------------------------------------------------------------- */

static void assert_misfit(void (*change)(struct vhost_user_back_end_options *options),
			  const char *text)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	change(&setup->disk.options);
	disk_listen(&setup->disk);
	assert_refused(add_device(setup, ",queues=3"), text);
	end(setup);
}

static void few_queues(struct vhost_user_back_end_options *options)
{
	options->queues = 2;
}

static void few_slots(struct vhost_user_back_end_options *options)
{
	options->slots = 1;
}

static void old_virtio(struct vhost_user_back_end_options *options)
{
	options->features = 1ULL << 28;
}

static void no_config(struct vhost_user_back_end_options *options)
{
	options->protocol &= ~VHOST_USER_PROTOCOL_CONFIG;
}

static void test_misfits_are_refused_by_name(void **state)
{
	assert_misfit(few_queues, "has 2 queues, and the device is to have 3");
	assert_misfit(few_slots, "takes 1 pieces of memory, and the machine has 2");
	assert_misfit(old_virtio, "is of before virtio 1.0");
	assert_misfit(no_config, "has no configuration space, and a device of the type blk needs");
}

/* --- Back-ends that come and go ---------------------------------------------------------------- */

static void test_device_waits_for_its_back_end(void **state)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	driver_no_error(add_device(setup, ""));
	assert_false(status_of(setup).connected);
	assert_int_equal(virtio_device_status(setup->driver.device), VIRTIO_STATUS_NEEDS_RESET);
	driver_set_status(&setup->driver, 1); /* a driver that does not wait for its reset */
	assert_int_equal(virtio_device_status(setup->driver.device), VIRTIO_STATUS_NEEDS_RESET);
	disk_listen(&setup->disk);
	wait_connected(setup, true);
	assert_int_equal(virtio_device_status(setup->driver.device), 0);
	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 4);
	end(setup);
}

/* A request that is under way when the back-end dies; @protocol is what the back-end can do. */
static struct setup *die_with_a_request(uint64_t protocol)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	setup->disk.options.protocol = protocol;
	disk_listen(&setup->disk);
	driver_no_error(add_device(setup, ""));
	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 1);
	setup->disk.hold = true;
	offer(setup, 0, 0, 6, DATA);
	disk_wait(&setup->disk.taken, 2);
	__atomic_store_n(&setup->disk.hold, false, __ATOMIC_RELEASE);
	disk_die(&setup->disk);
	return setup;
}

static void test_requests_go_on_with_the_next_back_end(void **state)
{
	struct setup *setup = begin("");

	driver_start(&setup->driver, 0);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, MIB(4)), 0);
	for (unsigned int i = 1; i <= 3; i++) {
		read_sector(setup, 0, i);
		disk_die(&setup->disk);
		disk_wait(&setup->disk.sessions, i + 1);
		offer(setup, 0, 0, 10 + i, HOT_ADDRESS + KIB(i));
		answered(setup, 0);
		assert_int_equal(setup->hot_block->host[KIB(i)], 11 + i);
	}
	assert_false(driver_needs_reset(&setup->driver));
	end(setup);
}

static void test_request_under_way_is_done_by_the_next_back_end(void **state)
{
	struct setup *setup = die_with_a_request(VHOST_USER_PROTOCOL_KNOWN);

	answered(setup, 0);
	assert_int_equal(setup->driver.ram[DATA], 7);
	assert_int_equal(setup->disk.requests, 2);
	read_sector(setup, 0, 8);
	end(setup);
}

static void test_requests_that_nobody_knows_need_a_reset(void **state)
{
	struct setup *setup =
	    die_with_a_request(VHOST_USER_PROTOCOL_KNOWN & ~VHOST_USER_PROTOCOL_INFLIGHT_SHMFD);

	disk_wait(&setup->disk.sessions, 2);
	wait_connected(setup, true);
	assert_true(driver_needs_reset(&setup->driver));
	assert_non_null(
	    strstr(setup->driver.device->last_violation, "died with 1 requests that nobody knows"));
	driver_set_status(&setup->driver, 0);
	driver_start(&setup->driver, 0);
	read_sector(setup, 0, 8);
	end(setup);
}

static void test_back_end_may_connect_to_the_machine(void **state)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	setup->disk.connects = true;
	driver_no_error(add_device(setup, ",listen=on"));
	assert_false(status_of(setup).connected);
	disk_listen(&setup->disk);
	wait_connected(setup, true);
	driver_start(&setup->driver, 0);
	for (unsigned int i = 1; i <= 3; i++) {
		read_sector(setup, 0, i);
		disk_die(&setup->disk);
		disk_wait(&setup->disk.sessions, i + 1);
		read_sector(setup, 0, 10 + i);
	}
	assert_int_equal(access(setup->disk.path, F_OK), 0);
	virtio_device_destroy(setup->driver.device);
	setup->driver.device = NULL;
	close(setup->doorbells[0]);
	assert_int_not_equal(access(setup->disk.path, F_OK), 0);
	end(setup);
}

static void test_memory_changes_while_nobody_is_there(void **state)
{
	struct setup *setup = begin("");

	driver_start(&setup->driver, 0);
	setup->disk.options.features &= ~(1ULL << 32); /* so that it is not let in again */
	disk_die(&setup->disk);
	wait_connected(setup, false);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, MIB(4)), 0);
	assert_int_equal(memory_region_unplug(setup->driver.map, setup->hot, 0, MIB(2)), 0);
	setup->disk.options.features |= 1ULL << 32;
	offer(setup, 0, 0, 12, HOT_ADDRESS + MIB(2));
	answered(setup, 0);
	assert_int_equal(setup->hot_block->host[MIB(2)], 13);
	assert_int_equal(status_of(setup).excess, 0);
	end(setup);
}

static void test_back_end_with_less_than_the_driver_uses_is_not_let_in(void **state)
{
	struct setup *setup = begin("");

	driver_start(&setup->driver, 1ULL << 9);
	setup->disk.options.features &= ~(1ULL << 9);
	disk_die(&setup->disk);
	disk_wait(&setup->disk.sessions, 3);
	assert_false(status_of(setup).connected && setup->disk.rings[0].running);
	offer(setup, 0, 0, 12, DATA);
	setup->disk.options.features |= 1ULL << 9;
	answered(setup, 0);
	end(setup);
}

/* --- Network ----------------------------------------------------------------------------------- */

#define NET_MAC	 (1ULL << 5)
#define NET_MORE (1ULL << 16 | 1ULL << 17 | 1ULL << 22) /* status, control queue, several pairs */
#define CONTROL	 (MIB(1) + KIB(16))

static struct setup *begin_net(const char *options)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	/* Offloads of packets, and features that need a control queue of the back-end's own. */
	setup->disk.options.features = 1ULL << 32 | 1ULL << 15 | 1 | 1ULL << 18 | 1ULL << 22;
	setup->disk.options.protocol &= ~VHOST_USER_PROTOCOL_CONFIG;
	disk_listen(&setup->disk);
	driver_no_error(add_kind(setup, "net", options));
	return setup;
}

static void test_network_device_has_a_configuration_of_its_own(void **state)
{
	struct setup *setup = begin_net(",mac=52:54:00:12:34:56");
	struct virtio_device *device = setup->driver.device;

	assert_int_equal(device->ops->id, VIRTIO_ID_NET);
	assert_int_equal(device->queue_count, 2);
	assert_int_equal(device->features, 1ULL << 32 | 1ULL << 15 | 1 | NET_MAC | 1ULL << 16);
	assert_int_equal(driver_read_config(&setup->driver, 0, 6), 0x563412005452ULL);
	assert_int_equal(driver_read_config(&setup->driver, 6, 2), 1);
	driver_start(&setup->driver, NET_MAC);
	assert_true(setup->disk.rings[0].running && setup->disk.rings[1].running);
	/* The back-end hears only of what it offered. */
	assert_int_equal(setup->disk.features & ~VHOST_USER_F_PROTOCOL_FEATURES, 1ULL << 32);
	end(setup);
}

static void set_pairs(struct setup *setup, uint16_t pairs, uint8_t answer)
{
	uint8_t *command = setup->driver.ram + CONTROL;
	const struct driver_buffer buffers[] = {{CONTROL, 4, false}, {CONTROL + 8, 1, true}};

	command[0] = 4; /* several queues: how many pairs */
	command[1] = 0;
	put_le16(command + 2, pairs);
	assert_int_equal(driver_request(&setup->driver, 4, buffers, ARRAY_SIZE(buffers)), 1);
	assert_int_equal(command[8], answer);
}

static unsigned int enabled_rings(struct setup *setup)
{
	unsigned int count = 0;

	for (uint32_t i = 0; i < DISK_RINGS; i++)
		count += vhost_user_back_end_ring(setup->disk.back, i)->enabled;
	return count;
}

static void test_driver_chooses_the_number_of_queue_pairs(void **state)
{
	struct setup *setup = begin_net(",queues=2");

	assert_int_equal(setup->driver.device->queue_count, 5);
	assert_int_equal(driver_read_config(&setup->driver, 8, 2), 2);
	driver_start(&setup->driver, NET_MAC | NET_MORE);
	assert_int_equal(enabled_rings(setup), 2);
	set_pairs(setup, 2, 0);
	assert_int_equal(enabled_rings(setup), 4);
	set_pairs(setup, 3, 1);
	set_pairs(setup, 1, 0);
	assert_int_equal(enabled_rings(setup), 2);
	/* The next back-end hears it too. */
	set_pairs(setup, 2, 0);
	disk_die(&setup->disk);
	disk_wait(&setup->disk.sessions, 2);
	wait_connected(setup, true);
	assert_int_equal(enabled_rings(setup), 4);
	assert_false(driver_needs_reset(&setup->driver));
	end(setup);
}

static void test_cable_is_pulled_while_the_back_end_is_away(void **state)
{
	struct setup *setup = begin_net("");

	driver_start(&setup->driver, 1ULL << 16);
	__atomic_store_n(&setup->disk.options.features, 1, __ATOMIC_RELEASE);
	disk_die(&setup->disk);
	wait_connected(setup, false);
	assert_int_equal(driver_read_config(&setup->driver, 6, 2), 0);
	assert_int_equal(setup->driver.config_interrupts, 1);
	__atomic_store_n(&setup->disk.options.features, 1ULL << 32, __ATOMIC_RELEASE);
	wait_connected(setup, true);
	assert_int_equal(driver_read_config(&setup->driver, 6, 2), 1);
	end(setup);
}

static void test_control_queue_needs_several_pairs(void **state)
{
	struct setup *setup = begin_net(",queues=2");
	struct virtio_device *device = setup->driver.device;

	assert_false(device->ops->accept_features(device, 1ULL << 32 | 1ULL << 17));
	assert_true(device->ops->accept_features(device, 1ULL << 32));
	end(setup);
}

/* --- What cannot be done ----------------------------------------------------------------------- */

static void test_back_end_with_a_state_is_not_taken_along(void **state)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);
	struct virtio_device *device;

	setup->disk.options.protocol &= ~VHOST_USER_PROTOCOL_CONFIG;
	disk_listen(&setup->disk);
	driver_no_error(add_kind(setup, "fs", ",tag=here"));
	device = setup->driver.device;
	assert_int_equal(device->queue_count, 2);
	assert_int_equal(driver_read_config(&setup->driver, 0, 5), 0x65726568);
	assert_int_equal(driver_read_config(&setup->driver, 36, 4), 1);
	assert_refused(device->ops->movable(device, VIRTIO_MOVE_STOPPED),
		       "has a state of its own that it cannot hand over (DEVICE_STATE)");
	end(setup);
}

static void test_saved_device_goes_on_where_it_was(void **state)
{
	struct setup *setup = begin(",queues=2");
	AUTO_STATE struct state *save = state_save_begin(false);
	AUTO_STATE struct state *load = NULL;
	const void *bytes;
	size_t size;

	driver_start(&setup->driver, 0);
	assert_int_equal(memory_region_plug(setup->driver.map, setup->hot, 0, MIB(4)), 0);
	for (uint64_t i = 0; i < 5; i++)
		read_sector(setup, i % 2, i);
	virtio_device_quiesce(setup->driver.device);
	visit(setup, save);
	bytes = state_bytes(save, &size);
	put_le64(setup->disk.config, 4711); /* the disk has grown meanwhile */
	replace_device(setup, "disk", ",queues=2");
	offer(setup, 1, 0, 9, HOT_ADDRESS + MIB(3));
	load = state_load_begin(bytes, size, 1);
	visit(setup, load);
	driver_no_error(state_finish(load));
	virtio_device_resume(setup->driver.device);
	answered(setup, 1);
	assert_int_equal(setup->hot_block->host[MIB(3)], 10);
	read_sector(setup, 0, 7);
	assert_int_equal(setup->driver.device->config_generation, 1);
	assert_int_equal(setup->disk.requests, 7);
	end(setup);
}

static void test_device_is_not_loaded_without_its_back_end(void **state)
{
	struct setup *setup = begin("");
	AUTO_STATE struct state *save = state_save_begin(false);
	AUTO_STATE struct state *load = NULL;
	struct state_part part;
	const void *bytes;
	size_t size;

	virtio_device_quiesce(setup->driver.device);
	visit(setup, save);
	bytes = state_bytes(save, &size);
	virtio_device_destroy(setup->driver.device);
	close(setup->doorbells[0]);
	snprintf(setup->disk.path, sizeof(setup->disk.path), "%s/nobody", setup->disk.folder);
	driver_no_error(add_device(setup, ""));
	virtio_device_quiesce(setup->driver.device);
	load = state_load_begin(bytes, size, 1);
	virtio_device_state_part(setup->driver.device, &part);
	assert_refused(state_visit(load, &part), "is not there: start it first");
	snprintf(setup->disk.path, sizeof(setup->disk.path), "%s/socket", setup->disk.folder);
	end(setup);
}

static void test_device_in_doubt_is_not_saved(void **state)
{
	struct setup *setup = begin("");
	AUTO_STATE struct state *save = state_save_begin(false);
	struct state_part part;

	driver_start(&setup->driver, 0);
	__atomic_store_n(&setup->disk.options.features, 1, __ATOMIC_RELEASE);
	disk_die(&setup->disk);
	wait_connected(setup, false);
	virtio_device_quiesce(setup->driver.device);
	virtio_device_state_part(setup->driver.device, &part);
	assert_refused(state_visit(save, &part), "has gone in the middle of its work");
	end(setup);
}

static void assert_bad_text(const char *kind, const char *text, const char *why)
{
	struct virtio_device *device;

	assert_refused(vhost_user_device_create(kind, text, "vm", 0, &device), why);
}

static void test_bad_options_are_refused_by_name(void **state)
{
	assert_bad_text("disk", "vhost-user:", "it names no socket");
	assert_bad_text("disk", "vhost-user:/s,queues=0", "a device has at least one");
	assert_bad_text("disk", "vhost-user:/s,queues=65", "queues");
	assert_bad_text("disk", "vhost-user:/s,queue-size=100", "is not a power of two");
	assert_bad_text("disk", "vhost-user:/s,direct=on", "direct");
	assert_bad_text("fs", "vhost-user:/s", "it gives no tag");
	assert_bad_text("fs", "/s,tag=t", "begin with vhost-user:SOCKET");
	assert_bad_text("fs", "vhost-user:/s,tag=1234567890123456789012345678901234567",
			"more than 36 bytes");
	assert_bad_text("vhost-user", "socket=/s", "it gives no type");
	assert_bad_text("vhost-user", "socket=/s,type=nothing", "is neither a type that is known");
	assert_bad_text("vhost-user", "socket=/s,type=64", "is neither a type that is known");
	assert_bad_text("vhost-user", "socket=/s,type=24", "not a device that a back-end can work");
	assert_bad_text("vhost-user", "socket=/s,type=net",
			"not a device that a back-end can work");
	assert_bad_text("net", "vhost-user:/s,mac=01:00:00:00:00:00", "multicast or empty");
	assert_bad_text("vhost-user", "type=blk", "it names no socket");
	assert_bad_text("disk", "vhost-user:/s,postcopy=on", "is neither table nor slots");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_device_is_what_the_back_end_offers),
	    cmocka_unit_test(test_every_queue_reads_and_writes),
	    cmocka_unit_test(test_interrupts_that_the_host_does_not_take_arrive),
	    cmocka_unit_test(test_driver_writes_what_the_back_end_allows),
	    cmocka_unit_test(test_driver_hears_of_new_configuration),
	    cmocka_unit_test(test_rings_rest_while_the_machine_does),
	    cmocka_unit_test(test_driver_begins_anew_after_a_reset),
	    cmocka_unit_test(test_ring_outside_memory_needs_a_reset),
	    cmocka_unit_test(test_back_end_holds_exactly_what_is_plugged),
	    cmocka_unit_test(test_memory_plugged_before_the_driver_comes_is_there),
	    cmocka_unit_test(test_few_slots_are_held_coarsely),
	    cmocka_unit_test(test_unplugged_memory_that_a_back_end_fills_is_given_back),
	    cmocka_unit_test(test_memory_cannot_be_cut_off),
	    cmocka_unit_test(test_private_memory_is_refused),
	    cmocka_unit_test(test_misfits_are_refused_by_name),
	    cmocka_unit_test(test_device_waits_for_its_back_end),
	    cmocka_unit_test(test_requests_go_on_with_the_next_back_end),
	    cmocka_unit_test(test_request_under_way_is_done_by_the_next_back_end),
	    cmocka_unit_test(test_requests_that_nobody_knows_need_a_reset),
	    cmocka_unit_test(test_back_end_may_connect_to_the_machine),
	    cmocka_unit_test(test_memory_changes_while_nobody_is_there),
	    cmocka_unit_test(test_back_end_with_less_than_the_driver_uses_is_not_let_in),
	    cmocka_unit_test(test_network_device_has_a_configuration_of_its_own),
	    cmocka_unit_test(test_driver_chooses_the_number_of_queue_pairs),
	    cmocka_unit_test(test_cable_is_pulled_while_the_back_end_is_away),
	    cmocka_unit_test(test_control_queue_needs_several_pairs),
	    cmocka_unit_test(test_back_end_with_a_state_is_not_taken_along),
	    cmocka_unit_test(test_saved_device_goes_on_where_it_was),
	    cmocka_unit_test(test_device_is_not_loaded_without_its_back_end),
	    cmocka_unit_test(test_device_in_doubt_is_not_saved),
	    cmocka_unit_test(test_bad_options_are_refused_by_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
