/* SPDX-License-Identifier: BSD-2-Clause */
/* A device behind the PCI transport as a driver sees it, with the loop of its own thread. */
#ifndef GODWIT_TEST_VIRTIO_PCI_FIXTURE_H
#define GODWIT_TEST_VIRTIO_PCI_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/checked.h"
#include "pci/pci_registers.h"
#include "virtio/virtio_pci.h"

#define BAR_ADDRESS 0x4000000000ULL
#define COMMON	    0x0000
#define ISR	    0x1000
#define CONFIG	    0x2000
#define TABLE	    0x3000
#define NOTIFY	    0x5000
#define QUEUES	    2
#define RINGS	    0x10000 /* of queue 0; those of queue 1 a page further */
#define WAIT_MS	    60000

struct fixture {
	struct virtio_device device;
	struct pci_function *function;
	struct memory_map *map;
	struct ram_block *block;
	struct event_loop *other_loop; /* of queue 1, in the tests that want one */
	/* The host. */
	unsigned int messages; /* atomic */
	uint32_t last_message;
	uint64_t doorbells[4];
	int doorbell_fds[4];
	int doorbell_count;
	bool doorbells_work;
	/* The device. */
	unsigned int notified[QUEUES]; /* atomic */
	unsigned int activations, resets, quiesces, resumes;
	uint8_t config[10];
	bool refuse;
};

static inline struct fixture *from_device(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct fixture, device);
}

static inline void config_read(struct virtio_device *device, uint32_t offset, void *data,
			       uint32_t size)
{
	assert_true(range_contains(0, 10, offset, size));
	memcpy(data, from_device(device)->config + offset, size);
}

static inline void config_write(struct virtio_device *device, uint32_t offset, const void *data,
				uint32_t size)
{
	assert_true(range_contains(0, 10, offset, size));
	memcpy(from_device(device)->config + offset, data, size);
}

static inline bool accept_features(struct virtio_device *device, uint64_t features)
{
	return !from_device(device)->refuse;
}

static inline void activate(struct virtio_device *device)
{
	from_device(device)->activations++;
}

static inline void queue_notify(struct virtio_device *device, uint16_t queue)
{
	__atomic_fetch_add(&from_device(device)->notified[queue], 1, __ATOMIC_RELAXED);
}

static inline void device_reset(struct virtio_device *device)
{
	from_device(device)->resets++;
}

static inline void quiesce(struct virtio_device *device)
{
	from_device(device)->quiesces++;
}

static inline void resume(struct virtio_device *device)
{
	from_device(device)->resumes++;
}

static inline void visit_state(struct virtio_device *device, struct state *state)
{
	state_buffer(state, "config", from_device(device)->config, 10);
}

static const struct virtio_device_ops device_ops = {
    .type = "virtio-test",
    .id = 42,
    .pci_class = 0x00ff00,
    .config_size = 10,
    .config_read = config_read,
    .config_write = config_write,
    .accept_features = accept_features,
    .activate = activate,
    .queue_notify = queue_notify,
    .reset = device_reset,
    .quiesce = quiesce,
    .resume = resume,
};

static inline void bar_changed(void *host, struct pci_function *function, int bar, uint64_t address,
			       uint64_t size, bool enabled)
{
}

static inline bool add_doorbell(void *host, uint64_t address, int fd)
{
	struct fixture *f = host;

	if (!f->doorbells_work)
		return false;
	f->doorbell_fds[f->doorbell_count] = fd;
	f->doorbells[f->doorbell_count++] = address;
	return true;
}

static inline void remove_doorbell(void *host, uint64_t address, int fd)
{
	struct fixture *f = host;

	for (int i = 0; i < f->doorbell_count; i++) {
		if (f->doorbells[i] == address) {
			f->doorbells[i] = f->doorbells[--f->doorbell_count];
			return;
		}
	}
	fail_msg("a doorbell was removed that was not there");
}

static inline void send_msi(void *host, uint64_t address, uint32_t data)
{
	struct fixture *f = host;

	f->last_message = data;
	__atomic_fetch_add(&f->messages, 1, __ATOMIC_RELEASE);
}

static const struct pci_host_ops host_ops = {
    .bar_changed = bar_changed,
    .add_doorbell = add_doorbell,
    .remove_doorbell = remove_doorbell,
    .send_msi = send_msi,
};

static inline int setup(void **state)
{
	static const struct ram_backing_options anonymous = {.backing = RAM_BACKING_ANON,
							     .host_node = -1};
	struct fixture *f = calloc(1, sizeof(*f));
	struct memory_region *region;

	log_set_level(LOG_LEVEL_ERROR);
	assert_null(memory_map_create(&f->map));
	assert_null(ram_block_create("ram", &anonymous, MIB(1), &f->block));
	assert_null(memory_map_add(f->map, 0, MIB(1), f->block, 0, 0, &region));
	assert_null(virtio_device_init(&f->device, &device_ops, visit_state, "test", QUEUES, 8));
	f->device.map = f->map;
	f->doorbells_work = true;
	assert_null(virtio_pci_create(&f->device, &f->function));
	f->function->host_ops = &host_ops;
	f->function->host = f;
	pci_function_set_bar_address(f->function, 0, BAR_ADDRESS);
	assert_null(event_loop_start_thread(f->device.loop, "test"));
	*state = f;
	return 0;
}

static inline int teardown(void **state)
{
	struct fixture *f = *state;

	event_loop_join(f->device.loop);
	if (f->other_loop)
		event_loop_join(f->other_loop);
	virtio_pci_destroy(f->function);
	assert_int_equal(f->doorbell_count, 0);
	virtio_device_cleanup(&f->device);
	event_loop_destroy(f->other_loop);
	memory_map_destroy(f->map);
	ram_block_destroy(f->block);
	free(f);
	return 0;
}

static inline uint64_t bar_read(struct fixture *f, uint64_t offset, uint32_t size)
{
	uint8_t bytes[8] = {0};

	pci_function_bar_read(f->function, 0, offset, bytes, size);
	return get_le64(bytes);
}

static inline void bar_write(struct fixture *f, uint64_t offset, uint32_t size, uint64_t value)
{
	uint8_t bytes[8];

	put_le64(bytes, value);
	pci_function_bar_write(f->function, 0, offset, bytes, size);
}

static inline uint8_t status(struct fixture *f)
{
	return (uint8_t)bar_read(f, 20, 1);
}

static inline void enable_bus(struct fixture *f)
{
	pci_function_config_write(f->function, PCI_COMMAND, 2,
				  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	pci_function_config_write(f->function, f->function->msix_capability + PCI_MSIX_CONTROL, 2,
				  PCI_MSIX_CONTROL_ON);
	for (uint32_t vector = 0; vector <= QUEUES; vector++) {
		bar_write(f, TABLE + vector * 16, 4, 0xfee00000);
		bar_write(f, TABLE + vector * 16 + 8, 8, 0x50 + vector);
	}
}

static inline void negotiate(struct fixture *f)
{
	bar_write(f, 20, 1, 1);
	bar_write(f, 20, 1, 3);
	bar_write(f, 8, 4, 1);
	bar_write(f, 12, 4, 1);
	bar_write(f, 20, 1, 0xb);
}

static inline void set_up_queue(struct fixture *f, uint16_t queue)
{
	bar_write(f, 22, 2, queue);
	bar_write(f, 26, 2, queue + 1u);
	bar_write(f, 32, 8, RINGS + queue * 0x1000u);
	bar_write(f, 40, 8, RINGS + queue * 0x1000u + 0x400);
	bar_write(f, 48, 4, RINGS + queue * 0x1000u + 0x800); /* as two halves */
	bar_write(f, 52, 4, 0);
	bar_write(f, 28, 2, 1);
}

static inline void start(struct fixture *f)
{
	enable_bus(f);
	negotiate(f);
	bar_write(f, 16, 2, 0);
	set_up_queue(f, 0);
	set_up_queue(f, 1);
	bar_write(f, 20, 1, 0xf);
	assert_int_equal(status(f), 0xf);
}

static inline void wait_for(const unsigned int *counter, unsigned int value)
{
	for (int i = 0; i < WAIT_MS; i++) {
		if (__atomic_load_n(counter, __ATOMIC_ACQUIRE) >= value)
			return;
		usleep(1000);
	}
	fail_msg("nothing happened");
}

static inline unsigned int notifications(const struct fixture *f, uint16_t queue)
{
	return __atomic_load_n(&f->notified[queue], __ATOMIC_ACQUIRE);
}

static inline void notified_exactly(const struct fixture *f, uint16_t queue, unsigned int value)
{
	wait_for(&f->notified[queue], value);
	usleep(5000);
	assert_int_equal(notifications(f, queue), value);
}

#endif
