/* SPDX-License-Identifier: BSD-2-Clause */
/* The PCI transport as a driver sees it, with the device's loop on a thread of its own. */
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
#define WAIT_MS	    2000

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

static struct fixture *from_device(struct virtio_device *device)
{
	return CONTAINER_OF(device, struct fixture, device);
}

static void config_read(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
	assert_true(range_contains(0, 10, offset, size));
	memcpy(data, from_device(device)->config + offset, size);
}

static void config_write(struct virtio_device *device, uint32_t offset, const void *data,
			 uint32_t size)
{
	assert_true(range_contains(0, 10, offset, size));
	memcpy(from_device(device)->config + offset, data, size);
}

static bool accept_features(struct virtio_device *device, uint64_t features)
{
	return !from_device(device)->refuse;
}

static void activate(struct virtio_device *device)
{
	from_device(device)->activations++;
}

static void queue_notify(struct virtio_device *device, uint16_t queue)
{
	__atomic_fetch_add(&from_device(device)->notified[queue], 1, __ATOMIC_RELAXED);
}

static void device_reset(struct virtio_device *device)
{
	from_device(device)->resets++;
}

static void quiesce(struct virtio_device *device)
{
	from_device(device)->quiesces++;
}

static void resume(struct virtio_device *device)
{
	from_device(device)->resumes++;
}

static void visit_state(struct virtio_device *device, struct state *state)
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

static void bar_changed(void *host, struct pci_function *function, int bar, uint64_t address,
			uint64_t size, bool enabled)
{
}

static bool add_doorbell(void *host, uint64_t address, int fd)
{
	struct fixture *f = host;

	if (!f->doorbells_work)
		return false;
	f->doorbell_fds[f->doorbell_count] = fd;
	f->doorbells[f->doorbell_count++] = address;
	return true;
}

static void remove_doorbell(void *host, uint64_t address, int fd)
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

static void send_msi(void *host, uint64_t address, uint32_t data)
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

static int setup(void **state)
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

static int teardown(void **state)
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

static uint64_t bar_read(struct fixture *f, uint64_t offset, uint32_t size)
{
	uint8_t bytes[8] = {0};

	pci_function_bar_read(f->function, 0, offset, bytes, size);
	return get_le64(bytes);
}

static void bar_write(struct fixture *f, uint64_t offset, uint32_t size, uint64_t value)
{
	uint8_t bytes[8];

	put_le64(bytes, value);
	pci_function_bar_write(f->function, 0, offset, bytes, size);
}

static uint8_t status(struct fixture *f)
{
	return (uint8_t)bar_read(f, 20, 1);
}

static void enable_bus(struct fixture *f)
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

static void negotiate(struct fixture *f)
{
	bar_write(f, 20, 1, 1);
	bar_write(f, 20, 1, 3);
	bar_write(f, 8, 4, 1);
	bar_write(f, 12, 4, 1);
	bar_write(f, 20, 1, 0xb);
}

static void set_up_queue(struct fixture *f, uint16_t queue)
{
	bar_write(f, 22, 2, queue);
	bar_write(f, 26, 2, queue + 1u);
	bar_write(f, 32, 8, RINGS + queue * 0x1000u);
	bar_write(f, 40, 8, RINGS + queue * 0x1000u + 0x400);
	bar_write(f, 48, 4, RINGS + queue * 0x1000u + 0x800); /* as two halves */
	bar_write(f, 52, 4, 0);
	bar_write(f, 28, 2, 1);
}

static void start(struct fixture *f)
{
	enable_bus(f);
	negotiate(f);
	bar_write(f, 16, 2, 0);
	set_up_queue(f, 0);
	set_up_queue(f, 1);
	bar_write(f, 20, 1, 0xf);
	assert_int_equal(status(f), 0xf);
}

static void wait_for(const unsigned int *counter, unsigned int value)
{
	for (int i = 0; i < WAIT_MS; i++) {
		if (__atomic_load_n(counter, __ATOMIC_ACQUIRE) >= value)
			return;
		usleep(1000);
	}
	fail_msg("nothing happened");
}

static unsigned int notifications(const struct fixture *f, uint16_t queue)
{
	return __atomic_load_n(&f->notified[queue], __ATOMIC_ACQUIRE);
}

static void notified_exactly(const struct fixture *f, uint16_t queue, unsigned int value)
{
	wait_for(&f->notified[queue], value);
	usleep(5000);
	assert_int_equal(notifications(f, queue), value);
}

static void the_ids_are_those_of_a_modern_device(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(pci_function_config_read(f->function, 0, 4), 0x106a1af4);
	assert_int_equal(pci_function_config_read(f->function, 8, 1), 1);
}

static void all_structures_are_found_in_the_capabilities(void **state)
{
	struct fixture *f = *state;
	uint8_t offset = (uint8_t)pci_function_config_read(f->function, 0x34, 1);
	unsigned int types = 0, msix = 0;

	while (offset) {
		uint32_t head = pci_function_config_read(f->function, offset, 4);

		if ((head & 0xff) == 9)
			types |= 1u << (head >> 24);
		else
			msix++;
		offset = (uint8_t)(head >> 8);
	}
	assert_int_equal(types, 0x3e); /* 1 to 5 */
	assert_int_equal(msix, 1);
}

static void features_are_read_by_halves(void **state)
{
	struct fixture *f = *state;
	uint64_t features;

	bar_write(f, 0, 4, 1);
	features = bar_read(f, 4, 4) << 32;
	bar_write(f, 0, 4, 0);
	features |= bar_read(f, 4, 4);
	assert_int_equal(features, f->device.features);
	bar_write(f, 0, 4, 2);
	assert_int_equal(bar_read(f, 4, 4), 0);
}

static void initialisation_activates_the_device(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(f->activations, 1);
	assert_true(virtio_device_has(&f->device, VIRTIO_F_VERSION_1));
	bar_write(f, 22, 2, 1);
	assert_int_equal(bar_read(f, 28, 2), 1);
	assert_int_equal(f->device.queues[1].ring.layout.device, RINGS + 0x1800);
}

static void features_that_are_not_offered_are_refused(void **state)
{
	struct fixture *f = *state;

	bar_write(f, 8, 4, 0);
	bar_write(f, 12, 4, 1);
	negotiate(f);
	assert_int_equal(status(f), 3);
}

static void a_driver_without_version_1_is_refused(void **state)
{
	struct fixture *f = *state;

	bar_write(f, 20, 1, 3);
	bar_write(f, 20, 1, 0xb);
	assert_int_equal(status(f), 3);
}

static void the_device_may_refuse_features(void **state)
{
	struct fixture *f = *state;

	f->refuse = true;
	negotiate(f);
	assert_int_equal(status(f), 3);
}

static void driver_ok_before_features_ok_needs_a_reset(void **state)
{
	struct fixture *f = *state;

	enable_bus(f);
	bar_write(f, 20, 1, 7);
	assert_int_equal(status(f), 3 | VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(f->activations, 0);
}

static void status_bits_are_cleared_by_a_reset_only(void **state)
{
	struct fixture *f = *state;

	start(f);
	bar_write(f, 20, 1, 1);
	assert_int_equal(status(f), 0xf);
	bar_write(f, 20, 1, 0);
	assert_int_equal(status(f), 0);
	assert_int_equal(f->resets, 1);
}

static void a_reset_forgets_what_the_driver_set(void **state)
{
	struct fixture *f = *state;

	start(f);
	bar_write(f, 20, 1, 0);
	assert_int_equal(bar_read(f, 16, 2), 0xffff);
	for (uint16_t i = 0; i < QUEUES; i++) {
		bar_write(f, 22, 2, i);
		assert_int_equal(bar_read(f, 26, 2), 0xffff);
		assert_int_equal(bar_read(f, 28, 2), 0);
		assert_int_equal(bar_read(f, 32, 8), 0);
		assert_int_equal(bar_read(f, 24, 2), 8);
	}
	assert_int_equal(f->doorbell_count, 0);
	start(f);
	assert_int_equal(f->activations, 2);
}

static void a_queue_in_missing_memory_needs_a_reset(void **state)
{
	struct fixture *f = *state;

	enable_bus(f);
	negotiate(f);
	bar_write(f, 22, 2, 0);
	bar_write(f, 32, 8, MIB(1));
	bar_write(f, 28, 2, 1);
	assert_true(status(f) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(bar_read(f, 28, 2), 0);
	bar_write(f, 20, 1, 0xf);
	assert_int_equal(f->activations, 0);
	bar_write(f, 20, 1, 0);
	start(f);
	assert_int_equal(f->activations, 1);
}

static void an_enabled_queue_keeps_its_layout(void **state)
{
	struct fixture *f = *state;

	start(f);
	bar_write(f, 22, 2, 0);
	bar_write(f, 32, 8, 0x4000);
	bar_write(f, 24, 2, 2);
	assert_int_equal(bar_read(f, 32, 8), RINGS);
	assert_int_equal(bar_read(f, 24, 2), 8);
}

static void a_queue_that_does_not_exist_has_no_size(void **state)
{
	struct fixture *f = *state;

	bar_write(f, 22, 2, QUEUES);
	assert_int_equal(bar_read(f, 24, 2), 0);
	bar_write(f, 32, 8, 1);
	assert_int_equal(bar_read(f, 32, 8), 0);
}

static void a_vector_that_does_not_exist_reads_back_as_none(void **state)
{
	struct fixture *f = *state;

	bar_write(f, 16, 2, QUEUES);
	assert_int_equal(bar_read(f, 16, 2), QUEUES);
	bar_write(f, 16, 2, QUEUES + 1);
	assert_int_equal(bar_read(f, 16, 2), 0xffff);
}

static void odd_accesses_are_as_if_by_bytes(void **state)
{
	struct fixture *f = *state;

	bar_write(f, 33, 1, 0xab);
	bar_write(f, 35, 4, 0x11223344);
	assert_int_equal(bar_read(f, 32, 8), 0x0011223344ULL << 24 | 0xab00);
	assert_int_equal(bar_read(f, 33, 2), 0x00ab);
	assert_int_equal(bar_read(f, 58, 8), 0);
	assert_int_equal(bar_read(f, 18, 2), QUEUES);
	assert_int_equal(bar_read(f, 16, 4), QUEUES << 16 | 0xffff);
}

static void device_configuration_is_read_and_written(void **state)
{
	struct fixture *f = *state;

	memcpy(f->config, "0123456789", 10);
	assert_int_equal(bar_read(f, CONFIG + 8, 4), '8' | '9' << 8);
	assert_int_equal(bar_read(f, CONFIG + 10, 4), 0);
	bar_write(f, CONFIG + 9, 4, 0x58585858);
	assert_memory_equal(f->config, "012345678X", 10);
}

static void doorbells_lie_where_the_bar_is(void **state)
{
	struct fixture *f = *state;

	start(f);
	assert_int_equal(f->doorbell_count, QUEUES);
	assert_int_equal(f->doorbells[0], BAR_ADDRESS + NOTIFY);
	assert_int_equal(f->doorbells[1], BAR_ADDRESS + NOTIFY + 4);
	bar_write(f, 22, 2, 1);
	assert_int_equal(bar_read(f, 30, 2), 1);
}

static void doorbells_move_with_the_bar(void **state)
{
	struct fixture *f = *state;

	start(f);
	pci_function_set_bar_address(f->function, 0, 2 * BAR_ADDRESS);
	assert_int_equal(f->doorbell_count, QUEUES);
	assert_int_equal(f->doorbells[0], 2 * BAR_ADDRESS + NOTIFY);
	pci_function_config_write(f->function, PCI_COMMAND, 2, PCI_COMMAND_MASTER);
	assert_int_equal(f->doorbell_count, 0);
}

static void every_queue_is_looked_at_once_at_the_start(void **state)
{
	struct fixture *f = *state;

	start(f);
	notified_exactly(f, 0, 1);
	notified_exactly(f, 1, 1);
}

static void a_doorbell_notifies_its_queue(void **state)
{
	struct fixture *f = *state;
	uint64_t one = 1;

	start(f);
	notified_exactly(f, 1, 1);
	assert_int_equal(write(f->doorbell_fds[1], &one, sizeof(one)), sizeof(one));
	notified_exactly(f, 1, 2);
	assert_int_equal(notifications(f, 0), 1);
}

static void a_doorbell_that_the_host_cannot_watch_comes_through_the_bar(void **state)
{
	struct fixture *f = *state;

	f->doorbells_work = false;
	start(f);
	notified_exactly(f, 1, 1);
	bar_write(f, NOTIFY + 4, 2, 1);
	notified_exactly(f, 1, 2);
	bar_write(f, NOTIFY + 4 * QUEUES, 2, QUEUES); /* nobody's */
}

static void a_doorbell_before_a_reset_does_not_ring_after_it(void **state)
{
	struct fixture *f = *state;

	start(f);
	notified_exactly(f, 0, 1);
	bar_write(f, 20, 1, 0);
	bar_write(f, NOTIFY, 2, 0);
	usleep(5000);
	assert_int_equal(notifications(f, 0), 1);
}

static void a_queue_with_its_own_loop_is_notified_there(void **state)
{
	struct fixture *f = *state;

	assert_null(event_loop_create(&f->other_loop));
	f->device.queues[1].loop = f->other_loop;
	assert_null(event_loop_start_thread(f->other_loop, "queue"));
	start(f);
	notified_exactly(f, 1, 1);
	for (int i = 0; i < 200; i++) { /* resets while the bell rings */
		bar_write(f, NOTIFY + 4, 2, 0);
		bar_write(f, 20, 1, 0);
		start(f);
	}
	virtio_device_quiesce(&f->device);
	virtio_device_resume(&f->device);
	assert_true(notifications(f, 1) > 1);
}

static void doorbells_of_a_quiesced_device_are_replayed(void **state)
{
	struct fixture *f = *state;

	start(f);
	notified_exactly(f, 0, 1);
	virtio_device_quiesce(&f->device);
	virtio_device_quiesce(&f->device);
	assert_int_equal(f->quiesces, 1);
	bar_write(f, NOTIFY, 2, 0);
	usleep(5000);
	assert_int_equal(notifications(f, 0), 1);
	virtio_device_resume(&f->device);
	assert_int_equal(f->resumes, 1);
	notified_exactly(f, 0, 2);
}

static void without_bus_mastering_the_device_is_quiesced(void **state)
{
	struct fixture *f = *state;

	start(f);
	pci_function_config_write(f->function, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	assert_int_equal(f->quiesces, 1);
	assert_false(virtio_device_running(&f->device));
	/* The machine's pause does not end it. */
	virtio_device_quiesce(&f->device);
	virtio_device_resume(&f->device);
	assert_false(virtio_device_running(&f->device));
}

/* The next kernel turns bus mastering on before it resets: until then the queues are the old one's. */
static void queues_from_before_bus_mastering_went_off_are_not_used(void **state)
{
	struct fixture *f = *state;

	start(f);
	notified_exactly(f, 0, 1);
	pci_function_config_write(f->function, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	bar_write(f, NOTIFY, 2, 0);
	enable_bus(f);
	assert_false(virtio_device_running(&f->device));
	assert_int_equal(f->resumes, 0);
	assert_int_equal(bar_read(f, 20, 1), 0xb);
	bar_write(f, NOTIFY, 2, 0);
	usleep(5000);
	assert_int_equal(notifications(f, 0), 1);
	bar_write(f, 20, 1, 0); /* a reset makes it a new device */
	start(f);
	assert_true(virtio_device_running(&f->device));
	assert_int_equal(f->activations, 2);
	notified_exactly(f, 0, 2);
}

static void a_driver_takes_its_queues_up_again_with_driver_ok(void **state)
{
	struct fixture *f = *state;

	start(f);
	notified_exactly(f, 0, 1);
	pci_function_config_write(f->function, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	enable_bus(f);
	bar_write(f, 20, 1, 0xf);
	assert_true(virtio_device_running(&f->device));
	assert_int_equal(f->resumes, 1);
	assert_int_equal(f->activations, 1);
	notified_exactly(f, 0, 2);
}

static void a_driver_that_is_ready_before_bus_mastering_starts_with_it(void **state)
{
	struct fixture *f = *state;

	pci_function_config_write(f->function, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	negotiate(f);
	set_up_queue(f, 0);
	bar_write(f, 20, 1, 0xf);
	assert_int_equal(f->activations, 0);
	enable_bus(f);
	assert_int_equal(f->activations, 1);
	wait_for(&f->notified[0], 1);
	assert_int_equal(f->resumes, 0);
}

static void interrupt_queue(void *context)
{
	struct fixture *f = context;

	f->device.transport_ops->interrupt_queue(f->device.transport, 1);
}

static void a_queue_interrupts_through_its_vector(void **state)
{
	struct fixture *f = *state;

	start(f);
	event_loop_call(f->device.loop, interrupt_queue, f);
	assert_int_equal(f->messages, 1);
	assert_int_equal(f->last_message, 0x52);
	assert_int_equal(bar_read(f, ISR, 1), 0);
}

static void without_msix_the_isr_tells_once(void **state)
{
	struct fixture *f = *state;

	start(f);
	pci_function_config_write(f->function, f->function->msix_capability + PCI_MSIX_CONTROL, 2,
				  0);
	event_loop_call(f->device.loop, interrupt_queue, f);
	assert_int_equal(bar_read(f, ISR, 1), 1);
	assert_int_equal(bar_read(f, ISR, 1), 0);
}

static void change_config(void *context)
{
	struct fixture *f = context;

	virtio_device_config_changed(&f->device);
}

static void a_changed_configuration_interrupts_and_has_a_new_generation(void **state)
{
	struct fixture *f = *state;
	uint64_t before;

	start(f);
	before = bar_read(f, 21, 1);
	event_loop_call(f->device.loop, change_config, f);
	assert_int_not_equal(bar_read(f, 21, 1), before);
	assert_int_equal(f->last_message, 0x50);
}

static void misbehave(void *context)
{
	struct fixture *f = context;

	virtio_device_needs_reset(&f->device, "it misbehaved");
	virtio_device_needs_reset(&f->device, "and again");
}

static void misbehaviour_is_told_counted_and_described(void **state)
{
	struct fixture *f = *state;
	json_t *object;

	start(f);
	event_loop_call(f->device.loop, misbehave, f);
	assert_true(status(f) & VIRTIO_STATUS_NEEDS_RESET);
	assert_int_equal(f->messages, 1);
	assert_false(virtio_device_running(&f->device));
	object = virtio_device_describe(&f->device);
	assert_int_equal(json_integer_value(json_object_get(object, "violations")), 1);
	assert_string_equal(json_string_value(json_object_get(object, "last-violation")),
			    "it misbehaved");
	assert_int_equal(json_array_size(json_object_get(object, "queues")), QUEUES);
	json_decref(object);
}

static void the_window_in_configuration_space_reaches_the_registers(void **state)
{
	struct fixture *f = *state;
	uint8_t window = 0;

	for (uint8_t offset = 0x40; offset; offset = f->function->config[offset + 1])
		if (f->function->config[offset] == 9 && f->function->config[offset + 3] == 5)
			window = offset;
	pci_function_config_write(f->function, window + 8u, 4, 8); /* driver_feature_select */
	pci_function_config_write(f->function, window + 12u, 4, 4);
	pci_function_config_write(f->function, window + 16u, 4, 0x12345678);
	assert_int_equal(bar_read(f, 8, 4), 0x12345678);
	pci_function_config_write(f->function, window + 8u, 4, 18); /* num_queues */
	pci_function_config_write(f->function, window + 12u, 4, 2);
	assert_int_equal(pci_function_config_read(f->function, window + 16u, 2), QUEUES);
	/* What is not in the BAR is not reached. */
	pci_function_config_write(f->function, window + 8u, 4, 0xfffffffe);
	pci_function_config_write(f->function, window + 16u, 4, 1);
	pci_function_config_write(f->function, window + 4u, 1, 3);
	pci_function_config_read(f->function, window + 16u, 4);
}

static void a_reset_of_the_function_resets_the_device(void **state)
{
	struct fixture *f = *state;

	start(f);
	pci_function_reset(f->function);
	assert_int_equal(f->resets, 1);
	assert_int_equal(f->doorbell_count, 0);
	assert_int_equal(status(f), 0);
	start(f);
	assert_int_equal(f->activations, 2);
	assert_true(virtio_device_running(&f->device));
}

/* The state of @f's device, or of its function, to be freed. */
static uint8_t *save(struct fixture *f, bool function, size_t *size)
{
	struct state_part part = {
	    .version = 1, .visit = pci_function_state, .context = f->function};
	AUTO_STATE struct state *save_state = state_save_begin(false);
	const void *bytes;
	uint8_t *copy;

	if (!function)
		virtio_device_state_part(&f->device, &part);
	assert_null(state_visit(save_state, &part));
	bytes = state_bytes(save_state, size);
	copy = malloc(*size);
	memcpy(copy, bytes, *size);
	return copy;
}

static struct error *load(struct fixture *f, bool function, const uint8_t *bytes, size_t size)
{
	struct state_part part = {
	    .version = 1, .visit = pci_function_state, .context = f->function};
	AUTO_STATE struct state *load_state = state_load_begin(bytes, size, 1);

	if (!function)
		virtio_device_state_part(&f->device, &part);
	return state_visit(load_state, &part);
}

static void move(struct fixture *from, struct fixture *to, bool function_first)
{
	for (int i = 0; i < 2; i++) {
		bool function = function_first == !i;
		size_t size;
		uint8_t *bytes = save(from, function, &size);

		assert_null(load(to, function, bytes, size));
		free(bytes);
	}
}

static void check_a_move(struct fixture *f, bool function_first)
{
	struct fixture *other;
	unsigned int before;
	void *other_state = NULL;

	setup(&other_state);
	other = other_state;
	start(f);
	bar_write(f, 22, 2, 1);
	bar_write(f, CONFIG + 3, 1, 0x77);
	virtio_device_quiesce(&f->device);
	virtio_device_quiesce(&other->device);
	move(f, other, function_first);
	assert_int_equal(other->resumes + other->activations, 0);
	assert_int_equal(other->messages, 0);
	virtio_device_resume(&other->device);
	assert_int_equal(other->resumes, 1);
	assert_int_equal(other->activations, 0);
	/* As the driver left the registers. */
	assert_int_equal(status(other), 0xf);
	for (uint64_t offset = 0; offset < 60; offset += 2)
		assert_int_equal(bar_read(other, offset, 2), bar_read(f, offset, 2));
	assert_int_equal(bar_read(other, 26, 2), 2);
	assert_int_equal(bar_read(other, CONFIG + 3, 1), 0x77);
	/* Every queue was looked at and told. */
	assert_true(notifications(other, 0) >= 1);
	assert_true(notifications(other, 1) >= 1);
	assert_int_equal(other->messages, QUEUES);
	assert_int_equal(other->last_message, 0x52);
	/* Doorbells are where they were. */
	assert_int_equal(other->doorbell_count, QUEUES);
	for (int i = 0; i < QUEUES; i++)
		assert_true(other->doorbells[i] == f->doorbells[i] ||
			    other->doorbells[i] == f->doorbells[1 - i]);
	usleep(5000);
	before = notifications(other, 1);
	bar_write(other, NOTIFY + 4, 2, 1);
	wait_for(&other->notified[1], before + 1);
	teardown(&other_state);
}

static void a_loaded_function_goes_on_where_it_was(void **state)
{
	check_a_move(*state, true);
}

static void a_device_may_be_loaded_before_its_function(void **state)
{
	check_a_move(*state, false);
}

static void a_half_set_up_queue_is_kept(void **state)
{
	struct fixture *f = *state, *other;
	void *other_state = NULL;

	setup(&other_state);
	other = other_state;
	enable_bus(f);
	negotiate(f);
	bar_write(f, 22, 2, 1);
	bar_write(f, 24, 2, 4);
	bar_write(f, 32, 8, RINGS);
	virtio_device_quiesce(&f->device);
	virtio_device_quiesce(&other->device);
	move(f, other, true);
	virtio_device_resume(&other->device);
	assert_int_equal(bar_read(other, 24, 2), 4);
	assert_int_equal(bar_read(other, 28, 2), 0);
	assert_int_equal(bar_read(other, 32, 8), RINGS);
	bar_write(other, 40, 8, RINGS + 0x400);
	bar_write(other, 48, 8, RINGS + 0x800);
	bar_write(other, 28, 2, 1);
	bar_write(other, 20, 1, 0xf);
	assert_int_equal(status(other), 0xf);
	assert_int_equal(other->activations, 1);
	teardown(&other_state);
}

static void a_device_that_may_not_master_the_bus_stays_stopped(void **state)
{
	struct fixture *f = *state, *other;
	void *other_state = NULL;

	setup(&other_state);
	other = other_state;
	start(f);
	pci_function_config_write(f->function, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
	virtio_device_quiesce(&f->device);
	virtio_device_quiesce(&other->device);
	move(f, other, true);
	virtio_device_resume(&other->device);
	assert_int_equal(other->resumes, 0);
	pci_function_config_write(other->function, PCI_COMMAND, 2,
				  PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_int_equal(other->resumes, 0);
	bar_write(other, 20, 1, 0xf); /* a driver that stays takes it up again */
	assert_int_equal(other->resumes, 1);
	assert_int_equal(other->messages, QUEUES);
	teardown(&other_state);
}

static void a_vector_that_does_not_exist_is_refused(void **state)
{
	struct fixture *f = *state, *other;
	void *other_state = NULL;
	struct error *error;
	uint8_t *bytes;
	size_t size;

	setup(&other_state);
	other = other_state;
	start(f);
	virtio_device_quiesce(&f->device);
	virtio_device_quiesce(&other->device);
	bytes = save(f, false, &size);
	bytes[size - 1] = QUEUES + 1; /* the last queue's */
	error = load(other, false, bytes, size);
	assert_non_null(strstr(error_message(error), "queue vector"));
	assert_int_equal(status(other), 0);
	error_free(error);
	free(bytes);
	teardown(&other_state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(the_ids_are_those_of_a_modern_device),
	    TEST(all_structures_are_found_in_the_capabilities),
	    TEST(features_are_read_by_halves),
	    TEST(initialisation_activates_the_device),
	    TEST(features_that_are_not_offered_are_refused),
	    TEST(a_driver_without_version_1_is_refused),
	    TEST(the_device_may_refuse_features),
	    TEST(driver_ok_before_features_ok_needs_a_reset),
	    TEST(status_bits_are_cleared_by_a_reset_only),
	    TEST(a_reset_forgets_what_the_driver_set),
	    TEST(a_queue_in_missing_memory_needs_a_reset),
	    TEST(an_enabled_queue_keeps_its_layout),
	    TEST(a_queue_that_does_not_exist_has_no_size),
	    TEST(a_vector_that_does_not_exist_reads_back_as_none),
	    TEST(odd_accesses_are_as_if_by_bytes),
	    TEST(device_configuration_is_read_and_written),
	    TEST(doorbells_lie_where_the_bar_is),
	    TEST(doorbells_move_with_the_bar),
	    TEST(every_queue_is_looked_at_once_at_the_start),
	    TEST(a_doorbell_notifies_its_queue),
	    TEST(a_doorbell_that_the_host_cannot_watch_comes_through_the_bar),
	    TEST(a_doorbell_before_a_reset_does_not_ring_after_it),
	    TEST(a_queue_with_its_own_loop_is_notified_there),
	    TEST(doorbells_of_a_quiesced_device_are_replayed),
	    TEST(without_bus_mastering_the_device_is_quiesced),
	    TEST(queues_from_before_bus_mastering_went_off_are_not_used),
	    TEST(a_driver_takes_its_queues_up_again_with_driver_ok),
	    TEST(a_driver_that_is_ready_before_bus_mastering_starts_with_it),
	    TEST(a_queue_interrupts_through_its_vector),
	    TEST(without_msix_the_isr_tells_once),
	    TEST(a_changed_configuration_interrupts_and_has_a_new_generation),
	    TEST(misbehaviour_is_told_counted_and_described),
	    TEST(the_window_in_configuration_space_reaches_the_registers),
	    TEST(a_reset_of_the_function_resets_the_device),
	    TEST(a_loaded_function_goes_on_where_it_was),
	    TEST(a_device_may_be_loaded_before_its_function),
	    TEST(a_half_set_up_queue_is_kept),
	    TEST(a_device_that_may_not_master_the_bus_stays_stopped),
	    TEST(a_vector_that_does_not_exist_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
