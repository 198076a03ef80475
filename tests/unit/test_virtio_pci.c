/* SPDX-License-Identifier: BSD-2-Clause */
/* The PCI transport as a driver sees it, with the device's loop on a thread of its own. */
#include "virtio_pci_fixture.h"

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
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
