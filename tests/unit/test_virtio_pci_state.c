/* SPDX-License-Identifier: BSD-2-Clause */
/* The state of the PCI transport and its device: saved, loaded into another one, and refused. */
#include "virtio_pci_fixture.h"

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
	    TEST(a_loaded_function_goes_on_where_it_was),
	    TEST(a_device_may_be_loaded_before_its_function),
	    TEST(a_half_set_up_queue_is_kept),
	    TEST(a_device_that_may_not_master_the_bus_stays_stopped),
	    TEST(a_vector_that_does_not_exist_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
