/* SPDX-License-Identifier: BSD-2-Clause */
/* Configuration space, BARs and MSI-X of a PCI function, with a host that writes down what it is
 * asked. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "pci/pci_function.h"
#include "pci/pci_registers.h"

#define BAR_SIZE    0x8000ULL
#define TABLE	    0x3000
#define PBA	    0x4000
#define VECTORS	    3
#define MSI_ADDRESS 0xfee01000ULL

struct fixture {
	struct pci_function function;
	uint8_t msix; /* offset of the capability */
	/* What the host was told. */
	uint64_t bar_address;
	bool bar_enabled;
	unsigned int bar_changes;
	unsigned int messages;
	uint64_t message_address;
	uint32_t message_data;
	int bind_result;
	unsigned int binds, unbinds;
	int bound_fd;
	uint32_t bound_data;
	/* What the function was told. */
	uint64_t last_offset;
	uint32_t last_size;
	unsigned int bar_writes, bar_moves, resets;
	bool bus_master;
};

static void bar_changed(void *host, struct pci_function *function, int bar, uint64_t address,
			uint64_t size, bool enabled)
{
	struct fixture *f = host;

	f->bar_address = address;
	f->bar_enabled = enabled;
	f->bar_changes++;
}

static void send_msi(void *host, uint64_t address, uint32_t data)
{
	struct fixture *f = host;

	f->messages++;
	f->message_address = address;
	f->message_data = data;
}

static int bind_msi_fd(void *host, int fd, uint64_t address, uint32_t data, int *route)
{
	struct fixture *f = host;

	if (f->bind_result)
		return f->bind_result;
	f->binds++;
	f->bound_fd = fd;
	f->bound_data = data;
	*route = 7;
	return 0;
}

static void unbind_msi_fd(void *host, int fd, int route)
{
	struct fixture *f = host;

	assert_int_equal(fd, f->bound_fd);
	assert_int_equal(route, 7);
	f->unbinds++;
}

static const struct pci_host_ops host_ops = {
    .bar_changed = bar_changed,
    .send_msi = send_msi,
    .bind_msi_fd = bind_msi_fd,
    .unbind_msi_fd = unbind_msi_fd,
};

static struct fixture *from_function(struct pci_function *function)
{
	return (struct fixture *)(void *)function; /* its first member */
}

static void bar_read(struct pci_function *function, int bar, uint64_t offset, void *data,
		     uint32_t size)
{
	memset(data, 0x5a, size);
}

static void bar_write(struct pci_function *function, int bar, uint64_t offset, const void *data,
		      uint32_t size)
{
	struct fixture *f = from_function(function);

	f->bar_writes++;
	f->last_offset = offset;
	f->last_size = size;
}

static void bar_moved(struct pci_function *function, int bar)
{
	from_function(function)->bar_moves++;
}

static void bus_master_changed(struct pci_function *function, bool enabled)
{
	from_function(function)->bus_master = enabled;
}

static void reset(struct pci_function *function)
{
	from_function(function)->resets++;
}

static const struct pci_function_ops function_ops = {
    .bar_read = bar_read,
    .bar_write = bar_write,
    .bar_moved = bar_moved,
    .bus_master_changed = bus_master_changed,
    .reset = reset,
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	pci_function_init(&f->function, &function_ops, "test", 0x1af4, 0x1042, 1, 0x010000, 0x1af4,
			  0x1042);
	pci_function_add_bar(&f->function, 0, BAR_SIZE, true, true);
	pci_function_add_bar(&f->function, 2, 0x1000, false, false);
	assert_null(pci_function_add_msix(&f->function, VECTORS, 0, TABLE, PBA));
	f->msix = f->function.msix_capability;
	f->function.host_ops = &host_ops;
	f->function.host = f;
	f->bind_result = -ENOTSUP;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	pci_function_cleanup(&f->function);
	assert_int_equal(f->binds ? f->unbinds > 0 : 0, f->binds > 0);
	free(f);
	return 0;
}

static uint32_t read_config(struct fixture *f, uint32_t offset, uint32_t size)
{
	return pci_function_config_read(&f->function, offset, size);
}

static void write_config(struct fixture *f, uint32_t offset, uint32_t size, uint32_t value)
{
	pci_function_config_write(&f->function, offset, size, value);
}

static void set_command(struct fixture *f, uint16_t command)
{
	write_config(f, PCI_COMMAND, 2, command);
}

static void set_msix(struct fixture *f, uint16_t control)
{
	write_config(f, f->msix + PCI_MSIX_CONTROL, 2, control);
}

static void write_table(struct fixture *f, uint32_t vector, uint32_t field, uint32_t value)
{
	uint8_t bytes[4];

	put_le32(bytes, value);
	pci_function_bar_write(&f->function, 0, TABLE + vector * 16 + field, bytes, 4);
}

static uint32_t read_table(struct fixture *f, uint32_t vector, uint32_t field)
{
	uint8_t bytes[4];

	pci_function_bar_read(&f->function, 0, TABLE + vector * 16 + field, bytes, 4);
	return get_le32(bytes);
}

static uint64_t read_pba(struct fixture *f)
{
	uint8_t bytes[8];

	pci_function_bar_read(&f->function, 0, PBA, bytes, 8);
	return get_le64(bytes);
}

static void open_vector(struct fixture *f, uint32_t vector)
{
	write_table(f, vector, 0, (uint32_t)MSI_ADDRESS);
	write_table(f, vector, 4, 0);
	write_table(f, vector, 8, 0x40 + vector);
	write_table(f, vector, 12, 0);
}

/* As a driver leaves it: MSI-X on, vector 1 open. */
static void start_msix(struct fixture *f)
{
	set_command(f, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	set_msix(f, PCI_MSIX_CONTROL_ON);
	open_vector(f, 1);
}

static void the_header_says_what_it_is(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(read_config(f, 0, 4), 0x10421af4);
	assert_int_equal(read_config(f, 8, 4), 0x01000001);
	assert_int_equal(read_config(f, 0x2c, 4), 0x10421af4);
	assert_int_equal(read_config(f, PCI_STATUS, 2) & 0x10, 0x10);
}

static void ids_cannot_be_written(void **state)
{
	struct fixture *f = *state;

	write_config(f, 0, 4, 0);
	assert_int_equal(read_config(f, 0, 4), 0x10421af4);
}

static void only_known_command_bits_stick(void **state)
{
	struct fixture *f = *state;

	set_command(f, 0xffff);
	assert_int_equal(read_config(f, PCI_COMMAND, 2), 0x0406);
}

static void extended_space_reads_zeros(void **state)
{
	struct fixture *f = *state;

	write_config(f, 0x100, 4, UINT32_MAX);
	assert_int_equal(read_config(f, 0x100, 4), 0);
	assert_int_equal(read_config(f, 0xffc, 4), 0);
}

static void a_wide_bar_tells_its_size(void **state)
{
	struct fixture *f = *state;

	write_config(f, PCI_BAR_0, 4, UINT32_MAX);
	write_config(f, PCI_BAR_0 + 4, 4, UINT32_MAX);
	assert_int_equal(read_config(f, PCI_BAR_0, 4), 0xffff800c);
	assert_int_equal(read_config(f, PCI_BAR_0 + 4, 4), UINT32_MAX);
}

static void a_bar_that_does_not_exist_reads_zeros(void **state)
{
	struct fixture *f = *state;

	write_config(f, PCI_BAR_0 + 12, 4, UINT32_MAX);
	assert_int_equal(read_config(f, PCI_BAR_0 + 12, 4), 0);
}

static void a_bar_answers_only_while_decoding_is_on(void **state)
{
	struct fixture *f = *state;

	pci_function_set_bar_address(&f->function, 0, 0x4000000000);
	assert_false(f->bar_enabled);
	set_command(f, PCI_COMMAND_MEMORY);
	assert_true(f->bar_enabled);
	assert_int_equal(f->bar_address, 0x4000000000);
	set_command(f, 0);
	assert_false(f->bar_enabled);
}

static void an_unassigned_bar_does_not_answer(void **state)
{
	struct fixture *f = *state;

	set_command(f, PCI_COMMAND_MEMORY);
	assert_int_equal(f->bar_changes, 0);
}

static void sizing_with_decoding_on_does_not_answer_at_the_top(void **state)
{
	struct fixture *f = *state;

	pci_function_set_bar_address(&f->function, 2, 0xe0000000);
	set_command(f, PCI_COMMAND_MEMORY);
	assert_true(f->bar_enabled);
	write_config(f, PCI_BAR_0 + 8, 4, UINT32_MAX);
	assert_false(f->bar_enabled);
	write_config(f, PCI_BAR_0 + 8, 4, 0xe0000000);
	assert_true(f->bar_enabled);
}

static void a_moved_bar_leaves_its_old_place_first(void **state)
{
	struct fixture *f = *state;

	pci_function_set_bar_address(&f->function, 2, 0xe0000000);
	set_command(f, PCI_COMMAND_MEMORY);
	f->bar_changes = 0;
	write_config(f, PCI_BAR_0 + 8, 4, 0xe1000000);
	assert_int_equal(f->bar_changes, 2);
	assert_true(f->bar_enabled);
	assert_int_equal(f->bar_address, 0xe1000000);
}

static void accesses_outside_of_a_bar_read_ones_and_write_nothing(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[8];

	pci_function_bar_read(&f->function, 0, BAR_SIZE - 4, bytes, 8);
	assert_int_equal(get_le64(bytes), UINT64_MAX);
	pci_function_bar_write(&f->function, 0, BAR_SIZE, bytes, 1);
	pci_function_bar_write(&f->function, 0, UINT64_MAX, bytes, 8);
	pci_function_bar_write(&f->function, 4, 0, bytes, 1);
	assert_int_equal(f->bar_writes, 0);
}

static void capabilities_are_linked_and_run_out(void **state)
{
	struct fixture *f = *state;
	uint8_t body[14] = {0}, offset = f->msix, next;
	int count = 0;

	while ((next = pci_function_add_capability(&f->function, 9, body, sizeof(body)))) {
		assert_int_equal(f->function.config[offset + 1], next);
		assert_int_equal(next % 4, 0);
		offset = next;
		count++;
	}
	assert_int_equal(count, (256 - 0x40 - 12) / 16);
}

static void msix_that_does_not_fit_is_refused(void **state)
{
	struct fixture *f = *state;
	struct error *error = pci_function_add_msix(&f->function, 256, 2, 0, 0x800);

	assert_non_null(error);
	error_free(error);
}

static void an_open_vector_sends_its_message(void **state)
{
	struct fixture *f = *state;

	start_msix(f);
	pci_function_msix_notify(&f->function, 1);
	assert_int_equal(f->messages, 1);
	assert_int_equal(f->message_address, MSI_ADDRESS);
	assert_int_equal(f->message_data, 0x41);
	assert_int_equal(read_pba(f), 0);
}

static void a_vector_that_does_not_exist_is_ignored(void **state)
{
	struct fixture *f = *state;

	start_msix(f);
	pci_function_msix_notify(&f->function, VECTORS);
	pci_function_msix_notify(&f->function, 0xffff);
	assert_int_equal(f->messages, 0);
}

static void vectors_start_masked(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(read_table(f, 0, 12), 1);
}

static void a_masked_vector_waits_until_it_is_unmasked(void **state)
{
	struct fixture *f = *state;

	start_msix(f);
	write_table(f, 1, 12, 1);
	pci_function_msix_notify(&f->function, 1);
	pci_function_msix_notify(&f->function, 1);
	assert_int_equal(f->messages, 0);
	assert_int_equal(read_pba(f), 2);
	write_table(f, 1, 12, 0);
	assert_int_equal(f->messages, 1);
	assert_int_equal(read_pba(f), 0);
}

static void the_function_mask_holds_all(void **state)
{
	struct fixture *f = *state;

	start_msix(f);
	open_vector(f, 2);
	set_msix(f, PCI_MSIX_CONTROL_ON | PCI_MSIX_CONTROL_MASK);
	pci_function_msix_notify(&f->function, 1);
	pci_function_msix_notify(&f->function, 2);
	assert_int_equal(f->messages, 0);
	assert_int_equal(read_pba(f), 6);
	set_msix(f, PCI_MSIX_CONTROL_ON);
	assert_int_equal(f->messages, 2);
}

static void without_bus_mastering_interrupts_wait(void **state)
{
	struct fixture *f = *state;

	start_msix(f);
	set_command(f, PCI_COMMAND_MEMORY);
	assert_false(f->bus_master);
	pci_function_msix_notify(&f->function, 1);
	assert_int_equal(f->messages, 0);
	set_command(f, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
	assert_true(f->bus_master);
	assert_int_equal(f->messages, 1);
}

static void without_msix_interrupts_vanish(void **state)
{
	struct fixture *f = *state;

	start_msix(f);
	set_msix(f, 0);
	pci_function_msix_notify(&f->function, 1);
	assert_int_equal(read_pba(f), 0);
	set_msix(f, PCI_MSIX_CONTROL_ON);
	assert_int_equal(f->messages, 0);
}

static void pending_bits_cannot_be_written(void **state)
{
	struct fixture *f = *state;
	uint8_t ones[8];

	memset(ones, 0xff, sizeof(ones));
	start_msix(f);
	pci_function_bar_write(&f->function, 0, PBA, ones, 8);
	assert_int_equal(read_pba(f), 0);
	assert_int_equal(f->bar_writes, 0);
}

static void a_table_entry_takes_quadwords(void **state)
{
	struct fixture *f = *state;
	uint8_t bytes[8];

	put_le64(bytes, 0x123456789abcdef0);
	pci_function_bar_write(&f->function, 0, TABLE, bytes, 8);
	assert_int_equal(read_table(f, 0, 0), 0x9abcdef0);
	assert_int_equal(read_table(f, 0, 4), 0x12345678);
	memset(bytes, 0, sizeof(bytes));
	pci_function_bar_read(&f->function, 0, TABLE, bytes, 8);
	assert_int_equal(get_le64(bytes), 0x123456789abcdef0);
}

static void bytes_do_not_change_a_table_entry(void **state)
{
	struct fixture *f = *state;
	uint8_t zero = 0;

	pci_function_bar_write(&f->function, 0, TABLE + 12, &zero, 1);
	assert_int_equal(read_table(f, 0, 12), 1);
}

static void an_irqfd_is_bound_when_a_vector_first_fires(void **state)
{
	struct fixture *f = *state;
	uint64_t count;

	f->bind_result = 0;
	start_msix(f);
	assert_int_equal(f->binds, 0);
	pci_function_msix_notify(&f->function, 1);
	pci_function_msix_notify(&f->function, 1);
	assert_int_equal(f->binds, 1);
	assert_int_equal(f->messages, 0);
	assert_int_equal(read(f->bound_fd, &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 2);
}

static void a_changed_message_is_bound_anew(void **state)
{
	struct fixture *f = *state;

	f->bind_result = 0;
	start_msix(f);
	pci_function_msix_notify(&f->function, 1);
	write_table(f, 1, 8, 0x99);
	pci_function_msix_notify(&f->function, 1);
	assert_int_equal(f->binds, 2);
	assert_int_equal(f->bound_data, 0x99);
	assert_int_equal(f->unbinds, 0);
}

static void switching_msix_off_unbinds(void **state)
{
	struct fixture *f = *state;

	f->bind_result = 0;
	start_msix(f);
	pci_function_msix_notify(&f->function, 1);
	set_msix(f, 0);
	assert_int_equal(f->unbinds, 1);
}

/* --- Interrupts from another process ----------------------------------------------------------- */

#define THEIR_FD 1000

static void another_process_interrupts_while_the_vector_is_open(void **state)
{
	struct fixture *f = *state;

	f->bind_result = 0;
	pci_function_msix_connect(&f->function, 1, THEIR_FD);
	assert_int_equal(f->binds, 0);
	start_msix(f);
	assert_int_equal(f->binds, 1);
	assert_int_equal(f->bound_fd, THEIR_FD);
	write_table(f, 1, 12, 1);
	assert_int_equal(f->unbinds, 1);
	write_table(f, 1, 12, 0);
	assert_int_equal(f->binds, 2);
	pci_function_msix_disconnect(&f->function, 1, THEIR_FD);
	assert_int_equal(f->unbinds, 2);
	write_table(f, 1, 12, 1);
	write_table(f, 1, 12, 0);
	assert_int_equal(f->binds, 2);
}

static void another_process_sends_the_message_as_it_is_now(void **state)
{
	struct fixture *f = *state;

	f->bind_result = 0;
	start_msix(f);
	pci_function_msix_connect(&f->function, 1, THEIR_FD);
	write_table(f, 1, 8, 0x99);
	assert_int_equal(f->bound_data, 0x99);
	assert_int_equal(f->bound_fd, THEIR_FD);
	assert_int_equal(f->unbinds, 0);
}

static void another_process_is_cut_off_when_interrupts_are(void **state)
{
	struct fixture *f = *state;

	f->bind_result = 0;
	start_msix(f);
	pci_function_msix_connect(&f->function, 1, THEIR_FD);
	set_msix(f, 0);
	assert_int_equal(f->unbinds, 1);
	set_msix(f, PCI_MSIX_CONTROL_ON);
	assert_int_equal(f->binds, 2);
	pci_function_reset(&f->function);
	assert_int_equal(f->unbinds, 2);
}

static void a_vector_has_one_other_process(void **state)
{
	struct fixture *f = *state;

	f->bind_result = 0;
	start_msix(f);
	pci_function_msix_connect(&f->function, 1, THEIR_FD);
	pci_function_msix_connect(&f->function, 1, THEIR_FD + 1);
	pci_function_msix_disconnect(&f->function, 1, THEIR_FD + 1);
	pci_function_msix_connect(&f->function, VECTORS, THEIR_FD + 2);
	assert_int_equal(f->binds, 1);
	assert_int_equal(f->bound_fd, THEIR_FD);
	assert_int_equal(f->unbinds, 0);
}

static void a_reset_keeps_addresses_and_nothing_else(void **state)
{
	struct fixture *f = *state;

	pci_function_set_bar_address(&f->function, 0, 0x4000000000);
	start_msix(f);
	pci_function_reset(&f->function);
	assert_int_equal(f->resets, 1);
	assert_false(f->bar_enabled);
	assert_false(f->bus_master);
	assert_int_equal(read_config(f, PCI_COMMAND, 2), 0);
	assert_int_equal(read_config(f, PCI_BAR_0 + 4, 4), 0x40);
	assert_int_equal(read_config(f, f->msix + PCI_MSIX_CONTROL, 2), VECTORS - 1);
	assert_int_equal(read_table(f, 1, 12), 1);
	assert_int_equal(read_table(f, 1, 8), 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
	    TEST(the_header_says_what_it_is),
	    TEST(ids_cannot_be_written),
	    TEST(only_known_command_bits_stick),
	    TEST(extended_space_reads_zeros),
	    TEST(a_wide_bar_tells_its_size),
	    TEST(a_bar_that_does_not_exist_reads_zeros),
	    TEST(a_bar_answers_only_while_decoding_is_on),
	    TEST(an_unassigned_bar_does_not_answer),
	    TEST(sizing_with_decoding_on_does_not_answer_at_the_top),
	    TEST(a_moved_bar_leaves_its_old_place_first),
	    TEST(accesses_outside_of_a_bar_read_ones_and_write_nothing),
	    TEST(capabilities_are_linked_and_run_out),
	    TEST(msix_that_does_not_fit_is_refused),
	    TEST(an_open_vector_sends_its_message),
	    TEST(a_vector_that_does_not_exist_is_ignored),
	    TEST(vectors_start_masked),
	    TEST(a_masked_vector_waits_until_it_is_unmasked),
	    TEST(the_function_mask_holds_all),
	    TEST(without_bus_mastering_interrupts_wait),
	    TEST(without_msix_interrupts_vanish),
	    TEST(pending_bits_cannot_be_written),
	    TEST(a_table_entry_takes_quadwords),
	    TEST(bytes_do_not_change_a_table_entry),
	    TEST(an_irqfd_is_bound_when_a_vector_first_fires),
	    TEST(another_process_interrupts_while_the_vector_is_open),
	    TEST(another_process_sends_the_message_as_it_is_now),
	    TEST(another_process_is_cut_off_when_interrupts_are),
	    TEST(a_vector_has_one_other_process),
	    TEST(a_changed_message_is_bound_anew),
	    TEST(switching_msix_off_unbinds),
	    TEST(a_reset_keeps_addresses_and_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
