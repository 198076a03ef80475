/* SPDX-License-Identifier: BSD-2-Clause */
/* virtio-mem: what each request is answered, and what a resize reports. */
#include "virtio_state.h"

#include "virtio/mem.h"

#define ELASTIC	 GIB(4)
#define BLOCK	 MIB(2)
#define BLOCKS	 512
#define REQUEST	 MIB(1)
#define RESPONSE (MIB(1) + 64)

enum { PLUG, UNPLUG, UNPLUG_ALL, STATE };
enum { ACK, NACK, BUSY, ERROR };

struct world {
	struct driver driver;
	struct ram_block *elastic;
	struct memory_region *region;
};

static int setup(void **state)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct world *world = calloc(1, sizeof(*world));
	struct virtio_mem_options options = {.id = "mem0", .requested = 64 * BLOCK, .node = 1};
	struct virtio_device *device;

	driver_create_memory(&world->driver, &backing);
	driver_no_error(ram_block_create("mem0", &backing, BLOCKS * BLOCK, &world->elastic));
	driver_no_error(memory_map_add(world->driver.map, ELASTIC, BLOCKS * BLOCK, world->elastic,
				       0, BLOCK, &world->region));
	options.region = world->region;
	driver_no_error(virtio_mem_create(&options, world->driver.map, &device));
	driver_add_device(&world->driver, device);
	driver_start(&world->driver, 0);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;

	driver_destroy(&world->driver);
	ram_block_destroy(world->elastic);
	free(world);
	return 0;
}

/* Sends a request for @blocks blocks from block @first on; returns the type of the answer. */
static int request_at(struct world *world, uint16_t type, uint64_t address, uint16_t blocks,
		      uint16_t *state)
{
	struct driver *driver = &world->driver;
	const struct driver_buffer buffers[] = {{REQUEST, 24, false}, {RESPONSE, 10, true}};
	uint8_t *raw = driver->ram + REQUEST;

	memset(raw, 0, 24);
	memset(driver->ram + RESPONSE, 0xff, 10);
	put_le16(raw, type);
	put_le64(raw + 8, address);
	put_le16(raw + 16, blocks);
	assert_int_equal(driver_request(driver, 0, buffers, 2), 10);
	if (state)
		*state = get_le16(driver->ram + RESPONSE + 8);
	return get_le16(driver->ram + RESPONSE);
}

static int request(struct world *world, uint16_t type, uint64_t first, uint16_t blocks)
{
	return request_at(world, type, ELASTIC + first * BLOCK, blocks, NULL);
}

static void the_configuration_says_what_is_where(void **state)
{
	struct world *world = *state;

	assert_int_equal(driver_read_config(&world->driver, 0, 8), BLOCK);
	assert_int_equal(driver_read_config(&world->driver, 8, 2), 1);
	assert_int_equal(driver_read_config(&world->driver, 16, 8), ELASTIC);
	assert_int_equal(driver_read_config(&world->driver, 24, 8), BLOCKS * BLOCK);
	assert_int_equal(driver_read_config(&world->driver, 32, 8), 64 * BLOCK + MIB(256));
	assert_int_equal(driver_read_config(&world->driver, 40, 8), 0);
	assert_int_equal(driver_read_config(&world->driver, 48, 8), 64 * BLOCK);
}

static void plugging_up_to_the_request_is_acknowledged(void **state)
{
	struct world *world = *state;

	assert_int_equal(request(world, PLUG, 0, 60), ACK);
	assert_int_equal(driver_read_config(&world->driver, 40, 8), 60 * BLOCK);
	assert_int_equal(request(world, PLUG, 70, 5), NACK);
	assert_int_equal(request(world, PLUG, 70, 4), ACK);
	assert_int_equal(request(world, PLUG, 80, 1), NACK);
}

static void wrong_ranges_are_errors(void **state)
{
	struct world *world = *state;
	uint64_t usable = driver_read_config(&world->driver, 32, 8);

	assert_int_equal(request(world, PLUG, 0, 0), ERROR);
	assert_int_equal(request_at(world, PLUG, ELASTIC + 4096, 1, NULL), ERROR);
	assert_int_equal(request_at(world, PLUG, ELASTIC - BLOCK, 1, NULL), ERROR);
	assert_int_equal(request_at(world, PLUG, ELASTIC + usable, 1, NULL), ERROR);
	assert_int_equal(request_at(world, PLUG, ELASTIC + usable - BLOCK, 2, NULL), ERROR);
	assert_int_equal(request_at(world, PLUG, UINT64_MAX - BLOCK + 1, 1, NULL), ERROR);
	assert_int_equal(request_at(world, PLUG, 0, 65535, NULL), ERROR);
	assert_int_equal(request_at(world, STATE, ELASTIC + usable, 1, NULL), ERROR);
	assert_int_equal(driver_read_config(&world->driver, 40, 8), 0);
}

static void blocks_in_the_wrong_state_are_errors(void **state)
{
	struct world *world = *state;

	assert_int_equal(request(world, UNPLUG, 0, 1), ERROR);
	assert_int_equal(request(world, PLUG, 4, 4), ACK);
	assert_int_equal(request(world, PLUG, 7, 2), ERROR);
	assert_int_equal(request(world, UNPLUG, 7, 2), ERROR);
	assert_int_equal(request(world, UNPLUG, 6, 2), ACK);
	assert_int_equal(driver_read_config(&world->driver, 40, 8), 2 * BLOCK);
}

static void the_state_of_blocks_is_told(void **state)
{
	struct world *world = *state;
	uint16_t answer;

	assert_int_equal(request(world, PLUG, 4, 4), ACK);
	assert_int_equal(request_at(world, STATE, ELASTIC + 4 * BLOCK, 4, &answer), ACK);
	assert_int_equal(answer, 0);
	assert_int_equal(request_at(world, STATE, ELASTIC + 8 * BLOCK, 4, &answer), ACK);
	assert_int_equal(answer, 1);
	assert_int_equal(request_at(world, STATE, ELASTIC + 6 * BLOCK, 4, &answer), ACK);
	assert_int_equal(answer, 2);
}

static void unplugging_all_shrinks_what_is_usable(void **state)
{
	struct world *world = *state;

	assert_int_equal(request(world, PLUG, 0, 3), ACK);
	assert_int_equal(request(world, PLUG, 9, 3), ACK);
	driver_no_error(virtio_mem_request(world->driver.device, 0));
	assert_int_equal(driver_read_config(&world->driver, 32, 8), 64 * BLOCK + MIB(256));
	assert_int_equal(request(world, UNPLUG_ALL, 0, 0), ACK);
	assert_int_equal(driver_read_config(&world->driver, 32, 8), 0);
	assert_int_equal(driver_read_config(&world->driver, 40, 8), 0);
}

static void an_unknown_request_needs_a_reset(void **state)
{
	struct world *world = *state;
	const struct driver_buffer buffers[] = {{REQUEST, 24, false}, {RESPONSE, 10, true}};

	put_le16(world->driver.ram + REQUEST, 17);
	driver_offer(&world->driver, 0, buffers, 2);
	driver_notify(&world->driver, 0);
	assert_true(driver_needs_reset(&world->driver));
}

static void a_short_request_needs_a_reset(void **state)
{
	struct world *world = *state;
	const struct driver_buffer buffers[] = {{REQUEST, 23, false}, {RESPONSE, 10, true}};

	driver_offer(&world->driver, 0, buffers, 2);
	driver_notify(&world->driver, 0);
	assert_true(driver_needs_reset(&world->driver));
}

static void a_short_response_needs_a_reset_and_does_nothing(void **state)
{
	struct world *world = *state;
	const struct driver_buffer buffers[] = {{REQUEST, 24, false}, {RESPONSE, 9, true}};

	memset(world->driver.ram + REQUEST, 0, 24);
	put_le64(world->driver.ram + REQUEST + 8, ELASTIC);
	put_le16(world->driver.ram + REQUEST + 16, 1);
	driver_offer(&world->driver, 0, buffers, 2);
	driver_notify(&world->driver, 0);
	assert_true(driver_needs_reset(&world->driver));
	assert_int_equal(memory_region_plugged_size(world->region), 0);
}

/* The response lies in the block that the request unplugs: it must not be written there any more.
 */
static void a_response_in_unplugged_memory_is_not_written(void **state)
{
	struct world *world = *state;
	const struct driver_buffer buffers[] = {{REQUEST, 24, false}, {ELASTIC, 10, true}};

	assert_int_equal(request(world, PLUG, 0, 1), ACK);
	memset(world->driver.ram + REQUEST, 0, 24);
	put_le16(world->driver.ram + REQUEST, UNPLUG);
	put_le64(world->driver.ram + REQUEST + 8, ELASTIC);
	put_le16(world->driver.ram + REQUEST + 16, 1);
	driver_offer(&world->driver, 0, buffers, 2);
	driver_notify(&world->driver, 0);
	assert_true(driver_needs_reset(&world->driver));
	assert_int_equal(ram_block_resident(world->elastic), 0);
}

static void a_resize_is_refused_beyond_the_maximum_or_between_blocks(void **state)
{
	struct world *world = *state;
	struct error *error = virtio_mem_request(world->driver.device, (BLOCKS + 1) * BLOCK);

	assert_non_null(strstr(error_message(error), "more than the maximum"));
	error_free(error);
	error = virtio_mem_request(world->driver.device, BLOCK / 2);
	assert_non_null(strstr(error_message(error), "not a multiple"));
	error_free(error);
	assert_int_equal(driver_read_config(&world->driver, 48, 8), 64 * BLOCK);
}

static void a_resize_tells_the_driver(void **state)
{
	struct world *world = *state;
	int before = __atomic_load_n(&world->driver.config_interrupts, __ATOMIC_RELAXED);

	driver_no_error(virtio_mem_request(world->driver.device, 128 * BLOCK));
	assert_int_equal(driver_read_config(&world->driver, 48, 8), 128 * BLOCK);
	assert_true(__atomic_load_n(&world->driver.config_interrupts, __ATOMIC_RELAXED) > before);
}

static enum virtio_mem_reason reason(struct world *world)
{
	struct virtio_mem_status status;

	virtio_mem_status(world->driver.device, &status);
	return status.reason;
}

static void the_reason_follows_the_driver(void **state)
{
	struct world *world = *state;

	assert_int_equal(reason(world), VIRTIO_MEM_PENDING);
	assert_int_equal(request(world, PLUG, 0, 64), ACK);
	assert_int_equal(reason(world), VIRTIO_MEM_READY);
	driver_no_error(virtio_mem_request(world->driver.device, 32 * BLOCK));
	assert_int_equal(reason(world), VIRTIO_MEM_PENDING);
	driver_set_status(&world->driver, 0);
	assert_int_equal(reason(world), VIRTIO_MEM_NO_DRIVER);
}

static void a_quiet_driver_ran_out_of_memory_or_refuses(void **state)
{
	struct world *world = *state;

	assert_int_equal(request(world, PLUG, 0, 32), ACK);
	sleep(6);
	assert_int_equal(reason(world), VIRTIO_MEM_GUEST_OOM);
	driver_no_error(virtio_mem_request(world->driver.device, 0));
	sleep(6);
	assert_int_equal(reason(world), VIRTIO_MEM_GUEST_REFUSES);
}

/* A listener without room, as KVM is when its slots are used up. */
static struct error *add_region(struct memory_listener *listener, struct memory_region *region)
{
	return NULL;
}

static void remove_region(struct memory_listener *listener, struct memory_region *region)
{
}

static int refuse(struct memory_listener *listener, struct memory_region *region, uint64_t offset,
		  uint64_t size)
{
	return -EBUSY;
}

static int accept(struct memory_listener *listener, struct memory_region *region, uint64_t offset,
		  uint64_t size)
{
	return 0;
}

static int interrupts(const struct world *world)
{
	return (int)__atomic_load_n(&world->driver.config_interrupts, __ATOMIC_RELAXED);
}

static void a_host_without_room_is_busy_and_asks_again(void **state)
{
	struct world *world = *state;
	struct memory_listener full = {.region_add = add_region,
				       .region_remove = remove_region,
				       .plug = refuse,
				       .unplug = accept};
	int before;

	driver_no_error(memory_map_add_listener(world->driver.map, &full));
	assert_int_equal(request(world, PLUG, 0, 4), BUSY);
	assert_int_equal(reason(world), VIRTIO_MEM_BUSY);
	assert_int_equal(driver_read_config(&world->driver, 40, 8), 0);
	before = interrupts(world);
	for (int i = 0; i < WAIT_MAX_MS && interrupts(world) == before; i++)
		usleep(1000);
	assert_true(interrupts(world) > before);
	memory_map_remove_listener(world->driver.map, &full);
	assert_int_equal(request(world, PLUG, 0, 4), ACK);
}

static void system_reset_on_loop(void *context)
{
	struct virtio_device *device = context;

	device->ops->system_reset(device);
}

static void a_device_reset_keeps_blocks_a_system_reset_does_not(void **state)
{
	struct world *world = *state;

	assert_int_equal(request(world, PLUG, 3, 4), ACK);
	world->elastic->host[3 * BLOCK] = 9;
	driver_set_status(&world->driver, 0);
	assert_int_equal(memory_region_plugged_size(world->region), 4 * BLOCK);
	assert_int_equal(world->elastic->host[3 * BLOCK], 9);
	event_loop_call(world->driver.device->loop, system_reset_on_loop, world->driver.device);
	assert_int_equal(memory_region_plugged_size(world->region), 0);
	assert_int_equal(ram_block_resident(world->elastic), 0);
	assert_int_equal(driver_read_config(&world->driver, 48, 8), 64 * BLOCK);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* Another machine with the same configuration, to load a state into. */
struct other {
	struct memory_map *map;
	struct ram_block *elastic;
	struct memory_region *region;
	struct virtio_device *device;
};

static void create_other(struct other *other, uint64_t block_size)
{
	struct ram_backing_options backing = {.backing = RAM_BACKING_MEMFD, .host_node = -1};
	struct virtio_mem_options options = {.id = "mem0", .node = 1};

	driver_no_error(memory_map_create(&other->map));
	driver_no_error(ram_block_create("mem0", &backing, BLOCKS * BLOCK, &other->elastic));
	driver_no_error(memory_map_add(other->map, ELASTIC, BLOCKS * BLOCK, other->elastic, 0,
				       block_size, &other->region));
	options.region = other->region;
	driver_no_error(virtio_mem_create(&options, other->map, &other->device));
	virtio_device_quiesce(other->device);
}

static void destroy_other(struct other *other)
{
	virtio_device_destroy(other->device);
	memory_map_destroy(other->map);
	ram_block_destroy(other->elastic);
}

static struct saved_state save(struct world *world)
{
	virtio_device_quiesce(world->driver.device);
	return save_device(world->driver.device);
}

static void a_load_plugs_what_was_plugged(void **state)
{
	struct world *world = *state;
	struct virtio_mem_status status;
	struct saved_state saved;
	struct other other;

	assert_int_equal(request(world, PLUG, 0, 60), ACK);
	assert_int_equal(request(world, UNPLUG, 10, 20), ACK);
	/* Shrinking: more is plugged than requested. */
	driver_no_error(virtio_mem_request(world->driver.device, 8 * BLOCK));
	saved = save(world);
	create_other(&other, BLOCK);
	load_device(other.device, &saved);
	assert_memory_equal(other.region->plugged, world->region->plugged, BLOCKS / 8);
	virtio_mem_status(other.device, &status);
	assert_int_equal(status.requested, 8 * BLOCK);
	assert_int_equal(status.plugged, 40 * BLOCK);
	assert_int_equal(status.reason, VIRTIO_MEM_PENDING);
	free(saved.bytes);
	destroy_other(&other);
}

static int refuse_plug(struct memory_listener *listener, struct memory_region *region,
		       uint64_t offset, uint64_t size)
{
	return offset ? -EBUSY : 0;
}

static struct error *accept_region(struct memory_listener *listener, struct memory_region *region)
{
	return NULL;
}

static void forget_region(struct memory_listener *listener, struct memory_region *region)
{
}

static int accept_unplug(struct memory_listener *listener, struct memory_region *region,
			 uint64_t offset, uint64_t size)
{
	return 0;
}

static void a_host_without_room_refuses_a_load(void **state)
{
	struct memory_listener listener = {.region_add = accept_region,
					   .region_remove = forget_region,
					   .plug = refuse_plug,
					   .unplug = accept_unplug};
	struct world *world = *state;
	struct saved_state saved;
	struct other other;

	assert_int_equal(request(world, PLUG, 0, 4), ACK);
	assert_int_equal(request(world, PLUG, 10, 3), ACK);
	saved = save(world);
	create_other(&other, BLOCK);
	driver_no_error(memory_map_add_listener(other.map, &listener));
	assert_refused(other.device, &saved, "no room for 6M of the 14M that were plugged");
	free(saved.bytes);
	memory_map_remove_listener(other.map, &listener);
	destroy_other(&other);
}

/* As a migration does, which brings the content before the state. */
static void a_load_keeps_what_was_plugged_for_it_and_unplugs_the_rest(void **state)
{
	struct memory_listener listener = {.region_add = accept_region,
					   .region_remove = forget_region,
					   .plug = refuse_plug,
					   .unplug = accept_unplug};
	struct world *world = *state;
	struct virtio_mem_status status;
	struct saved_state saved;
	struct other other;

	assert_int_equal(request(world, PLUG, 4, 4), ACK);
	saved = save(world);
	create_other(&other, BLOCK);
	assert_int_equal(memory_region_plug(other.map, other.region, 4 * BLOCK, 10 * BLOCK), 0);
	memset(other.elastic->host + 4 * BLOCK, 0xab, 10 * BLOCK);
	driver_no_error(memory_map_add_listener(other.map, &listener));
	load_device(other.device, &saved);
	assert_memory_equal(other.region->plugged, world->region->plugged, BLOCKS / 8);
	virtio_mem_status(other.device, &status);
	assert_int_equal(status.plugged, 4 * BLOCK);
	assert_int_equal(other.elastic->host[5 * BLOCK], 0xab);
	assert_int_equal(other.elastic->host[13 * BLOCK], 0);
	free(saved.bytes);
	memory_map_remove_listener(other.map, &listener);
	destroy_other(&other);
}

static void a_state_is_for_the_same_block_size(void **state)
{
	struct world *world = *state;
	struct saved_state saved;
	struct other other;

	saved = save(world);
	create_other(&other, 2 * BLOCK);
	assert_refused(other.device, &saved, "block size");
	free(saved.bytes);
	destroy_other(&other);
}

static void a_resize_goes_on_after_a_load(void **state)
{
	struct world *world = *state;
	struct driver *driver = &world->driver;
	struct virtio_device *old = driver->device;
	struct memory_map *old_map = driver->map;
	struct memory_region *old_region = world->region, *ram;
	struct saved_state saved;
	struct other other;

	assert_int_equal(request(world, PLUG, 0, 4), ACK);
	saved = save(world);
	/* Asked for while the machine is paused: the driver has not heard of it. */
	create_other(&other, BLOCK);
	driver_no_error(memory_map_add(other.map, 0, RAM_SIZE, driver->block, 0, 0, &ram));
	load_device(other.device, &saved);
	driver->map = other.map;
	driver_add_device(driver, other.device);
	world->region = other.region;
	driver_no_error(virtio_mem_request(other.device, 6 * BLOCK));
	virtio_device_resume(other.device);
	assert_true(__atomic_load_n(&driver->config_interrupts, __ATOMIC_RELAXED) > 0);
	assert_int_equal(request(world, PLUG, 0, 1), ERROR);
	assert_int_equal(request(world, PLUG, 4, 2), ACK);
	assert_int_equal(request(world, UNPLUG, 1, 1), ACK);
	assert_int_equal(memory_region_plugged_size(other.region), 5 * BLOCK);
	free(saved.bytes);
	driver->map = old_map;
	driver->device = old;
	world->region = old_region;
	destroy_other(&other);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    TEST(the_configuration_says_what_is_where),
	    TEST(plugging_up_to_the_request_is_acknowledged),
	    TEST(wrong_ranges_are_errors),
	    TEST(blocks_in_the_wrong_state_are_errors),
	    TEST(the_state_of_blocks_is_told),
	    TEST(unplugging_all_shrinks_what_is_usable),
	    TEST(an_unknown_request_needs_a_reset),
	    TEST(a_short_request_needs_a_reset),
	    TEST(a_short_response_needs_a_reset_and_does_nothing),
	    TEST(a_response_in_unplugged_memory_is_not_written),
	    TEST(a_resize_is_refused_beyond_the_maximum_or_between_blocks),
	    TEST(a_resize_tells_the_driver),
	    TEST(the_reason_follows_the_driver),
	    TEST(a_quiet_driver_ran_out_of_memory_or_refuses),
	    TEST(a_host_without_room_is_busy_and_asks_again),
	    TEST(a_device_reset_keeps_blocks_a_system_reset_does_not),
	    TEST(a_load_plugs_what_was_plugged),
	    TEST(a_host_without_room_refuses_a_load),
	    TEST(a_load_keeps_what_was_plugged_for_it_and_unplugs_the_rest),
	    TEST(a_state_is_for_the_same_block_size),
	    TEST(a_resize_goes_on_after_a_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
