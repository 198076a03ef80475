/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Each device in use, saved, loaded into another one behind another memory map of the same memory,
 * and used on. Everything for split and packed rings.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "virtio/balloon.h"
#include "virtio/blk.h"
#include "virtio/console.h"
#include "virtio/mem.h"
#include "virtio/net.h"
#include "virtio/net_header.h"
#include "virtio/rng.h"
#include "virtio/vsock.h"
#include "virtio/vsock_packet.h"
#include "virtio_state.h"

#define ELASTIC	    GIB(1)
#define BLOCK	    KIB(4)
#define BLOCKS	    100
#define ROUNDS	    300	   /* more than any queue is long */
#define SLOTS	    MIB(1) /* where requests are, */
#define SLOT_SIZE   KIB(4) /* so much apart */
#define SLOT_ANSWER 0x800  /* offset in a slot */
#define PENDING	    3	   /* requests that the device does not know of yet when it is saved */
#define SECTOR	    512

struct world;

struct kind {
	const char *name;
	void (*create)(struct world *world, struct virtio_device **device);
	void (*prepare)(struct world *world); /* once the driver runs; NULL: nothing */
	void (*offer)(struct world *world, uint64_t slot);
	void (*check)(struct world *world); /* everything offered was done once; NULL: unknown */
	uint16_t queue;
};

struct variant {
	const struct kind *kind;
	bool packed;
};

struct world {
	struct driver driver;
	const struct kind *kind;
	struct ram_block *elastic;
	struct memory_region *region;
	char directory[32], disk[48];
	int disk_fd;
	int wire; /* the other end of the network device's socket, or -1 */
	unsigned int hosts, offered, frames, announcements;
};

/* --- Kinds --- */

static void create_rng(struct world *world, struct virtio_device **device)
{
	driver_no_error(virtio_rng_create("rng", device));
}

static void offer_rng(struct world *world, uint64_t slot)
{
	driver_offer(&world->driver, 0, &(struct driver_buffer){slot, 16, true}, 1);
}

static void create_console(struct world *world, struct virtio_device **device)
{
	struct chardev *backend;

	driver_no_error(chardev_create("null", &backend));
	driver_no_error(virtio_console_create("console", backend, device));
}

static void offer_output(struct world *world, uint64_t slot)
{
	driver_offer(&world->driver, 1, &(struct driver_buffer){slot, 16, false}, 1);
}

static void create_balloon(struct world *world, struct virtio_device **device)
{
	driver_no_error(virtio_balloon_create("statistics=5", device));
}

static void prepare_balloon(struct world *world)
{
	virtio_balloon_set_target(world->driver.device, MIB(3));
	driver_write_config(&world->driver, 4, 4, 7);
	put_le16(world->driver.ram + SLOTS, BALLOON_FREE);
	put_le64(world->driver.ram + SLOTS + 2, 12345);
	driver_offer(&world->driver, 2, &(struct driver_buffer){SLOTS, 10, false}, 1);
	driver_notify(&world->driver, 2);
}

static void offer_deflate(struct world *world, uint64_t slot)
{
	driver_offer(&world->driver, 1, &(struct driver_buffer){slot, 4, false}, 1);
}

static void check_balloon(struct world *world)
{
	struct virtio_balloon_statistics statistics;

	assert_int_equal(driver_read_config(&world->driver, 0, 4), MIB(3) / 4096);
	assert_int_equal(driver_read_config(&world->driver, 4, 4), 7);
	virtio_balloon_statistics(world->driver.device, &statistics);
	assert_int_equal(statistics.present, 1 << BALLOON_FREE);
	assert_int_equal(statistics.value[BALLOON_FREE], 12345);
	assert_true(statistics.updated_ns > 0);
}

static void create_blk(struct world *world, struct virtio_device **device)
{
	char text[96];

	/* Elsewhere the first one is gone by now. */
	snprintf(text, sizeof(text), "%s,lock=off", world->disk);
	driver_no_error(virtio_blk_create(text, device));
}

/* Writes sector n as the n-th request. */
static void offer_write(struct world *world, uint64_t slot)
{
	const struct driver_buffer buffers[] = {
	    {slot, 16, false}, {slot + 0x200, SECTOR, false}, {slot + SLOT_ANSWER, 1, true}};
	uint8_t *raw = world->driver.ram + slot;

	memset(raw, 0, 16);
	raw[0] = 1;
	put_le64(raw + 8, world->offered);
	memset(raw + 0x200, (int)(world->offered % 255 + 1), SECTOR);
	raw[SLOT_ANSWER] = 0xff;
	driver_offer(&world->driver, 0, buffers, 3);
}

static void check_disk(struct world *world)
{
	uint8_t byte;

	for (unsigned int i = 0; i < world->offered; i++) {
		assert_int_equal(pread(world->disk_fd, &byte, 1, (off_t)i * SECTOR), 1);
		assert_int_equal(byte, i % 255 + 1);
	}
}

static void create_net(struct world *world, struct virtio_device **device)
{
	struct virtio_net_options options = {.id = "net0", .mtu = 1500, .mac = {2, 0, 0, 0, 0, 1}};
	struct tap tap;
	int ends[2];

	if (world->wire >= 0)
		close(world->wire);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends), 0);
	world->wire = ends[1];
	tap_from_sockets(&tap, ends, 1);
	driver_no_error(virtio_net_create_on_tap(&options, &tap, device));
}

/* Counts what came over the wire. */
static void drain_wire(struct world *world)
{
	uint8_t packet[2048];

	while (world->wire >= 0 && recv(world->wire, packet, sizeof(packet), MSG_DONTWAIT) > 0) {
		if (get_be16(packet + NET_HEADER_SIZE + 12) == 0x8035)
			world->announcements++;
		else
			world->frames++;
	}
}

static void offer_frame(struct world *world, uint64_t slot)
{
	drain_wire(world);
	memset(world->driver.ram + slot, 0, 100);
	driver_offer(&world->driver, 1, &(struct driver_buffer){slot, 100, false}, 1);
}

static void check_frames(struct world *world)
{
	drain_wire(world);
	assert_int_equal(world->frames, world->offered);
	assert_true(world->announcements >= 1);
}

static void create_vsock(struct world *world, struct virtio_device **device)
{
	char text[96];

	snprintf(text, sizeof(text), "cid=%u,path=%s/%u", 42 + world->hosts, world->directory,
		 world->hosts);
	driver_no_error(virtio_vsock_create(text, device));
}

/* RST is the packet that gets no answer. */
static void offer_packet(struct world *world, uint64_t slot)
{
	struct vsock_header header = {.src_cid = 42,
				      .dst_cid = VSOCK_HOST_CID,
				      .type = VSOCK_TYPE_STREAM,
				      .op = VSOCK_OP_RST};

	vsock_header_encode(&header, world->driver.ram + slot);
	driver_offer(&world->driver, 1, &(struct driver_buffer){slot, VSOCK_HEADER_SIZE, false}, 1);
}

static void create_mem(struct world *world, struct virtio_device **device)
{
	struct virtio_mem_options options = {
	    .id = "mem0", .region = world->region, .requested = 64 * BLOCK};

	driver_no_error(virtio_mem_create(&options, world->driver.map, device));
}

static void offer_mem(struct world *world, uint64_t slot, uint16_t type, uint64_t first,
		      uint16_t blocks)
{
	const struct driver_buffer buffers[] = {{slot, 24, false}, {slot + SLOT_ANSWER, 10, true}};
	uint8_t *raw = world->driver.ram + slot;

	memset(raw, 0, 24);
	put_le16(raw, type);
	put_le64(raw + 8, ELASTIC + first * BLOCK);
	put_le16(raw + 16, blocks);
	driver_offer(&world->driver, 0, buffers, 2);
}

static void prepare_mem(struct world *world)
{
	offer_mem(world, SLOTS, 0, 0, 3);
	driver_notify(&world->driver, 0);
	driver_wait(&world->driver, 0, NULL);
	offer_mem(world, SLOTS, 0, 63, 2);
	driver_notify(&world->driver, 0);
	driver_wait(&world->driver, 0, NULL);
	memset(world->elastic->host + 64 * BLOCK, 0xa5, BLOCK);
	driver_no_error(virtio_mem_request(world->driver.device, 80 * BLOCK));
}

static void offer_query(struct world *world, uint64_t slot)
{
	offer_mem(world, slot, 3, 0, 3);
}

static void check_mem(struct world *world)
{
	assert_int_equal(memory_region_plugged_size(world->region), 5 * BLOCK);
	assert_true(memory_region_all_plugged(world->region, 63 * BLOCK, 2 * BLOCK));
	assert_int_equal(world->elastic->host[64 * BLOCK], 0xa5);
	assert_int_equal(driver_read_config(&world->driver, 40, 8), 5 * BLOCK);
	assert_int_equal(driver_read_config(&world->driver, 48, 8), 80 * BLOCK);
}

static const struct kind kinds[] = {
    {"rng", create_rng, NULL, offer_rng, NULL, 0},
    {"console", create_console, NULL, offer_output, NULL, 1},
    {"balloon", create_balloon, prepare_balloon, offer_deflate, check_balloon, 1},
    {"blk", create_blk, NULL, offer_write, check_disk, 0},
    {"net", create_net, NULL, offer_frame, check_frames, 1},
    {"vsock", create_vsock, NULL, offer_packet, NULL, 1},
    {"mem", create_mem, prepare_mem, offer_query, check_mem, 0},
};

/* --- The world --- */

/* A memory map of the world's memory and a device on it, as a new machine has them. */
static void add_host(struct world *world)
{
	struct driver *driver = &world->driver;
	struct memory_region *region;

	driver_no_error(memory_map_create(&driver->map));
	driver_no_error(memory_map_add(driver->map, 0, RAM_SIZE, driver->block, 0, 0, &region));
	driver_no_error(memory_map_add(driver->map, ELASTIC, BLOCKS * BLOCK, world->elastic, 0,
				       BLOCK, &world->region));
	world->kind->create(world, &driver->device);
	world->hosts++;
	driver_add_device(driver, driver->device);
}

static void remove_host(struct memory_map *map, struct virtio_device *device)
{
	virtio_device_destroy(device);
	memory_map_destroy(map);
}

static int setup(void **state)
{
	static const struct ram_backing_options memory = {.backing = RAM_BACKING_MEMFD,
							  .host_node = -1};
	const struct variant *variant = *state;
	struct world *world = calloc(1, sizeof(*world));

	log_set_level(LOG_LEVEL_ERROR);
	world->kind = variant->kind;
	world->wire = -1;
	strcpy(world->directory, "/tmp/virtio-state-XXXXXX");
	assert_non_null(mkdtemp(world->directory));
	snprintf(world->disk, sizeof(world->disk), "%s/disk", world->directory);
	world->disk_fd = open(world->disk, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(world->disk_fd, MIB(1)), 0);
	driver_no_error(ram_block_create("ram", &memory, RAM_SIZE, &world->driver.block));
	driver_no_error(ram_block_create("mem0", &memory, BLOCKS * BLOCK, &world->elastic));
	world->driver.ram = world->driver.block->host;
	add_host(world);
	driver_start(&world->driver,
		     VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX) |
			 VIRTIO_FEATURE(world->kind->create == create_balloon ? 1 : 29) |
			 (variant->packed ? VIRTIO_FEATURE(VIRTIO_F_RING_PACKED) : 0));
	if (world->kind->prepare)
		world->kind->prepare(world);
	*state = world;
	return 0;
}

static int teardown(void **state)
{
	struct world *world = *state;

	remove_host(world->driver.map, world->driver.device);
	ram_block_destroy(world->driver.block);
	ram_block_destroy(world->elastic);
	if (world->wire >= 0)
		close(world->wire);
	close(world->disk_fd);
	unlink(world->disk);
	assert_int_equal(rmdir(world->directory), 0);
	free(world);
	return 0;
}

static void offer(struct world *world)
{
	world->kind->offer(world, SLOTS + world->offered % 64 * SLOT_SIZE);
	world->offered++;
}

static void use(struct world *world)
{
	for (int i = 0; i < ROUNDS; i++) {
		offer(world);
		driver_notify(&world->driver, world->kind->queue);
		driver_wait(&world->driver, world->kind->queue, NULL);
	}
}

static struct saved_state save(struct world *world)
{
	virtio_device_quiesce(world->driver.device);
	return save_device(world->driver.device);
}

/* --- Tests --- */

static void a_loaded_device_goes_on_where_it_was(void **state)
{
	struct world *world = *state;
	struct driver *driver = &world->driver;
	struct memory_map *old_map = driver->map;
	struct virtio_device *old = driver->device;
	struct saved_state saved;

	use(world);
	virtio_device_quiesce(old);
	for (int i = 0; i < PENDING; i++)
		offer(world);
	saved = save_device(old);
	drain_wire(world);
	add_host(world);
	virtio_device_quiesce(driver->device);
	load_device(driver->device, &saved);
	free(saved.bytes);
	remove_host(old_map, old);
	assert_false(driver_used(driver, world->kind->queue));
	virtio_device_resume(driver->device);
	for (int i = 0; i < PENDING; i++)
		driver_wait(driver, world->kind->queue, NULL);
	assert_false(driver_used(driver, world->kind->queue));
	use(world);
	assert_false(driver_used(driver, world->kind->queue));
	assert_false(driver_needs_reset(driver));
	if (world->kind->check)
		world->kind->check(world);
}

static void the_saved_device_goes_on_too(void **state)
{
	struct world *world = *state;
	struct saved_state saved;

	use(world);
	saved = save(world);
	free(saved.bytes);
	virtio_device_resume(world->driver.device);
	use(world);
	assert_false(driver_needs_reset(&world->driver));
}

static void what_is_loaded_is_saved_again_alike(void **state)
{
	struct world *world = *state;
	struct driver *driver = &world->driver;
	struct memory_map *old_map = driver->map;
	struct virtio_device *old = driver->device;
	struct saved_state saved, again;
	size_t age = 0;

	use(world);
	saved = save(world);
	add_host(world);
	virtio_device_quiesce(driver->device);
	load_device(driver->device, &saved);
	again = save_device(driver->device);
	assert_int_equal(again.size, saved.size);
	if (world->kind->create == create_balloon) /* the age of its statistics, near the end */
		age = 8 + 4 + 8 * BALLOON_STATISTICS;
	assert_memory_equal(again.bytes, saved.bytes, saved.size - age);
	free(saved.bytes);
	free(again.bytes);
	remove_host(old_map, old);
}

/* Loads @size bytes into a new machine, and lets it run if they are taken. */
static bool try_state(struct world *world, const uint8_t *bytes, size_t size)
{
	AUTO_ERROR struct error *error = NULL;
	struct memory_map *old_map = world->driver.map;
	struct memory_region *old_region = world->region;
	struct virtio_device *old = world->driver.device, *device;
	struct saved_state again;

	add_host(world);
	device = world->driver.device;
	virtio_device_quiesce(device);
	error = try_load_device(device, bytes, size);
	if (!error) {
		again = save_device(device); /* what was taken can also be given */
		free(again.bytes);
	}
	virtio_device_resume(device);
	for (uint16_t i = 0; i < device->queue_count; i++)
		driver_notify(&world->driver, i);
	driver_set_status(&world->driver, 0);
	remove_host(world->driver.map, device);
	world->driver.map = old_map;
	world->driver.device = old;
	world->region = old_region;
	return !error;
}

static void a_state_cut_short_or_longer_is_refused(void **state)
{
	struct world *world = *state;
	struct saved_state saved;

	use(world);
	saved = save(world);
	saved.bytes = realloc(saved.bytes, saved.size + 1);
	saved.bytes[saved.size] = 0;
	for (size_t size = 0; size < saved.size; size += size < 60 ? 1 : 13)
		assert_false(try_state(world, saved.bytes, size));
	assert_false(try_state(world, saved.bytes, saved.size + 1));
	free(saved.bytes);
}

static void a_changed_byte_does_no_harm(void **state)
{
	static const uint8_t changes[] = {0x01, 0x80, 0xff};
	struct world *world = *state;
	struct saved_state saved;

	use(world);
	saved = save(world);
	for (size_t i = 0; i < saved.size; i++) {
		for (size_t j = 0; j < ARRAY_SIZE(changes); j++) {
			saved.bytes[i] ^= changes[j];
			try_state(world, saved.bytes, saved.size);
			saved.bytes[i] ^= changes[j];
		}
	}
	assert_true(try_state(world, saved.bytes, saved.size));
	free(saved.bytes);
}

static void features_that_are_missing_are_named(void **state)
{
	struct world *world = *state;
	struct memory_map *old_map = world->driver.map;
	struct virtio_device *old = world->driver.device, *device;
	struct saved_state saved = save(world);

	add_host(world);
	device = world->driver.device;
	device->features &= ~VIRTIO_FEATURE(VIRTIO_F_EVENT_IDX);
	virtio_device_quiesce(device);
	assert_refused(device, &saved, "feature bits 29, which");
	free(saved.bytes);
	remove_host(old_map, old);
}

static void a_running_or_used_device_is_not_loaded(void **state)
{
	struct world *world = *state;
	struct virtio_device *device = world->driver.device;
	struct saved_state saved = save(world);
	struct error *error = try_load_device(device, saved.bytes, saved.size);

	assert_non_null(strstr(error_message(error), "in use"));
	error_free(error);
	virtio_device_resume(device);
	error = try_load_device(device, saved.bytes, saved.size);
	assert_non_null(strstr(error_message(error), "running"));
	error_free(error);
	free(saved.bytes);
}

static void a_device_without_a_driver_loads_and_starts_later(void **state)
{
	struct world *world = *state;
	struct driver *driver = &world->driver;
	struct memory_map *old_map = driver->map;
	struct virtio_device *old = driver->device;
	struct saved_state saved;

	driver_set_status(driver, 0);
	saved = save(world);
	add_host(world);
	virtio_device_quiesce(driver->device);
	load_device(driver->device, &saved);
	free(saved.bytes);
	remove_host(old_map, old);
	virtio_device_resume(driver->device);
	driver_start(driver, 0);
	use(world);
	assert_false(driver_needs_reset(driver));
}

#define VARIANTS (2 * ARRAY_SIZE(kinds))

int main(void)
{
	static const struct {
		const char *name;
		CMUnitTestFunction function;
	} cases[] = {
#define CASE(name) {#name, name}
	    CASE(a_loaded_device_goes_on_where_it_was),
	    CASE(the_saved_device_goes_on_too),
	    CASE(what_is_loaded_is_saved_again_alike),
	    CASE(a_state_cut_short_or_longer_is_refused),
	    CASE(a_changed_byte_does_no_harm),
	    CASE(features_that_are_missing_are_named),
	    CASE(a_running_or_used_device_is_not_loaded),
	    CASE(a_device_without_a_driver_loads_and_starts_later),
	};
	static struct variant variants[VARIANTS];
	static char names[VARIANTS * ARRAY_SIZE(cases)][96];
	static struct CMUnitTest tests[VARIANTS * ARRAY_SIZE(cases)];
	size_t count = 0;

	for (size_t i = 0; i < VARIANTS; i++) {
		variants[i] = (struct variant){&kinds[i / 2], i % 2};
		for (size_t j = 0; j < ARRAY_SIZE(cases); j++, count++) {
			snprintf(names[count], sizeof(names[0]), "%s (%s, %s)", cases[j].name,
				 variants[i].kind->name, i % 2 ? "packed" : "split");
			tests[count] = (struct CMUnitTest){names[count], cases[j].function, setup,
							   teardown, &variants[i]};
		}
	}
	return _cmocka_run_group_tests("virtio state", tests, count, NULL, NULL);
}
