/* SPDX-License-Identifier: BSD-2-Clause */
/* A virtio device whose work the back-end of vhost_user_disk.h does, with a driver and elastic memory. */
#ifndef GODWIT_TESTS_VHOST_USER_SETUP_H
#define GODWIT_TESTS_VHOST_USER_SETUP_H

#include "vhost_user_disk.h"

#include "virtio/vhost_user_device.h"
#include "virtio_driver.h"

#define HOT_ADDRESS GIB(1)
#define HOT_SIZE    MIB(64)
#define HOT_UNIT    MIB(2)
#define HEADER	    MIB(1)
#define DATA	    (MIB(1) + KIB(4))
#define STATUS	    (MIB(1) + KIB(8))

struct setup {
	struct disk disk;
	struct driver driver;
	struct ram_block *hot_block;
	struct memory_region *hot;
	int doorbells[QUEUES_MAX];
	unsigned int interrupts; /* atomic */
	int connected[QUEUES_MAX];
};

/* --- A transport ------------------------------------------------------------------------------- */

static inline void count_interrupt(void *transport, uint16_t queue)
{
	struct setup *setup = CONTAINER_OF((struct driver *)transport, struct setup, driver);

	__atomic_fetch_add(&setup->interrupts, 1, __ATOMIC_RELEASE);
}

static inline void note_connection(void *transport, uint16_t queue, int fd)
{
	CONTAINER_OF((struct driver *)transport, struct setup, driver)->connected[queue] = fd;
}

static const struct virtio_transport_ops transport = {
    .interrupt_queue = count_interrupt,
    .interrupt_config = driver_interrupt_config,
    .connect_queue = note_connection,
};

/* --- Beginning and end ------------------------------------------------------------------------- */

static inline struct setup *prepare(enum ram_backing kind)
{
	const struct ram_backing_options backing = {.backing = kind, .host_node = -1};
	struct setup *setup = calloc(1, sizeof(*setup));

	assert_non_null(setup);
	disk_prepare(&setup->disk);
	driver_create_memory(&setup->driver, &backing);
	driver_no_error(ram_block_create("hot", &backing, HOT_SIZE, &setup->hot_block));
	driver_no_error(memory_map_add(setup->driver.map, HOT_ADDRESS, HOT_SIZE, setup->hot_block,
				       0, HOT_UNIT, &setup->hot));
	return setup;
}

/* The device with these options behind the socket; an error of its realization is the result. */
static inline struct error *add_kind(struct setup *setup, const char *kind, const char *options)
{
	struct driver *driver = &setup->driver;
	struct error *error;
	char text[160];

	snprintf(text, sizeof(text), "vhost-user:%s%s", setup->disk.path, options);
	TRY(vhost_user_device_create(kind, text, "vm", 0, &driver->device));
	driver->device->map = driver->map;
	driver->device->transport = driver;
	driver->device->transport_ops = &transport;
	for (uint16_t i = 0; i < driver->device->queue_count; i++) {
		setup->connected[i] = -1;
		setup->doorbells[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		driver->device->queues[i].notify_fd = setup->doorbells[i];
	}
	/* Writes have been logged since the driver was made, and devices come while they are not. */
	dirty_log_stop(memory_map_dirty_log(driver->map));
	error = driver->device->ops->realize(driver->device);
	driver_no_error(dirty_log_start(memory_map_dirty_log(driver->map)));
	free(write_watch_collect(memory_map_dirty_log(driver->map), driver->block));
	return error ?: event_loop_start_thread(driver->device->loop, "device");
}

static inline struct error *add_device(struct setup *setup, const char *options)
{
	return add_kind(setup, "disk", options);
}

static inline struct setup *begin(const char *options)
{
	struct setup *setup = prepare(RAM_BACKING_MEMFD);

	disk_listen(&setup->disk);
	driver_no_error(add_device(setup, options));
	return setup;
}

static inline void end(struct setup *setup)
{
	uint16_t count = setup->driver.device ? setup->driver.device->queue_count : 0;

	virtio_device_destroy(setup->driver.device);
	setup->driver.device = NULL;
	for (uint16_t i = 0; i < count; i++)
		close(setup->doorbells[i]);
	driver_destroy(&setup->driver);
	ram_block_destroy(setup->hot_block);
	disk_end(&setup->disk);
	free(setup);
}

static inline void assert_refused(struct error *error, const char *text)
{
	assert_non_null(error);
	if (!strstr(error_message(error), text))
		fail_msg("'%s' is not in '%s'", text, error_message(error));
	error_free(error);
}

/* --- Requests ---------------------------------------------------------------------------------- */

static inline void offer(struct setup *setup, uint16_t queue, uint32_t type, uint64_t sector,
			 uint64_t address)
{
	uint8_t *header = setup->driver.ram + HEADER;
	const struct driver_buffer buffers[] = {
	    {HEADER, 16, false}, {address, 512, !type}, {STATUS, 1, true}};

	put_le32(header, type);
	put_le64(header + 8, sector);
	setup->driver.ram[STATUS] = 0xff;
	driver_offer(&setup->driver, queue, buffers, ARRAY_SIZE(buffers));
	driver_notify(&setup->driver, queue);
}

static inline void answered(struct setup *setup, uint16_t queue)
{
	assert_int_equal(driver_wait(&setup->driver, queue, NULL), 513);
	assert_int_equal(setup->driver.ram[STATUS], 0);
}

static inline void read_sector(struct setup *setup, uint16_t queue, uint64_t sector)
{
	offer(setup, queue, 0, sector, DATA);
	answered(setup, queue);
	assert_int_equal(setup->driver.ram[DATA], sector + 1);
	assert_int_equal(setup->driver.ram[DATA + 511], sector + 1);
}

static inline struct vhost_user_device_status status_of(struct setup *setup)
{
	struct vhost_user_device_status status;

	assert_true(vhost_user_device_status(setup->driver.device, &status));
	return status;
}

static inline void wait_connected(struct setup *setup, bool connected)
{
	for (int i = 0; status_of(setup).connected != connected; i++) {
		assert_true(i < DISK_WAIT_MS);
		usleep(1000);
	}
}

/* Why there is no session, or "". */
static inline void trouble_of(struct setup *setup, char text[256])
{
	json_t *report = virtio_device_describe(setup->driver.device);
	const char *trouble =
	    json_string_value(json_object_get(json_object_get(report, "back-end"), "trouble"));

	snprintf(text, 256, "%s", trouble ? trouble : "");
	json_decref(report);
}

static inline void visit(struct setup *setup, struct state *state)
{
	struct state_part part;

	virtio_device_state_part(setup->driver.device, &part);
	driver_no_error(state_visit(state, &part));
}

/* The device goes, and another one of the same options comes and has its place. */
static inline void replace_device(struct setup *setup, const char *kind, const char *options)
{
	unsigned int sessions = __atomic_load_n(&setup->disk.sessions, __ATOMIC_ACQUIRE);
	uint16_t count = setup->driver.device->queue_count;

	virtio_device_destroy(setup->driver.device);
	for (uint16_t i = 0; i < count; i++)
		close(setup->doorbells[i]);
	driver_no_error(add_kind(setup, kind, options));
	disk_wait(&setup->disk.sessions, sessions + 1);
	virtio_device_quiesce(setup->driver.device);
}

#endif
